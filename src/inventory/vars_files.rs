//! `group_vars/` and `host_vars/` beside the inventory.
//!
//! For a group or host `x` that is the first of `x`, `x.yml`, `x.yaml`, `x.json` that exists; a directory stands for every
//! variables file in it, in order of name, hidden files and backups (`~`) left out. A file encrypted as a whole with
//! `ansible-vault` is skipped with a warning: what it holds is unknown here.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    InventoryError, MAX_VARS_BYTES, MAX_VARS_FILES,
    parse::variable_name,
    tree::{Tree, VarMap},
    warnings::Warnings,
};
use crate::yaml::{self, Diagnostic, Location, YamlError};

/// In the order in which Ansible looks for them.
const SUFFIXES: [&str; 4] = ["", ".yml", ".yaml", ".json"];
/// The deepest directory that is looked into; ends loops of symbolic links.
const MAX_DIRECTORY_DEPTH: usize = 8;

/// Adds what the files beside the inventory say to the tree.
pub(super) fn load(inventory: &Path, tree: &mut Tree, warnings: &mut Warnings) -> Result<(), InventoryError> {
    let base = inventory.parent().unwrap_or(Path::new(""));
    let mut loader = Loader { warnings, files: 0, bytes: 0 };
    if let Some(directory) = Directory::open(base.join("group_vars"), loader.warnings)? {
        let groups: Vec<_> = tree.groups().map(|(id, group)| (id, Arc::clone(&group.name))).collect();
        for (id, name) in groups {
            tree.group_mut(id).files = loader.load(&directory, &name)?;
        }
    }
    if let Some(directory) = Directory::open(base.join("host_vars"), loader.warnings)? {
        let hosts: Vec<_> = tree.hosts().map(|(id, host)| (id, host.name.clone())).collect();
        for (id, name) in hosts {
            let files = loader.load(&directory, name.as_str())?;
            tree.host_mut(id).vars.extend(files);
        }
    }
    Ok(())
}

/// A variables directory and the names in it, so that a big fleet does not ask the file system for each host.
struct Directory {
    path: PathBuf,
    names: HashSet<OsString>,
}

impl Directory {
    /// Lists the directory; none if it is not there.
    fn open(path: PathBuf, warnings: &mut Warnings) -> Result<Option<Self>, InventoryError> {
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                warnings.push(Diagnostic::new(&Location::whole(&path), "this should be a directory; skipped"));
                return Ok(None);
            }
            Err(source) => return Err(unreadable(&path, source)),
        };
        let mut names = HashSet::new();
        for entry in entries {
            names.insert(entry.map_err(|source| unreadable(&path, source))?.file_name());
        }
        Ok(Some(Self { path, names }))
    }

    /// Returns the file or directory for a group or host.
    fn find(&self, name: &str) -> Option<PathBuf> {
        // A name with a slash is a path to Ansible; nothing outside this directory is read.
        if name.contains('/') || name == "." || name == ".." {
            return None;
        }
        let file = SUFFIXES.iter().map(|suffix| format!("{name}{suffix}"));
        file.map(OsString::from).find(|file| self.names.contains(file)).map(|file| self.path.join(file))
    }
}

fn unreadable(path: &Path, source: io::Error) -> InventoryError {
    YamlError::Read { path: path.to_owned(), source }.into()
}

struct Loader<'a> {
    warnings: &'a mut Warnings,
    files: usize,
    bytes: u64,
}

impl Loader<'_> {
    fn load(&mut self, directory: &Directory, name: &str) -> Result<Vec<Arc<VarMap>>, InventoryError> {
        let Some(path) = directory.find(name) else { return Ok(Vec::new()) };
        let mut files = Vec::new();
        if fs::metadata(&path).map_err(|source| unreadable(&path, source))?.is_dir() {
            list(&path, 1, &mut files)?;
        } else {
            files.push(path);
        }
        let mut found = Vec::new();
        for file in files {
            found.extend(self.read(&file)?.map(Arc::new));
        }
        Ok(found)
    }

    /// Reads one file; none if it is empty or encrypted.
    fn read(&mut self, path: &Path) -> Result<Option<VarMap>, InventoryError> {
        let source = super::read(path)?;
        let whole = Location::whole(path);
        self.files += 1;
        self.bytes += source.text().len() as u64;
        if self.files > MAX_VARS_FILES || self.bytes > MAX_VARS_BYTES {
            let limit = format!("{MAX_VARS_FILES} files or {} MiB", MAX_VARS_BYTES >> 20);
            return Err(Diagnostic::new(&whole, format!("group_vars and host_vars hold more than {limit}")).into());
        }
        if source.text().starts_with("$ANSIBLE_VAULT;") {
            let message = "encrypted with ansible-vault; skipped, its variables are not known here";
            let hint = "keep what fleetdrop needs (ansible_host, ansible_user, fleetdrop_*) in a file that is not encrypted";
            self.warnings.push(Diagnostic::new(&whole, message).with_hint(hint));
            return Ok(None);
        }
        let root = yaml::parse(&source)?;
        if root.is_null() {
            return Ok(None);
        }
        let Some(map) = root.as_map() else {
            let message = format!("a variables file must be a mapping, but this is {}", root.kind());
            return Err(Diagnostic::new(&root.location, message).with_hint("write `name: value` lines").into());
        };
        let mut vars = VarMap::new();
        for (key, value) in map.iter() {
            match variable_name(key) {
                Some(name) => {
                    vars.insert(name, value.clone());
                }
                None => {
                    let message = format!("{} is no variable's name; skipped", key.kind());
                    self.warnings.push(Diagnostic::new(&key.location, message).with_hint("quote it if it is meant as text"));
                }
            }
        }
        Ok(Some(vars))
    }
}

/// Lists the variables files below a directory, in Ansible's order.
fn list(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), InventoryError> {
    if depth > MAX_DIRECTORY_DEPTH {
        let message = format!("directories nested more than {MAX_DIRECTORY_DEPTH} levels deep");
        return Err(Diagnostic::new(&Location::whole(directory), message).into());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(|source| unreadable(directory, source))? {
        names.push(entry.map_err(|source| unreadable(directory, source))?.file_name());
    }
    names.sort();
    for name in names {
        let path = directory.join(&name);
        let Some(name) = name.to_str() else { continue };
        if name.starts_with('.') || name.ends_with('~') {
            continue;
        }
        let suffix = name.rfind('.').map_or("", |dot| &name[dot..]);
        // Gone meanwhile or a dangling link: not there.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            if suffix.is_empty() {
                list(&path, depth + 1, files)?;
            }
        } else if metadata.is_file() && SUFFIXES.contains(&suffix) {
            if files.len() >= MAX_VARS_FILES {
                let message = format!("more than {MAX_VARS_FILES} variables files");
                return Err(Diagnostic::new(&Location::whole(directory), message).into());
            }
            files.push(path);
        }
    }
    Ok(())
}
