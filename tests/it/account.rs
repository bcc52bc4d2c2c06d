//! Who logs in to the tests' hosts: the user that runs the tests, or a throw-away account.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

/// A system user of its own without a password. Dropping it removes it, its sudo rule and what it may have left outside its hosts.
pub(crate) struct Account {
    name: String,
    uid: u32,
    /// Its rule, if it has one.
    sudoers: Option<PathBuf>,
}

impl Account {
    /// Makes an account whose name no other has.
    pub(crate) fn create() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(rustix::process::geteuid().is_root(), "this test makes a system user: run it as root");
        let name = format!("fdtest-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // The `*` is no password either, but unlike useradd's `!` it does not lock the account.
        let options = ["--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/bin/sh", "--password", "*"];
        change_users("useradd", &options, &name);
        let uid = id(&["-u", &name]).parse().unwrap();
        Self { name, uid, sudoers: None }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes a file or directory the account's own.
    pub(crate) fn give(&self, path: &Path) {
        chown(path, Some(self.uid), None).unwrap();
    }

    /// Makes a directory that is the account's own.
    pub(crate) fn directory(&self, path: &Path) -> PathBuf {
        fs::create_dir(path).unwrap();
        self.give(path);
        path.to_owned()
    }

    /// Lets the account run everything as root without a password.
    pub(crate) fn allow_sudo(&mut self) {
        let path = Path::new("/etc/sudoers.d").join(&self.name);
        assert!(path.parent().is_some_and(Path::is_dir), "this test needs sudo: apt-get install sudo");
        // sudo reads no file with a dot in its name: it sees the rule whole or not at all.
        let new = path.with_extension("new");
        fs::write(&new, format!("{} ALL=(root) NOPASSWD: ALL\n", self.name)).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o440)).unwrap();
        fs::rename(&new, self.sudoers.insert(path)).unwrap();
    }

    /// Returns where the agent goes on a host whose home does not take it, in order.
    pub(crate) fn shared_caches(&self) -> [PathBuf; 2] {
        ["/var/tmp", "/tmp"].map(|below| Path::new(below).join(format!("fleetdrop-{}", self.uid)))
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let rule = self.sudoers.as_deref().map_or(Ok(()), fs::remove_file);
        let caches = self.shared_caches().map(|cache| match fs::remove_dir_all(cache) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        });
        if std::thread::panicking() {
            // The test's own failure is the one to see; a second panic would hide it.
            let _ = users_changed("userdel", &["--force"], &self.name);
            return;
        }
        // By force: it would not remove a user while a process of a host that has just gone still ends.
        change_users("userdel", &["--force"], &self.name);
        rule.unwrap();
        caches.into_iter().for_each(Result::unwrap);
    }
}

#[track_caller]
fn change_users(program: &str, options: &[&str], name: &str) {
    if let Err(why) = users_changed(program, options, name) {
        panic!("{program} {name}: {why}");
    }
}

/// Runs `useradd` or `userdel`, one at a time: they lock the user database and give up soon.
fn users_changed(program: &str, options: &[&str], name: &str) -> Result<(), String> {
    static DATABASE: Mutex<()> = Mutex::new(());
    let _one_at_a_time = DATABASE.lock().unwrap_or_else(PoisonError::into_inner);
    let path = Path::new("/usr/sbin").join(program);
    let output = Command::new(path).args(options).arg(name).output();
    let output = output.map_err(|error| format!("{error}; this test needs {program}: apt-get install passwd"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Returns the name of the user that runs the tests.
pub(crate) fn own_name() -> String {
    id(&["-un"])
}

fn id(arguments: &[&str]) -> String {
    let output = Command::new("id").args(arguments).output().expect("run id");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Returns what `UsePAM` of a test's sshd has to be for a user.
///
/// Without PAM a session is lighter and no module interferes. But then sshd lets nobody in whose password is locked with a `!`, as
/// root's is after some installations, not even with a key; PAM does, and is installed where that is so.
pub(crate) fn use_pam(user: &str) -> &'static str {
    let shadow = fs::read_to_string("/etc/shadow").unwrap_or_default();
    let mut entries = shadow.lines().filter_map(|line| line.split_once(':'));
    if entries.any(|(name, rest)| name == user && rest.starts_with('!')) { "yes" } else { "no" }
}
