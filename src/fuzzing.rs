//! Entrances for the fuzzer in `tests/fuzz`, one for each parser of what others wrote. Only there with `--cfg fuzzing`.
//!
//! Each takes any bytes and must come back: without a panic, in bounded time and memory. What it reads is looked at as far as the program
//! would look at it.

use std::{
    cell::OnceCell,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    artifact::{self, UnpackLimits},
    controller,
    inventory::Inventory,
    model::{
        ArchiveKind, Digest,
        trust::{Statement, TrustedKey},
    },
    playbook::Playbook,
    ssh::{
        allowed_signers,
        known_hosts::{HostId, HostKeys, KnownHosts},
    },
    swarm::{self, ForeignTorrent, Metainfo},
    tracker,
    wire::{self, FromAgent, ToAgent},
};

/// An entrance.
pub type Target = fn(&[u8]);

/// All entrances, by name.
pub const TARGETS: [(&str, Target); 14] = [
    ("inventory", inventory),
    ("patterns", patterns),
    ("playbook", playbook),
    ("known_hosts", known_hosts),
    ("allowed_signers", signers),
    ("credentials", credentials),
    ("frames", frames),
    ("messages", swarm::fuzzing::messages),
    ("metainfo", metainfo),
    ("tracker_query", tracker::read_any_query),
    ("tracker_reply", swarm::fuzzing::tracker_reply),
    ("origin_reply", swarm::fuzzing::origin_reply),
    ("archives", archives),
    ("signatures", signatures),
];

thread_local! {
    static PLACE: OnceCell<PathBuf> = const { OnceCell::new() };
}

/// A directory of this process, in memory where there is a file system for that.
fn place() -> PathBuf {
    PLACE.with(|place| {
        let make = || {
            let memory = Path::new("/dev/shm");
            let below = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
            let place = below.join(format!("fleetdrop-fuzz-{}", std::process::id()));
            let _ = fs::create_dir_all(&place);
            place
        };
        place.get_or_init(make).clone()
    })
}

fn file(bytes: &[u8]) -> PathBuf {
    let path = place().join("input");
    let _ = fs::write(&path, bytes);
    path
}

fn inventory(bytes: &[u8]) {
    if let Ok(loaded) = Inventory::load(&file(bytes)) {
        let _ = loaded.inventory.select(None).map(|hosts| hosts.iter().take(50).for_each(|host| drop(host.vars.to_json())));
    }
}

fn patterns(bytes: &[u8]) {
    const FLEET: &str = "all: {children: {web: {hosts: {'web[01:20].example.com': }}, db: {hosts: {db-a: , db-b: }}}}";
    let Ok(limit) = str::from_utf8(bytes) else { return };
    if let Ok(loaded) = Inventory::load(&file(FLEET.as_bytes())) {
        let _ = loaded.inventory.select(Some(limit));
    }
}

fn playbook(bytes: &[u8]) {
    let _ = Playbook::load(&file(bytes));
}

fn known_hosts(bytes: &[u8]) {
    let known = KnownHosts::parse(Path::new("known_hosts"), bytes);
    for port in [22, 2222] {
        let keys = HostKeys::find([&known], &HostId::new("web1.example.com", port));
        let _ = (keys.check(b"key"), keys.key_types(), keys.has_authority());
    }
}

fn signers(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = allowed_signers(text, SystemTime::UNIX_EPOCH);
    }
}

fn credentials(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = controller::read_credentials(text);
    }
}

/// What a host's agent says, and what an agent hears.
fn frames(bytes: &[u8]) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
    runtime.block_on(async {
        let mut stream = bytes;
        while let Ok(Some(_)) = wire::read_frame::<FromAgent>(&mut stream).await {}
        let mut stream = bytes;
        while let Ok(Some(message)) = wire::read_frame::<ToAgent>(&mut stream).await {
            let _: ToAgent = message;
        }
    });
}

fn metainfo(bytes: &[u8]) {
    let _ = ForeignTorrent::read(bytes);
    if let Ok(metainfo) = Metainfo::from_info_bytes(bytes) {
        let _ = (metainfo.piece_hash(metainfo.piece_count() - 1), metainfo.parts(0..metainfo.length()).count());
    }
}

/// The first byte chooses the kind.
fn archives(bytes: &[u8]) {
    const KINDS: [ArchiveKind; 6] =
        [ArchiveKind::Tar, ArchiveKind::TarZst, ArchiveKind::TarGz, ArchiveKind::TarXz, ArchiveKind::TarBz2, ArchiveKind::Zip];
    let Some((kind, archive)) = bytes.split_first() else { return };
    let kind = KINDS[usize::from(*kind) % KINDS.len()];
    let dest = place().join("release");
    // As much as the fuzzer's own limits bear.
    let limits =
        UnpackLimits { entries: 1000, bytes: 16 << 20, ratio_from: 1 << 20, window: 8 << 20, ..UnpackLimits::default() };
    let _ = artifact::unpack(&file(archive), kind, "input", &dest, &limits, &|| false);
    let _ = artifact::remove_tree(&dest);
}

/// A statement, a signature and a key, with zeros between them.
fn signatures(bytes: &[u8]) {
    let mut parts = bytes.split(|byte| *byte == 0).map(|part| str::from_utf8(part).unwrap_or_default());
    let (statement, signature, key) =
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let keys: Vec<TrustedKey> = key.parse().into_iter().collect();
    let _ = artifact::verify_signature(statement.as_bytes(), signature, &keys);
    let _ = (Statement::read(statement), key.parse::<Digest>());
}
