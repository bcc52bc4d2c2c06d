//! The storage alone: what counts, what is kept, what is noticed.

use std::{path::Path, sync::Arc};

use sha1::{Digest as _, Sha1};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;
use crate::swarm::Role;

const PIECE: u32 = 512 << 10;

fn artifact(size: usize) -> (Vec<u8>, Arc<Metainfo>) {
    let mut bytes = vec![0; size];
    fastrand::Rng::with_seed(9).fill(&mut bytes);
    let pieces = bytes.chunks(PIECE as usize).map(|piece| Sha1::digest(piece).into()).collect();
    (bytes, Arc::new(Metainfo::new("a", size as u64, PIECE, pieces).unwrap()))
}

fn open(meta: &Arc<Metainfo>, path: &Path) -> (Storage, Threads, PieceSet) {
    Storage::open(meta.clone(), &Role::Host { file: path.to_owned() }).unwrap()
}

/// Stores a piece the way a connection does.
async fn store(storage: &Storage, piece: u32, bytes: &[u8]) -> Checked {
    let claim = storage.claim(piece);
    let mut hasher = Sha1::default();
    let chunks: Vec<&[u8]> = bytes.chunks(CHUNK as usize).collect();
    let (last, before) = chunks.split_last().unwrap();
    for (index, chunk) in before.iter().enumerate() {
        let data = Bytes::copy_from_slice(chunk);
        let number = claim.as_ref().unwrap().number();
        hasher = storage.append(piece, index as u32 * CHUNK, data, hasher, number).await.unwrap().unwrap();
    }
    let (sender, answer) = oneshot::channel();
    let report = Box::new(move |checked| sender.send(checked).unwrap());
    let offset = before.len() as u32 * CHUNK;
    storage.reserve(piece).await.unwrap().finish(offset, Bytes::copy_from_slice(last), hasher, claim, report);
    answer.await.unwrap()
}

#[tokio::test]
async fn only_right_pieces_count_and_they_survive() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("partial");
    let (bytes, meta) = artifact(PIECE as usize * 2 + 1000);
    let (storage, threads, have) = open(&meta, &path);
    assert!(have.is_empty());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), meta.length(), "the file has its full size from the start");
    let mut wrong = bytes[..PIECE as usize].to_vec();
    wrong[5] ^= 1;
    assert!(matches!(store(&storage, 0, &wrong).await, Checked::Bad));
    assert!(!storage.has(0));
    assert!(matches!(store(&storage, 0, &bytes[..PIECE as usize]).await, Checked::Good));
    assert!(matches!(store(&storage, 2, &bytes[2 * PIECE as usize..]).await, Checked::Good));
    assert_eq!(storage.read(2, 0).await.unwrap(), bytes[2 * PIECE as usize..]);
    // A verified piece stays as it is, whoever sends another.
    assert!(matches!(store(&storage, 0, &wrong).await, Checked::Bad));
    drop(storage);
    threads.join().await;

    let (storage, threads, have) = open(&meta, &path);
    assert_eq!(have.iter().collect::<Vec<_>>(), [0, 2]);
    assert_eq!(storage.read(0, 1).await.unwrap(), bytes[CHUNK as usize..PIECE as usize]);
    drop(storage);
    threads.join().await;
}

#[tokio::test]
async fn a_long_piece_has_one_writer_at_a_time() {
    let dir = TempDir::new().unwrap();
    let (_, meta) = artifact(PIECE as usize);
    let (storage, threads, _) = open(&meta, &dir.path().join("partial"));
    let claim = storage.claim(0);
    assert!(claim.is_some() && storage.claim(0).is_none());
    let number = claim.as_ref().unwrap().number();
    drop(claim);
    let next = storage.claim(0);
    assert!(next.is_some());
    let late = storage.append(0, 0, Bytes::from_static(&[0; 10]), Sha1::default(), number).await.unwrap();
    assert!(late.is_none(), "a writer wrote after it gave its claim back");
    drop(next);
    drop(storage);
    threads.join().await;
}

#[tokio::test]
async fn a_longer_or_shorter_leftover_is_cut_and_checked() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("partial");
    let (bytes, meta) = artifact(PIECE as usize + 1000);
    std::fs::write(&path, [&bytes[..], &[1; 5000]].concat()).unwrap();
    let (storage, threads, have) = open(&meta, &path);
    assert!(have.is_full());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), meta.length());
    drop(storage);
    threads.join().await;
}

#[tokio::test]
async fn a_seed_notices_a_change_before_the_piece_leaves() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("artifact");
    let (mut bytes, meta) = artifact(PIECE as usize * 2);
    std::fs::write(&path, &bytes).unwrap();
    let (storage, threads, have) = Storage::open(meta.clone(), &Role::Seed { file: path.clone() }).unwrap();
    assert!(have.is_full());
    assert_eq!(storage.read(0, 0).await.unwrap(), bytes[..CHUNK as usize]);
    bytes[PIECE as usize + 7] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = storage.read(1, 0).await.unwrap_err();
    assert!(matches!(error, EngineError::SourceChanged { piece: 1, .. }), "{error:?}");
    drop(storage);
    threads.join().await;
}

/// A directory `dist` with files of these lengths, and its torrent.
fn directory(dir: &Path, lengths: &[(&str, usize)]) -> (Vec<u8>, Arc<Metainfo>) {
    let root = dir.join("dist");
    let mut blob = Vec::new();
    let mut random = fastrand::Rng::with_seed(4);
    for (path, length) in lengths {
        let mut content = vec![0; *length];
        random.fill(&mut content);
        std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        std::fs::write(root.join(path), &content).unwrap();
        blob.extend(content);
    }
    let hashed = crate::artifact::hash_tree(&root, |_| PIECE, &|_| ()).unwrap();
    (blob, Arc::new(Metainfo::of_tree("dist", Arc::new(hashed.tree), PIECE, hashed.pieces).unwrap()))
}

/// Reads all pieces.
async fn read_all(storage: &Storage, meta: &Metainfo) -> Result<Vec<u8>, EngineError> {
    let mut bytes = Vec::new();
    for piece in 0..meta.piece_count() {
        for chunk in 0..meta.piece_size(piece).unwrap().div_ceil(CHUNK) {
            bytes.extend(storage.read(piece, chunk).await?);
        }
    }
    Ok(bytes)
}

#[tokio::test]
async fn a_directory_is_read_as_one_and_a_change_names_the_file() {
    // More than may stay open, and pieces with many files and files with many pieces.
    let names: Vec<String> = (0..100).map(|n| format!("many/{n:03}")).collect();
    let mut files = vec![("a/large", PIECE as usize * 2 + 5)];
    files.extend(names.iter().map(|name| (name.as_str(), 1000)));
    files.extend([("none", 0), ("z", PIECE as usize)]);
    let dir = TempDir::new().unwrap();
    let (blob, meta) = directory(dir.path(), &files);
    let root = dir.path().join("dist");
    let open = || Storage::open(meta.clone(), &Role::Seed { file: root.clone() });
    let (storage, threads, have) = open().unwrap();
    assert!(have.is_full());
    assert!(read_all(&storage, &meta).await.unwrap() == blob);
    drop(storage);
    threads.join().await;
    let (storage, threads, _) = open().unwrap();
    assert!(storage.read(0, 0).await.unwrap() == blob[..CHUNK as usize]);
    std::fs::write(root.join("many/050"), vec![1; 1000]).unwrap();
    match read_all(&storage, &meta).await {
        Err(EngineError::SourceChanged { path, piece: 2 }) => assert_eq!(path, root.join("many/050")),
        other => panic!("{:?}", other.err()),
    }
    drop(storage);
    threads.join().await;

    // The same size and looked at only now: the pieces' hashes tell.
    let (storage, threads, _) = open().unwrap();
    assert!(matches!(read_all(&storage, &meta).await, Err(EngineError::SourceChanged { piece: 2, .. })));
    drop(storage);
    threads.join().await;
    for (what, change) in [
        ("shorter", &(|| std::fs::write(root.join("z"), "short").unwrap()) as &dyn Fn()),
        ("a link", &|| {
            std::fs::remove_file(root.join("z")).unwrap();
            std::os::unix::fs::symlink("a/large", root.join("z")).unwrap();
        }),
    ] {
        change();
        match open() {
            Err(EngineError::SourceChanged { path, .. }) => assert_eq!(path, root.join("z"), "{what}"),
            other => panic!("{what}: {:?}", other.err()),
        }
    }
}

#[tokio::test]
async fn a_directory_without_bytes_is_one_zero() {
    let dir = TempDir::new().unwrap();
    let (_, meta) = directory(dir.path(), &[("none", 0)]);
    let (storage, threads, _) = Storage::open(meta.clone(), &Role::Seed { file: dir.path().join("dist") }).unwrap();
    assert_eq!(read_all(&storage, &meta).await.unwrap(), [0]);
    drop(storage);
    threads.join().await;
}
