"""Real sshd hosts on loopback for the examples, each with an address, a host key and a home of its own."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

SSHD = "/usr/sbin/sshd"
READY = 20


class Host:
    """One sshd, which logs in this user."""

    def __init__(self, number, directory, client_key):
        self.name = f"host-{number:02}"
        self.address = f"127.83.0.{number}"
        self.directory = directory
        (directory / "home").mkdir(parents=True)
        keygen(directory / "host_key")
        shutil.copy(f"{client_key}.pub", directory / "authorized_keys")
        with socket.socket() as probe:
            probe.bind((self.address, 0))
            self.port = probe.getsockname()[1]
        # Without PAM sshd lets nobody in whose password is locked, key or not.
        locked = any(line.startswith("root:!") for line in Path("/etc/shadow").read_text().splitlines())
        (directory / "sshd_config").write_text(
            f"ListenAddress {self.address}:{self.port}\nHostKey {directory}/host_key\nPidFile {directory}/sshd.pid\n"
            f"AuthorizedKeysFile {directory}/authorized_keys\nStrictModes no\nUsePAM {'yes' if locked else 'no'}\n"
            f"PermitRootLogin prohibit-password\nPasswordAuthentication no\nPrintMotd no\nSetEnv HOME={directory}/home\n"
        )
        arguments = [SSHD, "-D", "-f", directory / "sshd_config", "-E", directory / "sshd.log"]
        self.process = subprocess.Popen(arguments, env={}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def wait(self):
        """Waits until it answers."""
        deadline = time.monotonic() + READY
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                with socket.create_connection((self.address, self.port), timeout=READY) as stream:
                    if stream.recv(4) == b"SSH-":
                        return
            except OSError:
                time.sleep(0.01)
        raise AssertionError(f"{self.name}: no sshd: {(self.directory / 'sshd.log').read_text()}")

    def variables(self, app):
        """Returns what an inventory says of it."""
        return {
            "ansible_host": self.address,
            "ansible_port": self.port,
            "ansible_user": "root",
            "fleetdrop_deploy_to": str(self.deploy_to(app)),
        }

    def deploy_to(self, app):
        """Returns an application's directory on it."""
        return self.directory / "apps" / app

    def version(self, app):
        """Returns the version that is live; None if none is."""
        file = self.deploy_to(app) / "current/VERSION"
        return file.read_text().strip() if file.exists() else None


class Fleet:
    """Some hosts, and what a controller needs to log in to them."""

    def __init__(self, directory, count):
        Path("/run/sshd").mkdir(exist_ok=True)
        directory.mkdir()
        self.client_key = directory / "id_ed25519"
        keygen(self.client_key)
        self.hosts = []
        try:
            for number in range(1, count + 1):
                self.hosts.append(Host(number, directory / f"host-{number:02}", self.client_key))
            for host in self.hosts:
                host.wait()
        except BaseException:
            self.stop()
            raise

    def known_hosts(self):
        """Returns the hosts' keys, as known_hosts has them."""
        lines = [f"[{h.address}]:{h.port} {(h.directory / 'host_key.pub').read_text()}" for h in self.hosts]
        return "".join(lines)

    def stop(self):
        """Ends the servers."""
        for host in self.hosts:
            host.process.kill()
            host.process.wait()


def keygen(path):
    """Makes a key without a passphrase."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True, env=dict(os.environ))
