//! Private key files: read once a run, unlocked at most once, never written.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use russh::keys::{Certificate, PrivateKey, PublicKey, decode_secret_key};
use tokio::sync::OnceCell;

use super::PassphrasePrompt;

/// The largest key file that is read; real ones have a few KiB.
const MAX_FILE: u64 = 1 << 20;
/// How often a wrong passphrase may be corrected.
const PROMPTS: usize = 3;

/// The run's key files. Hosts share them, so each is read and asked for once.
pub(super) struct KeyRing {
    prompt: Option<PassphrasePrompt>,
    files: Mutex<HashMap<PathBuf, Arc<KeyFile>>>,
}

/// One key file.
pub(super) struct KeyFile {
    path: PathBuf,
    content: OnceCell<KeyContent>,
    unlocked: OnceCell<Result<Arc<PrivateKey>, String>>,
}

/// What a key file holds.
pub(super) enum KeyContent {
    /// There is no such file.
    Missing,
    /// A key that needs no passphrase.
    Open(Arc<PrivateKey>),
    /// A key that needs one; the public half, where the file says it.
    Locked(Option<PublicKey>),
    /// Only the public half: the agent must have the rest.
    Public(PublicKey),
    /// Something that can't be used, and why.
    Unusable(String),
}

impl KeyRing {
    pub(super) fn new(prompt: Option<PassphrasePrompt>) -> Self {
        Self { prompt, files: Mutex::default() }
    }

    /// True if somebody can be asked for a passphrase.
    pub(super) fn can_ask(&self) -> bool {
        self.prompt.is_some()
    }

    /// True if the file was unlocked with a passphrase in this run.
    pub(super) fn was_unlocked(&self, path: &Path) -> bool {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.get(path).is_some_and(|file| file.unlocked.get().is_some_and(Result::is_ok))
    }

    /// Returns the file's entry; nothing is read yet.
    pub(super) fn file(&self, path: &Path) -> Arc<KeyFile> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = files.entry(path.to_owned());
        let new = || Arc::new(KeyFile { path: path.to_owned(), content: OnceCell::new(), unlocked: OnceCell::new() });
        entry.or_insert_with(new).clone()
    }

    /// Unlocks an encrypted key by asking for its passphrase; the first caller asks, the others wait for the answer.
    pub(super) async fn unlock(&self, file: &KeyFile) -> Result<Arc<PrivateKey>, String> {
        let Some(prompt) = self.prompt.clone() else { return Err("it is encrypted".to_owned()) };
        let path = file.path.clone();
        let ask = || async move {
            let asked = tokio::task::spawn_blocking(move || unlock(&path, &prompt)).await;
            asked.unwrap_or_else(|error| Err(format!("asking for its passphrase failed: {error}")))
        };
        file.unlocked.get_or_init(ask).await.clone()
    }
}

impl KeyFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file, once.
    pub(super) async fn content(&self) -> &KeyContent {
        let path = self.path.clone();
        let load = || async move {
            let read = tokio::task::spawn_blocking(move || load(&path)).await;
            read.unwrap_or_else(|error| KeyContent::Unusable(error.to_string()))
        };
        self.content.get_or_init(load).await
    }

    /// Returns the public half, where it is known.
    pub(super) async fn public(&self) -> Option<PublicKey> {
        match self.content().await {
            KeyContent::Open(key) => Some(key.public_key().clone()),
            KeyContent::Locked(public) => public.clone(),
            KeyContent::Public(public) => Some(public.clone()),
            KeyContent::Missing | KeyContent::Unusable(_) => None,
        }
    }
}

fn unlock(path: &Path, prompt: &PassphrasePrompt) -> Result<Arc<PrivateKey>, String> {
    let text = read(path).map_err(|error| error.to_string())?;
    for _ in 0..PROMPTS {
        let Some(passphrase) = prompt(path) else { return Err("it is encrypted and no passphrase was given".to_owned()) };
        if let Ok(key) = decode_secret_key(&text, Some(&passphrase)) {
            return Ok(Arc::new(key));
        }
    }
    Err("wrong passphrase".to_owned())
}

fn load(path: &Path) -> KeyContent {
    let public = || public_half(path);
    let text = match read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return public().map_or(KeyContent::Missing, KeyContent::Public);
        }
        Err(error) => return KeyContent::Unusable(error.to_string()),
    };
    if let Ok(public) = PublicKey::from_openssh(&text) {
        return KeyContent::Public(public);
    }
    if let Err(problem) = check_mode(path) {
        return KeyContent::Unusable(problem);
    }
    // OpenSSH's own format says its public half in the clear.
    let openssh = PrivateKey::from_openssh(&text).ok();
    match decode_secret_key(&text, None) {
        Ok(key) => KeyContent::Open(Arc::new(key)),
        Err(russh::keys::Error::KeyIsEncrypted) => {
            KeyContent::Locked(openssh.map(|key| key.public_key().clone()).or_else(public))
        }
        Err(_) if text.contains("ENCRYPTED") || openssh.as_ref().is_some_and(PrivateKey::is_encrypted) => {
            KeyContent::Locked(openssh.map(|key| key.public_key().clone()).or_else(public))
        }
        Err(error) => KeyContent::Unusable(format!("it is no private key that can be read: {error}")),
    }
}

/// Refuses a key that others can read, as OpenSSH does.
fn check_mode(path: &Path) -> Result<(), String> {
    let data = std::fs::metadata(path).map_err(|error| error.to_string())?;
    let mode = data.mode() & 0o777;
    if mode & 0o077 != 0 && data.uid() == rustix::process::getuid().as_raw() {
        return Err(format!("others can read it (mode {mode:04o}); run chmod 600 {}", path.display()));
    }
    Ok(())
}

fn public_half(path: &Path) -> Option<PublicKey> {
    PublicKey::from_openssh(&read(&with_suffix(path, ".pub")).ok()?).ok()
}

/// Reads a user certificate.
pub(super) async fn certificate(path: PathBuf) -> Option<Certificate> {
    let read = tokio::task::spawn_blocking(move || read(&path)).await;
    Certificate::from_openssh(read.ok()?.ok()?.trim()).ok()
}

/// Returns a path with something added to its last component.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn read(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}
