//! What the inventory promises as a whole. Single rules are tested where they live.

mod conformance;
mod errors;
mod hostile;
mod hosts;
mod patterns;

use std::{fs, path::PathBuf};

use super::*;

/// A directory with files in it.
struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let files_of = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(name, text)| files_of.write(name, text.as_bytes()));
        files_of
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self, name: &str) -> Result<Loaded, InventoryError> {
        Inventory::load(&self.path(name))
    }

    /// Writes an error as a person sees it: message, causes, snippet, hint; the directory's name is left out.
    fn explain(&self, error: &InventoryError) -> String {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text += &format!("\n  caused by: {cause}");
            source = cause.source();
        }
        if let Some(snippet) = error.snippet() {
            text += &format!("\n{snippet}");
        }
        if let Some(hint) = error.hint() {
            text += &format!("\n  hint: {hint}");
        }
        text.replace(&format!("{}/", self.0.path().display()), "")
    }
}

/// Loads an inventory that must be good.
fn load(yaml: &str) -> Loaded {
    Files::new(&[("hosts.yml", yaml)]).load("hosts.yml").unwrap()
}

/// Returns the names a pattern selects.
fn names(inventory: &Inventory, limit: Option<&str>) -> Vec<String> {
    inventory.select(limit).unwrap().iter().map(|host| host.name.to_string()).collect()
}
