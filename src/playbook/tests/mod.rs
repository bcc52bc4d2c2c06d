//! What playbooks promise as a whole.

mod errors;
mod hostile;
mod schema;
mod values;

use std::path::PathBuf;

use super::*;

/// Reads a text as the file `p.yaml`.
fn read(text: &str) -> Result<Playbook, Vec<Diagnostic>> {
    Playbook::read(&Source::new(Path::new("p.yaml"), text.to_owned()))
}

/// Returns the plan of a playbook that must be good.
fn plan(text: &str) -> Plan {
    match read(text) {
        Ok(playbook) => playbook.plan,
        Err(problems) => panic!("{problems:?}\n{text}"),
    }
}

/// Returns the problems of a playbook that must be no good, one a line.
fn problems(text: &str) -> String {
    let problems = read(text).err().unwrap_or_else(|| panic!("accepted:\n{text}"));
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

/// The playbooks that are shipped.
fn shipped() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}
