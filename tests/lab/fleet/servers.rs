//! The hosts' SSH servers and the controller's way in.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{Machine, OWN_DIRECTORIES};
use crate::program::run;

/// How long the servers may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(60);

const SSHD_CONFIG: &str = "\
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes yes
Subsystem sftp internal-sftp
";

/// Makes a machine's directories.
pub(super) fn make_directories(machine: &Machine) -> Result<()> {
    for (_, own) in OWN_DIRECTORIES {
        private_directory(&machine.directory.join(own))?;
    }
    private_directory(&machine.directory.join("root/.ssh"))
}

/// Lets the controller's root log in on every host, and starts every host's sshd into `servers`.
pub(super) fn start(controller: &Machine, hosts: &[Machine], servers: &mut Vec<Child>) -> Result<()> {
    let identity = controller.directory.join("root/.ssh/id_ed25519");
    make_key(&identity)?;
    let public = fs::read(identity.with_extension("pub"))?;
    fs::create_dir_all("/run/sshd").context("sshd's privilege separation directory")?;
    let mut known_hosts = String::new();
    for host in hosts {
        fs::write(host.directory.join("root/.ssh/authorized_keys"), &public)?;
        let key = host.directory.join("etc-ssh/ssh_host_ed25519_key");
        make_key(&key)?;
        let key = fs::read_to_string(key.with_extension("pub"))?;
        known_hosts += &format!("{} {}\n", host.address, key.trim());
        fs::write(host.directory.join("etc-ssh/sshd_config"), SSHD_CONFIG)?;
        let log = fs::File::create(host.directory.join("sshd.log"))?;
        let server = host
            .command_inside("/usr/sbin/sshd")
            .args(["-D", "-e", "-f", "/etc/ssh/sshd_config"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("sshd")?;
        servers.push(server);
    }
    fs::write(controller.directory.join("root/.ssh/known_hosts"), known_hosts)?;
    wait(hosts)
}

fn wait(hosts: &[Machine]) -> Result<()> {
    let until = Instant::now() + START_TIMEOUT;
    for host in hosts {
        let log = host.directory.join("sshd.log");
        // sshd says so when it listens.
        while !fs::read_to_string(&log)?.contains("Server listening") {
            let late = Instant::now() > until;
            ensure!(!late, "{}'s sshd does not start: {}", host.name, fs::read_to_string(&log)?);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

fn private_directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| path.display().to_string())
}

fn make_key(path: &Path) -> Result<()> {
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f"]).arg(path))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}
