"""Runs what the examples say, with the real programs, on real sshd hosts: every pipeline's own shell, the script they share, the
Ansible playbook and the commands of the README. `FLEETDROP_BIN` is the directory of the two binaries."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import pipelines
from fleet import Fleet

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PATIENCE = 120
# On the last host, which is in the second wave, a release that is called "bad" does not start.
PLAYBOOK = """\
app: shop
rollout:
  waves: [1, 100%]
  max_failures: {canary: 0, after: 0}
  on_failure: rollback
hooks:
  after_activate: ["! grep -q bad VERSION || [ $FLEETDROP_HOST != host-03 ]"]
"""
# The way back takes longer than the script waits before it passes a signal on.
PAUSING = PLAYBOOK.replace("on_failure", "pause: 10m\n  on_failure") + '  on_revert: ["sleep 2"]\n'


def setUpModule():
    """Makes a runner's machine and a fleet, which the tests share: each has an application of its own."""
    global PLACE, BIN, FLEET
    PLACE = Path(tempfile.mkdtemp(prefix="fleetdrop-examples-"))
    unittest.addModuleCleanup(shutil.rmtree, PLACE)
    BIN = PLACE / "bin"
    BIN.mkdir()
    built = Path(os.environ["FLEETDROP_BIN"])
    shutil.copy(built / "fleetdrop", BIN)
    subprocess.run(["strip", "-o", BIN / f"fleetdrop-agent-{os.uname().machine}", built / "fleetdrop-agent"], check=True)
    FLEET = Fleet(PLACE / "fleet", 3)
    unittest.addModuleCleanup(FLEET.stop)


def end_group(leader):
    """Kills what a process started in its session has left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()


class Rehearsal(unittest.TestCase):
    """A repository that uses the examples: host 1 is staging, the others are production."""

    def setUp(self):
        self.app = self.id().split(".")[-1]
        self.repository = PLACE / self.app
        self.home = PLACE / f"{self.app}-home"
        self.temporary = self.home / "tmp"
        self.temporary.mkdir(parents=True)
        deploy = self.repository / "deploy"
        (deploy / "inventories").mkdir(parents=True)
        (self.repository / "ci").mkdir()
        shutil.copy(EXAMPLES / "ci/fleetdrop.sh", self.repository / "ci")
        for name, hosts in [("staging", FLEET.hosts[:1]), ("production", FLEET.hosts[1:])]:
            (deploy / f"inventories/{name}.yaml").write_text(self.inventory(hosts))
        (deploy / "playbook.yaml").write_text(PLAYBOOK)
        self.write_version("1")
        self.key = FLEET.client_key.read_text()
        self.said = ""

    def tearDown(self):
        self.assertEqual(list(self.temporary.iterdir()), [], "files were left behind, maybe the key")
        secret = self.key.splitlines()[1]
        self.assertNotIn(secret, self.said, "the key was printed")

    def inventory(self, hosts):
        """Returns an inventory; JSON is YAML."""
        return json.dumps({"web": {"hosts": {host.name: host.variables(self.app) for host in hosts}}})

    def write_version(self, version):
        """Makes the build's result another one."""
        build = self.repository / "build.sh"
        build.write_text(f"#!/bin/sh\nmkdir dist && echo {version} >dist/VERSION && cp build.sh dist/\n")
        build.chmod(0o755)

    def environment(self, **more):
        """Returns a runner's environment."""
        fixed = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(self.home), "TMPDIR": str(self.temporary)}
        # Hosts keep agent and cache below their own homes and not where root has them.
        return {**fixed, "LC_ALL": "C.UTF-8", "FLEETDROP_OPTIONS": "--cache ~/.cache/fleetdrop", **more}

    def secret_files(self):
        """Returns the secrets as files, as GitLab and Jenkins hand them out; GitLab takes the last line's end away."""
        directory = PLACE / f"{self.app}-secrets"
        directory.mkdir(exist_ok=True)
        (directory / "key").write_text(self.key.rstrip("\n"))
        (directory / "known_hosts").write_text(FLEET.known_hosts())
        return {"SSH_PRIVATE_KEY_FILE": str(directory / "key"), "SSH_KNOWN_HOSTS_FILE": str(directory / "known_hosts")}

    def run_line(self, line, code, directory, **more):
        """Runs a program to its end, expects its exit code and returns what it said."""
        run = subprocess.run(
            line,
            check=False,
            cwd=directory,
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        self.said += run.stdout
        self.assertEqual(run.returncode, code, f"{line}\n{run.stdout}")
        return run.stdout

    def run_jobs(self, jobs, shell):
        """Runs jobs, each in a fresh checkout; files go from one to another only where the pipeline says so."""
        store = {}
        for number, job in enumerate(jobs):
            checkout = PLACE / f"{self.app}-{number}"
            shutil.copytree(self.repository, checkout)
            for step in job.steps:
                match step:
                    case "sh", text, settings:
                        self.run_line([*shell, text], 0, checkout, **{**job.environment, **settings})
                    case "put", name, path:
                        source, target = checkout / path.rstrip("/*"), store.setdefault(name, PLACE / f"{self.app}-{name}")
                        target.mkdir(exist_ok=True)
                        (shutil.copytree if source.is_dir() else shutil.copy)(source, target / source.name)
                    case "get", name:
                        shutil.copytree(store[name], checkout, dirs_exist_ok=True)
            shutil.rmtree(checkout)
        for name in store.values():
            shutil.rmtree(name)

    def expect_live(self, *versions):
        """Checks what is live on each host."""
        self.assertEqual([host.version(self.app) for host in FLEET.hosts], list(versions), self.said)

    def story(self, jobs, shell):
        """Deploys two versions, goes back, and forth again by the release's name. `jobs` is asked for the jobs of each."""
        self.run_jobs(jobs("deploy", None), shell)
        self.expect_live("1", "1", "1")
        self.write_version("2")
        self.run_jobs(jobs("deploy", None), shell)
        self.expect_live("2", "2", "2")
        release = (FLEET.hosts[1].deploy_to(self.app) / "current").readlink().name
        self.run_jobs(jobs("rollback", ""), shell)
        self.expect_live("2", "1", "1")
        self.run_jobs(jobs("rollback", release), shell)
        self.expect_live("2", "2", "2")


class Pipelines(Rehearsal):
    """The three pipelines."""

    def test_github(self):
        def jobs(what, release):
            secrets = {"SSH_PRIVATE_KEY": self.key, "SSH_KNOWN_HOSTS": FLEET.known_hosts()}
            event = "push" if what == "deploy" else "workflow_dispatch"
            inputs = {"environment": "production", "release": release}
            return pipelines.github(EXAMPLES / "ci/github-actions.yml", event, inputs, secrets)

        self.story(jobs, ["bash", "-e", "-c"])

    def test_gitlab(self):
        def jobs(what, release):
            wanted = {
                "deploy": ["build", "deploy staging", "plan production", "deploy production"],
                "rollback": ["roll back production"],
            }
            jobs = pipelines.gitlab(EXAMPLES / "ci/gitlab-ci.yml", wanted[what], self.secret_files())
            for job in jobs:
                # What somebody gives a job that is started by hand.
                job.environment.update({"RELEASE": release} if release else {})
            return jobs

        self.story(jobs, ["bash", "-eo", "pipefail", "-c"])

    def test_jenkins(self):
        def jobs(what, release):
            parameters = {"ACTION": what, "ENVIRONMENT": "production", "RELEASE": release or ""}
            files = self.secret_files()
            credentials = {}
            for name in ["staging", "production"]:
                credentials[f"fleetdrop-{name}-key"] = files["SSH_PRIVATE_KEY_FILE"]
                credentials[f"fleetdrop-{name}-known-hosts"] = files["SSH_KNOWN_HOSTS_FILE"]
            return pipelines.jenkins(EXAMPLES / "ci/Jenkinsfile", parameters, credentials)

        self.story(jobs, ["sh", "-xe", "-c"])


class Script(Rehearsal):
    """The script that the pipelines share, where things go wrong."""

    def script(self, command, code, **more):
        """Runs it for production and returns what it said."""
        settings = {"ENVIRONMENT": "production", **self.secret_files(), **more}
        return self.run_line(["ci/fleetdrop.sh", *command.split()], code, self.repository, **settings)

    def pack(self, version):
        """Builds a version."""
        shutil.rmtree(self.repository / "dist", ignore_errors=True)
        self.write_version(version)
        self.run_line(["./build.sh"], 0, self.repository)
        self.script("pack dist", 0)

    def test_a_bad_release_goes_back_and_says_so(self):
        self.pack("1")
        deploy = {"FLEETDROP_DEPLOY": "--advertise 127.0.0.1 --rehash", "FLEETDROP_HISTORY": "none"}
        self.script("plan", 0, **deploy)
        self.script("deploy", 0, **deploy)
        self.pack("bad")
        said = self.script("deploy", 8)
        self.assertIn("error: too many hosts failed: it was stopped, and rolled back if the playbook says so", said)
        self.expect_live(None, "1", "1")
        said = self.run_line(["fleetdrop", "history"], 0, self.repository)
        self.assertIn("rolled back", said)
        self.assertEqual(said.count("deploy shop"), 1, "the first one was to leave no trace")

    def test_hosts_that_fail_or_are_away_have_codes_of_their_own(self):
        self.pack("1")
        hosts = json.loads((self.repository / "deploy/inventories/production.yaml").read_text())
        hosts["web"]["hosts"]["away"] = {**FLEET.hosts[1].variables(self.app), "ansible_port": 1}
        (self.repository / "deploy/inventories/production.yaml").write_text(json.dumps(hosts))
        options = self.environment()["FLEETDROP_OPTIONS"]
        said = self.script("plan", 8, FLEETDROP_OPTIONS=options)
        self.assertIn("error: too many hosts would drop out", said)
        options += " --max-failures 1"
        said = self.script("plan", 0, FLEETDROP_OPTIONS=options)
        self.assertIn("warning: some hosts would drop out", said)
        self.assertIn("away", said)
        said = self.script("deploy", 4, FLEETDROP_OPTIONS=options)
        self.assertIn("error: some hosts could not be reached; the others are live", said)
        self.expect_live(None, "1", "1")

    def test_what_somebody_typed_stays_data(self):
        for release in ["x; touch pwned", "$(touch pwned)", "--max-failures=100%", "../../etc", "x\ntouch pwned"]:
            self.assertIn("error: bad usage or input, no host was touched", self.script("rollback", 5, RELEASE=release))
        for environment in ["", "../inventories/production", "nowhere", "a b"]:
            self.script("deploy", 5, ENVIRONMENT=environment)
        self.assertIn("neither SSH_PRIVATE_KEY nor", self.script("deploy", 5, SSH_PRIVATE_KEY_FILE=""))
        self.assertEqual(list(self.repository.rglob("pwned")), [])
        (self.repository / "deploy/playbook.yaml").write_text("app: shop\nwaves: 1\n")
        self.assertIn("unknown key `waves`", self.script("plan", 5))

    def cancel(self, tell):
        """Deploys, cancels the job between two waves and returns what it said."""
        self.pack("1")
        (self.repository / "deploy/playbook.yaml").write_text(PAUSING)
        log = self.repository / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["ci/fleetdrop.sh", "deploy"],
                cwd=self.repository,
                env=self.environment(ENVIRONMENT="production", SSH_PRIVATE_KEY=self.key, SSH_KNOWN_HOSTS=FLEET.known_hosts()),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.addCleanup(end_group, process)
        report, deadline = self.repository / "reports/deploy.ndjson", time.monotonic() + PATIENCE
        while not (report.exists() and '"event":"paused"' in report.read_text()):
            self.assertTrue(process.poll() is None and time.monotonic() < deadline, log.read_text())
            time.sleep(0.05)
        self.expect_secrecy(process.pid)
        tell(process.pid)
        self.assertEqual(process.wait(PATIENCE), 130, log.read_text())
        self.assertIn("error: cancelled", log.read_text())
        summary = json.loads(report.read_text().splitlines()[-1])
        # It ended by itself and not by a second signal: there is a summary, and what was switched went back.
        self.assertEqual((summary["event"], summary["verdict"]), ("run_finished", "interrupted"), summary)
        self.expect_live(None, None, None)

    def expect_secrecy(self, script):
        """Checks, while it runs, who can see the key: nobody else in files, and fleetdrop's environment and words don't have it."""
        files = list(self.temporary.rglob("*"))
        self.assertTrue(any(file.is_file() and self.key in file.read_text() for file in files), files)
        self.assertEqual([file for file in files if file.stat().st_mode & 0o077], [])
        [child] = Path(f"/proc/{script}/task/{script}/children").read_text().split()
        seen = Path(f"/proc/{child}/cmdline").read_text() + Path(f"/proc/{child}/environ").read_text()
        self.assertIn("--identity-file", seen)
        self.assertNotIn(self.key.splitlines()[1], seen)

    def test_a_signal_to_the_first_process_stops_cleanly(self):
        self.cancel(lambda pid: os.kill(pid, signal.SIGINT))

    def test_a_signal_to_all_processes_stops_cleanly(self):
        self.cancel(lambda pid: os.killpg(pid, signal.SIGTERM))


class Ansible(Rehearsal):
    """The Ansible playbook."""

    def setUp(self):
        super().setUp()
        shutil.copytree(EXAMPLES / "ansible", self.repository / "ansible")
        self.directory = self.repository / "ansible"
        hosts = {host.name: host.variables(self.app) for host in FLEET.hosts}
        (self.directory / "inventory.yml").write_text(json.dumps({"web": {"hosts": hosts}}))
        # For the hosts, which fleetdrop knows as well. fleetdrop itself must not run under sudo for that.
        (self.directory / "group_vars/web.yml").write_text("ansible_become: true\nansible_become_user: root\n")
        (self.directory / "shop.yaml").write_text(PLAYBOOK)
        files = self.secret_files()
        known_hosts, key = files["SSH_KNOWN_HOSTS_FILE"], FLEET.client_key
        options = ["--known-hosts", known_hosts, "--identity-file", str(key), "--cache", "~/.cache/fleetdrop"]
        variables = {"fleetdrop_options": options, "fleetdrop_deploy_options": ["--rehash"], "fleetdrop_artifact": "artifact.tar.zst"}
        self.options = json.dumps(variables)

    def play(self, code, *arguments):
        """Runs the playbook and returns each host's recap."""
        line = ["ansible-playbook", "-i", "inventory.yml", "deploy.yml", "-e", self.options, *arguments]
        said = self.run_line(line, code, self.directory, ANSIBLE_NOCOLOR="1", ANSIBLE_LOCAL_TEMP=str(self.home / "ansible"))
        recap = re.findall(r"^(host-\d+) +: .*changed=(\d).*failed=(\d)", said, re.MULTILINE)
        return said, [(int(changed), int(failed)) for _, changed, failed in recap]

    def pack(self, version):
        """Builds a version."""
        dist = self.directory / "dist"
        dist.mkdir(exist_ok=True)
        (dist / "VERSION").write_text(f"{version}\n")
        self.run_line(["tar", "--zstd", "-cf", "artifact.tar.zst", "-C", "dist", "."], 0, self.directory)

    def test_ansible(self):
        self.pack("1")
        said, recap = self.play(0, "--check")
        self.assertIn("switch in wave 1", said)
        self.assertEqual(recap, [(1, 0)] * 3)
        self.expect_live(None, None, None)
        self.assertEqual(self.play(0, "-l", "web:!host-01")[1], [(1, 0)] * 2)
        self.expect_live(None, "1", "1")
        self.assertEqual(self.play(0)[1], [(1, 0), (0, 0), (0, 0)], "hosts that had it are not changed")
        self.pack("2")
        self.assertEqual(self.play(0, "--tags", "deploy")[1], [(1, 0)] * 3)
        self.expect_live("2", "2", "2")
        said, recap = self.play(0, "--tags", "rollback", "--check")
        self.assertEqual(recap, [(1, 0)] * 3)
        current = (FLEET.hosts[2].deploy_to(self.app) / "current").readlink().name
        [previous] = {release.name for release in FLEET.hosts[2].deploy_to(self.app).glob("releases/*")} - {current}
        self.assertIn(previous, said)
        self.expect_live("2", "2", "2")
        self.assertEqual(self.play(0, "--tags", "rollback")[1], [(1, 0)] * 3)
        self.expect_live("1", "1", "1")
        self.pack("bad")
        said, recap = self.play(2)
        self.assertEqual(recap, [(0, 1)] * 3, said)
        self.expect_live("1", "1", "1")
        said = self.play(2, "--tags", "rollback", "-e", "fleetdrop_release=../x")[0]
        self.assertIn("invalid value '../x' for '--to", said)


class Readme(Rehearsal):
    """The commands that the README names."""

    def test_readme(self):
        lines = re.findall(r"^    (fleetdrop .*)$", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
        self.assertTrue(lines)
        options = f"--known-hosts {self.secret_files()['SSH_KNOWN_HOSTS_FILE']} --identity-file {FLEET.client_key}"
        for line in lines:
            more = f" {options} --cache '~/.cache/fleetdrop'" if "--hosts" in line else ""
            self.run_line(["bash", "-c", line + more], 0, self.repository)


if __name__ == "__main__":
    # A shell's background job ignores SIGINT, its children inherit that, and a script can't trap what was ignored from the start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    unittest.main()
