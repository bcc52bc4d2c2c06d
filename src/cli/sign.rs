//! `fleetdrop sign`: writes an artifact's manifest and has it signed.
//!
//! The signing itself is done by the tool that made the key, `ssh-keygen` or `minisign`: this process never sees a secret key or its
//! passphrase, and keys in an agent or a FIDO token work as they do elsewhere.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use clap::Args;

use super::{CommandError, ErrorKind, Output, ResultExt as _, deploy, interrupt, value};
use crate::{
    controller,
    model::{
        AppName,
        trust::{NAMESPACE, Stamp, Statement, Version},
    },
};

/// What a minisign key's file begins with.
const MINISIGN: &[u8] = b"untrusted comment:";
/// What the manifest's name ends with, after the artifact's.
const ENDING: &str = ".manifest.json";

/// What to sign, and how.
#[derive(Debug, Clone, Args)]
pub struct SignArgs {
    /// The artifact, a file or a directory
    #[arg(value_name = "ARTIFACT")]
    pub artifact: PathBuf,

    /// The key to sign with: an OpenSSH private key, the .pub file of one that ssh-agent holds, or a minisign secret key
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,

    /// What the release is called, such as 2.4.1
    #[arg(long, value_name = "VERSION")]
    pub version: Version,

    /// The application's name [default: the directory's name, or the file's without its archive suffix]
    #[arg(long, value_name = "NAME")]
    pub app: Option<AppName>,

    /// For how long it may be deployed, such as 30d [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = value::validity)]
    pub expires: Option<Duration>,
}

/// The tool that a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    SshKeygen,
    Minisign,
}

/// Signs and returns the exit code.
pub async fn run(args: SignArgs, output: &Output) -> Result<u8, CommandError> {
    let tool = Tool::of_key(&args.key)?;
    let app = deploy::app_name(&args.artifact, args.app.as_ref())?;
    let interrupt = interrupt::watch()?;
    let manifest_file = beside(&args.artifact)?;
    // The number of hosts only decides the pieces, which are not signed.
    let artifact = deploy::open(&args.artifact, app, 1, true, &interrupt, output).await?;
    let created = Stamp::of(SystemTime::now());
    let expires = args.expires.map(|time| created.after(time).ok_or_else(|| CommandError::input("--expires is too far away")));
    let statement = Statement::new(&artifact.manifest, args.version, created, expires.transpose()?);
    let signature = tool.signature_of(&manifest_file);
    // `ssh-keygen` asks before it writes over a signature.
    remove(&signature)?;
    fs::write(&manifest_file, statement.to_text()).or_input(format!("can't write {}", manifest_file.display()))?;
    if let Err(error) = tool.sign(&args.key, &manifest_file, &signature) {
        remove(&manifest_file)?;
        return Err(error);
    }
    output.print(&format!("{}\n", signature.display()))?;
    output.note(&format!("deploy it with --signature {}", signature.display()));
    Ok(super::exit::SUCCESS)
}

/// Returns where the manifest is written.
fn beside(artifact: &Path) -> Result<PathBuf, CommandError> {
    let name = controller::artifact_name(artifact);
    let mut name = name.ok_or_else(|| CommandError::input(format!("`{}` has no name", artifact.display())))?;
    name.push(ENDING);
    // `dist/..` and `.` are named after the directory that they lead to.
    match artifact.file_name() {
        Some(_) => Ok(artifact.with_file_name(name)),
        None => Ok(artifact.join("..").join(name)),
    }
}

fn remove(path: &Path) -> Result<(), CommandError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).or_input(format!("can't remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

impl Tool {
    /// Tells whose key it is by how the file begins.
    fn of_key(key: &Path) -> Result<Self, CommandError> {
        let mut start = Vec::new();
        let file = File::open(key).or_input(format!("can't read the key {}", key.display()))?;
        let read = file.take(MINISIGN.len() as u64).read_to_end(&mut start);
        read.or_input(format!("can't read the key {}", key.display()))?;
        Ok(if start == MINISIGN { Self::Minisign } else { Self::SshKeygen })
    }

    fn name(self) -> &'static str {
        match self {
            Self::SshKeygen => "ssh-keygen",
            Self::Minisign => "minisign",
        }
    }

    /// Returns where the signature is written.
    fn signature_of(self, manifest: &Path) -> PathBuf {
        let mut name = manifest.as_os_str().to_owned();
        name.push(match self {
            Self::SshKeygen => ".sig",
            Self::Minisign => ".minisig",
        });
        name.into()
    }

    /// Has the manifest signed; whatever the tool asks, the operator answers.
    fn sign(self, key: &Path, manifest: &Path, signature: &Path) -> Result<(), CommandError> {
        let mut command = Command::new(self.name());
        match self {
            Self::SshKeygen => command.args(["-Y", "sign", "-n", NAMESPACE, "-f"]).arg(key).arg(manifest),
            Self::Minisign => command.args(["-S", "-s"]).arg(key).arg("-m").arg(manifest).arg("-x").arg(signature),
        };
        let ended = command.status().map_err(|error| {
            let package = match self {
                Self::SshKeygen => "install OpenSSH's client (package openssh-client)",
                Self::Minisign => "install minisign (package minisign)",
            };
            CommandError::new(ErrorKind::Input, error).context(format!("can't start {}", self.name())).hint(package)
        })?;
        if !ended.success() {
            return Err(CommandError::input(format!("{} did not sign ({ended})", self.name())));
        }
        if !signature.is_file() {
            return Err(CommandError::input(format!("{} wrote no {}", self.name(), signature.display())));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_lies_beside_the_artifact() {
        for (artifact, manifest) in [
            ("shop.tar.zst", "shop.tar.zst.manifest.json"),
            ("/build/dist/", "/build/dist.manifest.json"),
            ("out/shop", "out/shop.manifest.json"),
        ] {
            assert_eq!(beside(Path::new(artifact)).unwrap(), Path::new(manifest), "{artifact}");
        }
    }

    #[test]
    fn a_key_tells_its_tool() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        for (text, tool) in
            [("untrusted comment: minisign encrypted secret key\n", Tool::Minisign), ("-----BEGIN OPENSSH", Tool::SshKeygen)]
        {
            fs::write(&key, text).unwrap();
            assert_eq!(Tool::of_key(&key).unwrap(), tool);
        }
        assert!(Tool::of_key(&dir.path().join("none")).is_err());
    }
}
