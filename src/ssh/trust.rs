//! Which host keys are accepted: the files behind [`known_hosts`], the algorithms to ask for, host certificates, new hosts.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use russh::keys::{
    Algorithm, Certificate, EcdsaCurve, HashAlg, PublicKey, PublicKeyOrCertificate, ssh_key::certificate::CertType,
};

use super::{
    HostKeyPolicy,
    known_hosts::{self, HostId, HostKeys, KnownHosts, Location, Verdict},
};

/// The largest `known_hosts` file that is read: several hundred thousand hosts.
const MAX_FILE: u64 = 64 << 20;

/// Why a host's key is not accepted.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) cause: String,
    pub(super) hint: Option<String>,
}

/// Where one host's trust comes from.
#[derive(Debug, Clone)]
pub(super) struct TrustSources {
    pub(super) name: HostId,
    pub(super) policy: HostKeyPolicy,
    /// The user's files; the first is where new hosts go.
    pub(super) user_files: Vec<PathBuf>,
    pub(super) global_files: Vec<PathBuf>,
    /// New names are hashed.
    pub(super) hash_names: bool,
}

/// The `known_hosts` files of a run: each is read once and again when it changed.
#[derive(Default)]
pub(super) struct TrustStore {
    files: Mutex<HashMap<PathBuf, (Stamp, Arc<KnownHosts>)>>,
    /// One host at a time is added; other processes are kept out by a lock on the file.
    adding: Mutex<()>,
}

/// Tells whether a file changed.
#[derive(PartialEq, Eq, Clone, Copy)]
struct Stamp {
    size: u64,
    inode: u64,
    modified: (i64, i64),
}

impl TrustStore {
    fn file(&self, path: &Path) -> io::Result<Arc<KnownHosts>> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Arc::default()),
            Err(error) => return Err(error),
        };
        let data = file.metadata()?;
        if !data.is_file() {
            // `/dev/null` is a usual way to say "none".
            return if data.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(Arc::default()) };
        }
        if data.len() > MAX_FILE {
            return Err(io::Error::other(format!("larger than {MAX_FILE} bytes")));
        }
        let stamp = Stamp { size: data.len(), inode: data.ino(), modified: (data.mtime(), data.mtime_nsec()) };
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, parsed)) = files.get(path)
            && *known == stamp
        {
            return Ok(parsed.clone());
        }
        let mut text = Vec::new();
        (&mut file).take(MAX_FILE).read_to_end(&mut text)?;
        let parsed = Arc::new(KnownHosts::parse(path, &text));
        files.insert(path.to_owned(), (stamp, parsed.clone()));
        Ok(parsed)
    }

    fn find(&self, sources: &TrustSources) -> Result<HostKeys, Refusal> {
        let mut files = Vec::new();
        for path in sources.user_files.iter().chain(&sources.global_files) {
            files.push(
                self.file(path)
                    .map_err(|error| Refusal { cause: format!("cannot read {}: {error}", path.display()), hint: None })?,
            );
        }
        Ok(HostKeys::find(files.iter().map(Arc::as_ref), &sources.name))
    }
}

/// What is known about one host, ready for its handshake.
pub(super) struct HostTrust {
    store: Arc<TrustStore>,
    sources: TrustSources,
    keys: HostKeys,
}

impl HostTrust {
    /// Reads what the files say about a host. Blocking thread pool.
    pub(super) async fn load(store: Arc<TrustStore>, sources: TrustSources) -> Result<Self, Refusal> {
        blocking(move || {
            let keys = store.find(&sources)?;
            Ok(Self { store, sources, keys })
        })
        .await
    }

    /// Returns the host-key algorithms to offer, those whose keys are known first, and the ones for host certificates.
    ///
    /// The order matters: a host has several keys, and one it was never seen with would look like a changed key.
    pub(super) fn algorithms(&self) -> (Vec<Algorithm>, Vec<Algorithm>) {
        let known = self.keys.key_types();
        let mut offered = supported();
        offered.sort_by_key(|algorithm| !known.contains(&key_type(algorithm)));
        let certificates = if self.keys.has_authority() { supported() } else { Vec::new() };
        (offered, certificates)
    }

    /// Accepts or refuses what the host showed.
    pub(super) async fn judge(&self, shown: &PublicKeyOrCertificate) -> Result<(), Refusal> {
        let key = shown.public_key();
        let blob = key.to_bytes().map_err(|error| self.refusal(format!("unreadable host key: {error}")))?;
        let mut note = None;
        if let Some(certificate) = shown.certificate() {
            match self.judge_certificate(certificate, &blob) {
                CertificateVerdict::Good => return Ok(()),
                CertificateVerdict::Refused(refusal) => return Err(refusal),
                // As OpenSSH does: then the key in it must stand for itself.
                CertificateVerdict::NotVouchedFor(why) => note = Some(why),
            }
        }
        self.judge_key(&key, blob).await.map_err(|mut refusal| {
            if let Some(why) = note {
                refusal.cause = format!("{}; its certificate does not count: {why}", refusal.cause);
            }
            refusal
        })
    }

    async fn judge_key(&self, key: &PublicKey, blob: Vec<u8>) -> Result<(), Refusal> {
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        let algorithm = key.algorithm().as_str().to_owned();
        match (self.keys.check(&blob), self.sources.policy) {
            (Verdict::Known(_), _) => Ok(()),
            (Verdict::Revoked(at), _) => Err(self.revoked(&fingerprint, &at)),
            (Verdict::Changed(at), HostKeyPolicy::No) => {
                tracing::warn!(host = %self.sources.name, %at, fingerprint, "host key changed; let through as asked");
                Ok(())
            }
            (Verdict::Changed(at), _) => Err(self.changed(&algorithm, &fingerprint, &at)),
            (Verdict::Unknown, HostKeyPolicy::Strict) => Err(self.unknown(&algorithm, &fingerprint)),
            (Verdict::Unknown, HostKeyPolicy::AcceptNew | HostKeyPolicy::No) => self.add(algorithm, blob, fingerprint).await,
        }
    }

    fn judge_certificate(&self, certificate: &Certificate, key: &[u8]) -> CertificateVerdict {
        use CertificateVerdict::{Good, NotVouchedFor, Refused};
        let authority = certificate.signature_key();
        let authority_blob = match PublicKey::from(authority.clone()).to_bytes() {
            Ok(blob) => blob,
            Err(_) => return NotVouchedFor("unreadable authority key"),
        };
        match self.keys.check_certificate(key, &authority_blob) {
            Verdict::Revoked(at) => {
                return Refused(self.revoked(&authority.fingerprint(HashAlg::Sha256).to_string(), &at));
            }
            Verdict::Known(_) => {}
            _ => return NotVouchedFor("no matching @cert-authority line"),
        }
        if certificate.cert_type() != CertType::Host {
            return NotVouchedFor("it is a user certificate");
        }
        if matches!(certificate.signature().algorithm(), Algorithm::Rsa { hash: None } | Algorithm::Dsa) {
            return NotVouchedFor("it is signed with SHA-1");
        }
        if !certificate.critical_options().is_empty() {
            return NotVouchedFor("it has critical options");
        }
        // OpenSSH 9 accepts a certificate for nobody in particular as one for everybody; that is too much trust.
        if !certificate.valid_principals().iter().any(|name| name == self.sources.name.principal()) {
            return NotVouchedFor("it does not name this host");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        match certificate.validate_at(now, [&authority.fingerprint(HashAlg::Sha256)]) {
            Ok(()) => Good,
            Err(_) => NotVouchedFor("it is expired, not yet valid, or wrongly signed"),
        }
    }

    /// Adds an unknown host to the user's first file. That the file can't be written is no reason to stop: it was asked for.
    async fn add(&self, algorithm: String, blob: Vec<u8>, fingerprint: String) -> Result<(), Refusal> {
        let Some(path) = self.sources.user_files.first().cloned() else { return Ok(()) };
        let (store, sources) = (self.store.clone(), self.sources.clone());
        let verdict = blocking(move || store.add(&path, &sources, &algorithm, &blob)).await?;
        match verdict {
            Verdict::Changed(at) if self.sources.policy != HostKeyPolicy::No => Err(self.changed("", &fingerprint, &at)),
            Verdict::Revoked(at) => Err(self.revoked(&fingerprint, &at)),
            _ => Ok(()),
        }
    }

    fn refusal(&self, cause: String) -> Refusal {
        Refusal { cause, hint: None }
    }

    fn changed(&self, algorithm: &str, fingerprint: &str, at: &Location) -> Refusal {
        let name = &self.sources.name;
        Refusal {
            cause: format!("the key of {name} is not the one in {at}; the host shows {algorithm} {fingerprint}"),
            hint: Some(format!(
                "if the host was reinstalled, check the fingerprint and remove the old key: ssh-keygen -f {} -R '{name}' ({at})",
                at.path.display()
            )),
        }
    }

    fn unknown(&self, algorithm: &str, fingerprint: &str) -> Refusal {
        let name = &self.sources.name;
        let files = self.sources.user_files.iter().chain(&self.sources.global_files);
        let files: Vec<String> = files.map(|path| path.display().to_string()).collect();
        let files = if files.is_empty() { "any known_hosts file".to_owned() } else { files.join(", ") };
        Refusal {
            cause: format!("{name} is not in {files}; the host shows {algorithm} {fingerprint}"),
            hint: Some("check the fingerprint and add the host with ssh-keyscan, or allow `accept-new`".to_owned()),
        }
    }

    fn revoked(&self, fingerprint: &str, at: &Location) -> Refusal {
        Refusal {
            cause: format!("the key {fingerprint} of {} is revoked in {at}", self.sources.name),
            hint: Some("the key may be in foreign hands: give the host a new one".to_owned()),
        }
    }
}

enum CertificateVerdict {
    Good,
    NotVouchedFor(&'static str),
    Refused(Refusal),
}

impl TrustStore {
    /// Adds a host unless another task or process did meanwhile; returns what holds now.
    fn add(&self, path: &Path, sources: &TrustSources, algorithm: &str, blob: &[u8]) -> Result<Verdict, Refusal> {
        let _one_at_a_time = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let warn = |error: &io::Error| {
            tracing::warn!(host = %sources.name, path = %path.display(), %error, "cannot add the host to known_hosts");
        };
        let mut file = match open_for_adding(path) {
            Ok(file) => file,
            Err(error) => {
                warn(&error);
                return Ok(Verdict::Unknown);
            }
        };
        // Held until the file is closed. Without it (some network file systems) appending is still one write.
        let _ = rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive);
        let now = self.find(sources)?.check(blob);
        if now != Verdict::Unknown {
            return Ok(now);
        }
        let mut salt = [0; 20];
        let salt = (sources.hash_names && getrandom::fill(&mut salt).is_ok()).then_some(salt);
        let line = known_hosts::new_line(&sources.name, algorithm, blob, salt);
        if let Err(error) = append_line(&mut file, &line) {
            warn(&error);
        }
        Ok(Verdict::Unknown)
    }
}

fn open_for_adding(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent()
        && !parent.as_os_str().is_empty()
        && !parent.exists()
    {
        fs::DirBuilder::new().mode(0o700).create(parent).or_else(|error| if parent.is_dir() { Ok(()) } else { Err(error) })?;
    }
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

/// Appends in one write, after whatever the last line is missing.
fn append_line(file: &mut File, line: &str) -> io::Result<()> {
    let mut last = [b'\n'];
    if file.metadata()?.is_file() && file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    let start = if last == [b'\n'] { "" } else { "\n" };
    file.write_all(format!("{start}{line}\n").as_bytes())
}

/// Host-key algorithms that are on, best first. RSA only with SHA-2; no DSA.
fn supported() -> Vec<Algorithm> {
    vec![
        Algorithm::Ed25519,
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
        Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
        Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
    ]
}

/// Returns the type of the key behind an algorithm, as `known_hosts` names it.
fn key_type(algorithm: &Algorithm) -> &str {
    match algorithm {
        Algorithm::Rsa { .. } => "ssh-rsa",
        other => other.as_str(),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Refusal { cause: format!("cannot read known_hosts: {error}"), hint: None }))
}
