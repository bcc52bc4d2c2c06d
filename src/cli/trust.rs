//! The options about signatures, and what the controller decides by them before it touches a host.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{CommandError, ErrorKind, ResultExt as _};
use crate::{
    artifact::open_endorsement,
    model::{
        Manifest,
        plan::TrustPlan,
        trust::{Endorsement, LONGEST_SIGNATURE, LONGEST_STATEMENT, MOST_KEYS},
    },
    ssh::allowed_signers,
};

/// The largest file with keys, in bytes.
const MAX_KEYS_FILE: u64 = 256 << 10;
/// What signatures' names end with, after the manifest's.
const ENDINGS: [&str; 2] = ["sig", "minisig"];

/// How an artifact shows that it may be deployed.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct TrustArgs {
    /// The signature of the artifact's manifest, which lies beside it under the same name without .sig or .minisig (`fleetdrop sign`
    /// makes both). Needed where the playbook has `trusted_keys` or `allowed_signers`
    #[arg(long, value_name = "FILE")]
    pub signature: Option<PathBuf>,

    /// Let hosts go back to a version that was signed before the newest one they had
    #[arg(long)]
    pub allow_downgrade: bool,
}

impl TrustArgs {
    /// Returns the paths of the files that are named.
    pub fn files(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.signature.as_mut().into_iter()
    }

    /// Returns what hosts are shown, if artifacts must be signed. An artifact that may not be deployed is an error.
    pub fn endorse(&self, plan: &TrustPlan, manifest: &Manifest) -> Result<Option<Endorsement>, CommandError> {
        let file = match (&self.signature, plan.is_asked_for()) {
            (None, false) => return Ok(None),
            (None, true) => {
                let text =
                    "the playbook asks for a signed artifact (`trusted_keys`, `allowed_signers`), and no signature is given";
                return Err(CommandError::input(text).hint("make one with `fleetdrop sign` and name it with --signature FILE"));
            }
            (Some(file), false) => {
                let text = format!("nothing says whose signature counts: {} proves nothing", file.display());
                return Err(CommandError::input(text).hint("name keys with `trusted_keys` or `allowed_signers` in a playbook"));
            }
            (Some(file), true) => file,
        };
        let endorsement = Endorsement {
            statement: read(&manifest_of(file)?, LONGEST_STATEMENT as u64)?,
            signature: read(file, LONGEST_SIGNATURE as u64)?,
            keys: plan.keys.clone(),
            allow_downgrade: self.allow_downgrade,
        };
        let refused = |error: anyhow::Error, hint: &str| {
            CommandError::new(ErrorKind::Input, error).context(format!("{} does not allow it", file.display())).hint(hint)
        };
        let opened = open_endorsement(&endorsement).map_err(|error| {
            let hint = error.hint();
            refused(error.into(), hint)
        });
        let (statement, _) = opened?;
        statement.admit(manifest, SystemTime::now()).map_err(|refusal| {
            let hint = refusal.hint();
            refused(refusal.into(), hint)
        })?;
        Ok(Some(endorsement))
    }
}

/// Adds the keys of the file that the playbook names, below whose directory it is.
pub fn read_signers(plan: &mut TrustPlan, playbook: &Path) -> Result<(), CommandError> {
    let Some(file) = plan.allowed_signers.take() else { return Ok(()) };
    let file = playbook.parent().unwrap_or(Path::new("")).join(file);
    let wrong = |text: String| CommandError::input(format!("{}: {text}", file.display()));
    let keys = allowed_signers(&read(&file, MAX_KEYS_FILE)?, SystemTime::now()).map_err(|error| wrong(error.to_string()))?;
    if keys.is_empty() {
        let hint = "give keys the namespace `fleetdrop` or none, and times that include now";
        return Err(wrong("no key in it may sign artifacts now".into()).hint(hint));
    }
    for key in keys {
        if !plan.keys.contains(&key) {
            plan.keys.push(key);
        }
    }
    if plan.keys.len() > MOST_KEYS {
        return Err(wrong(format!("with `trusted_keys` there are more than {MOST_KEYS} keys")));
    }
    Ok(())
}

/// Returns the manifest that a signature's file is beside.
fn manifest_of(signature: &Path) -> Result<PathBuf, CommandError> {
    let is_known = signature.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known));
    if is_known {
        return Ok(signature.with_extension(""));
    }
    let text = format!("{} does not end in .sig or .minisig", signature.display());
    Err(CommandError::input(text).hint("name the signature; the manifest lies beside it under the name without that ending"))
}

fn read(path: &Path, most: u64) -> Result<String, CommandError> {
    let shown = path.display();
    let mut bytes = Vec::new();
    let file = File::open(path).or_input(format!("can't read {shown}"))?;
    file.take(most + 1).read_to_end(&mut bytes).or_input(format!("can't read {shown}"))?;
    if bytes.len() as u64 > most {
        return Err(CommandError::input(format!("{shown} is larger than {most} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| CommandError::input(format!("{shown} is not text")))
}
