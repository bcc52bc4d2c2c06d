//! Playbooks: the operator's file that says how an application is deployed, read into a [`Plan`].
//!
//! A playbook is YAML and strict: an unknown key, a value of the wrong kind or out of its bounds is an error with file, line,
//! column and, where it may be shown, the line itself; all of them are told at once. It is read through [`crate::yaml`], so
//! what that promises about hostile files holds here; on top of it every list has a limit. Nothing is expanded: no template, no
//! environment variable, no file but the one named.
//!
//! Every key is declared once, with its meaning, its bounds and its place in the plan; the reader and the JSON Schema
//! ([`schema()`]) both come from that declaration.
//!
//! | file | does |
//! |---|---|
//! | `shape`, `measure` | kinds of values: how each is read and described |
//! | `section` | mappings with known keys |
//! | `keys`, `commands`, `health`, `origin`, `transfer` | the declarations |

mod commands;
mod health;
mod keys;
mod measure;
mod origin;
mod reading;
mod section;
mod shape;
#[cfg(test)]
mod tests;
mod transfer;

use std::path::Path;

use self::{reading::Reading, section::Mapping, shape::Shape as _};
use crate::{
    model::Plan,
    yaml::{self, Diagnostic, Location, Source, Value, YamlError},
};

/// The largest playbook, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// Says why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlaybookError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] YamlError),
    /// It does not say what it should.
    #[error("the playbook has {} problem{}", .0.len(), if .0.len() == 1 { "" } else { "s" })]
    Problems(Vec<Diagnostic>),
}

/// A playbook that was understood.
#[derive(Debug)]
pub struct Playbook {
    /// What it asks for; what it does not mention is as without a playbook.
    pub plan: Plan,
}

impl Playbook {
    /// Reads a playbook and checks everything in it. Of very many problems the first hundred are told.
    pub fn load(path: &Path) -> Result<Self, PlaybookError> {
        Self::read(&yaml::read(path, MAX_FILE_BYTES)?).map_err(PlaybookError::Problems)
    }

    fn read(source: &std::sync::Arc<Source>) -> Result<Self, Vec<Diagnostic>> {
        let root = yaml::parse(source).map_err(|problem| vec![problem])?;
        if matches!(root.value, Value::Null) {
            let empty = Diagnostic::new(&root.location, "the playbook is empty");
            return Err(vec![empty.with_hint("start with `app: NAME`; the directory playbooks/ has complete ones")]);
        }
        let mut reading = Reading::default();
        let plan = Mapping::<keys::Top>::new().read(&root, "", &mut reading);
        reading.finish(&Location::whole(source.path()))?;
        // Without a problem there is a plan.
        Ok(Self { plan: plan.unwrap_or_default() })
    }
}

/// Returns the JSON Schema (draft 7) of playbooks. Whatever is a playbook fits it; what only a check of the whole can tell, and the
/// bounds of durations, it leaves to [`Playbook::load`].
pub fn schema() -> serde_json::Value {
    let mut schema = Mapping::<keys::Top>::new().schema();
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema["title"] = "fleetdrop playbook".into();
    schema["description"] = "How an application is deployed with `fleetdrop deploy --playbook FILE`.".into();
    schema
}
