//! The two small shell scripts that run on a host before the agent does, and what the first one answers.
//!
//! The probe goes through `sh -s` on stdin, so that the login shell does not matter. The installer needs stdin for the binary
//! and is one line without `!`, which any login shell passes on unchanged.

use std::{fmt::Write as _, net::IpAddr, sync::Arc};

use super::{
    super::transport::{is_link_local, shell_quote},
    binary::AgentBinary,
    fetcher::Fetcher,
};
use crate::{model::Digest, wire::PACKED_AGENT};

/// The installer's exit codes.
pub(super) const WRITE_FAILED: u32 = 10;
pub(super) const WRONG_DIGEST: u32 = 11;
pub(super) const DOES_NOT_RUN: u32 = 12;

/// How many agents of other versions stay on a host.
const KEPT_AGENTS: u32 = 4;

const BEGIN: &str = "FLEETDROP-PROBE-BEGIN";
const END: &str = "FLEETDROP-PROBE-END";

/// A shell function `sum FILE` that prints a SHA-256 with whatever is there, or nothing.
///
/// No backslashes: fish, as a login shell, takes a pair of them for one even between single quotes.
pub(super) const SUM: &str = "sum() { s=$( { sha256sum < \"$1\" || shasum -a 256 < \"$1\" || openssl dgst -r -sha256 < \"$1\" || \
                   python3 -c \"import hashlib,sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())\" < \"$1\" || \
                   perl -MDigest::SHA -e \"print Digest::SHA->new(256)->addfile(*STDIN)->hexdigest\" < \"$1\"; } 2>/dev/null ); \
                   printf %s \"${s%% *}\"; }";

/// What is there of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// The very binary, checked.
    Agent(String),
    /// Not there, but this directory can take it.
    Directory(String),
    /// Nowhere to put it: each directory tried, with the reason.
    Nothing(Vec<String>),
}

/// What the probe learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) os: String,
    pub(super) arch: String,
    pub(super) uid: u32,
    pub(super) has_gzip: bool,
    /// What it can fetch the agent with, and check it: none if one of the programs for that is missing.
    pub(super) fetcher: Option<Fetcher>,
    pub(super) ssh_ends: Option<(IpAddr, IpAddr)>,
    pub(super) found: Found,
}

/// Builds the probe: facts, then the first directory that has the agent, else the first that can take it.
///
/// A directory counts if it is ours alone (owned by us and no symlink, which matters below `/tmp`), can be written, and runs
/// what lies in it.
pub(super) fn probe(agents: &[Arc<AgentBinary>], cache: Option<&str>) -> String {
    let mut script = opening(agents, cache);
    let directories = directories(cache);
    let _ = write!(
        script,
        r#"if [ -z "$want" ] || [ -n "$found" ]; then echo {END}; exit 0; fi
umask 077
for dir in {directories}; do
  case $dir in /*) ;; *) continue ;; esac
  made=
  if [ -L "$dir" ]; then echo "refused=$dir is a symlink"; continue; fi
  if [ -e "$dir" ]; then
    if [ ! -O "$dir" ]; then echo "refused=$dir belongs to another user"; continue; fi
  else
    made=$dir
  fi
  undo() {{ rm -f "$test"; rmdir "$dir/agent/$want" "$dir/agent" $made 2>/dev/null; }}
  test="$dir/agent/$want/.test-$$"
  if ! why=$(mkdir -p "$dir/agent/$want" 2>&1); then undo; echo "refused=$dir: $why"; continue; fi
  if ! why=$( (printf '#!/bin/sh\nexit 0\n' > "$test" && chmod 700 "$test") 2>&1); then
    undo; echo "refused=$dir: $why"; continue
  fi
  if ! "$test" 2>/dev/null; then undo; echo "refused=$dir: mounted noexec"; continue; fi
  rm -f "$test"; echo "directory=$dir/agent/$want"; tools
  break
done
echo {END}
"#
    );
    script
}

/// Builds a probe that changes nothing: facts, where the agent is or would go as far as that can be seen, and what `questions`, more
/// lines of shell, print. Those have `$uid` and `near PATH`, which prints what exists of a path.
pub(super) fn look(agents: &[Arc<AgentBinary>], cache: Option<&str>, questions: &str) -> String {
    let mut script = opening(agents, cache);
    let directories = directories(cache);
    let _ = write!(
        script,
        r#"near() {{ at=$1; while [ ! -e "$at" ] && [ ! -L "$at" ]; do at=${{at%/*}}; at=${{at:-/}}; done; printf %s "$at"; }}
if [ -n "$want" ] && [ -z "$found" ]; then
for dir in {directories}; do
  case $dir in /*) ;; *) continue ;; esac
  if [ -L "$dir" ]; then echo "refused=$dir is a symlink"; continue; fi
  if [ -e "$dir" ] && [ ! -O "$dir" ]; then echo "refused=$dir belongs to another user"; continue; fi
  there=$(near "$dir/agent")
  if [ ! -d "$there" ] || [ ! -w "$there" ]; then echo "refused=$dir: nothing can be made in $there"; continue; fi
  if command -v findmnt >/dev/null 2>&1 && findmnt -n -o OPTIONS -T "$there" 2>/dev/null | grep -q -w noexec; then
    echo "refused=$dir: mounted noexec"; continue
  fi
  echo "directory=$dir/agent/$want"; tools
  break
done
fi
{questions}
echo {END}
"#
    );
    script
}

/// Returns the directories that may hold the agent, as words of a shell command.
fn directories(cache: Option<&str>) -> String {
    match cache {
        Some(cache) => quote_path(cache),
        None => "\"$system\" \"$HOME/.cache/fleetdrop\" \"/var/tmp/fleetdrop-$uid\" \"/tmp/fleetdrop-$uid\"".to_owned(),
    }
}

/// Quotes a path for a shell; `~/` at its start is the home directory.
pub(in crate::controller) fn quote_path(path: &str) -> String {
    match path.strip_prefix("~/") {
        Some(rest) => format!("\"$HOME\"/{}", shell_quote(rest)),
        None => shell_quote(path),
    }
}

/// Where the agent keeps artifacts unless it is told another place: for root and for others. It has no say here, for it may not be there.
const DEFAULT_CACHES: [&str; 2] = ["/var/cache/fleetdrop", "~/.cache/fleetdrop"];

/// Returns a line of shell that sets `cache` to the host's cache; `$uid` is the user's id.
pub(in crate::controller) fn find_cache(cache: Option<&str>) -> String {
    let [of_root, of_user] = DEFAULT_CACHES.map(|default| quote_path(cache.unwrap_or(default)));
    format!("if [ \"$uid\" = 0 ]; then cache={of_root}; else cache={of_user}; fi")
}

/// Returns where an artifact is in a cache.
pub(in crate::controller) fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{digest}")
}

/// Returns what every probe begins with: it tells the facts and looks for the agent, whose path is `$found` then.
fn opening(agents: &[Arc<AgentBinary>], cache: Option<&str>) -> String {
    let mut script = format!("{SUM}\narch=$(uname -m); uid=$(id -u); want=; size=\n");
    for agent in agents {
        let _ = writeln!(script, "if [ \"$arch\" = {} ]; then want={}; size={}; fi", agent.arch, agent.digest, agent.size);
    }
    let _ = write!(
        script,
        r#"ends=${{FLEETDROP_SSH:-$SSH_CONNECTION}}
echo {BEGIN}
echo "os=$(uname -s)"; echo "arch=$arch"; echo "uid=$uid"; echo "ends=$ends"
if command -v gzip >/dev/null 2>&1; then echo gzip=yes; fi
system=; if [ "$uid" = 0 ]; then system=/var/cache/fleetdrop; fi
same() {{ have=$(sum "$1"); if [ -z "$have" ]; then [ "$(wc -c < "$1")" -eq "$size" ]; else [ "$have" = "$want" ]; fi; }}
tools() {{
  if command -v gzip >/dev/null 2>&1 && [ -n "$(sum /dev/null)" ]; then
    for tool in {fetchers}; do if command -v $tool >/dev/null 2>&1; then echo "fetch=$tool"; break; fi; done
  fi
}}
found=
for dir in {directories}; do
  case $dir in /*) ;; *) continue ;; esac
  agent=$dir/agent/$want/fleetdrop-agent
  if [ -n "$want" ] && [ -O "$dir" ] && [ ! -L "$dir" ] && [ -x "$agent" ] && same "$agent"; then
    found=$agent; echo "agent=$agent"; break
  fi
done
"#,
        fetchers = Fetcher::ALL.map(Fetcher::program).join(" "),
        directories = directories(cache),
    );
    script
}

/// Returns the lines of a probe's answer, which may have anything before it.
pub(super) fn answer(stdout: &str) -> Option<&str> {
    let (_, answer) = stdout.split_once(BEGIN)?;
    Some(answer.split_once(END)?.0)
}

/// Builds the installer for a directory that the probe offered. Reads the binary on stdin.
pub(super) fn install(agent: &AgentBinary, directory: &str, gzipped: bool) -> String {
    let unpack = if gzipped { "cat > \"$g\" && gzip -dc < \"$g\" > \"$t\"" } else { "cat > \"$t\"" };
    let script = format!(
        "umask 077; {SUM}; d=$1; t=$d/.new-$$; g=$t.gz; trap \"rm -f \\\"$t\\\" \\\"$g\\\"\" EXIT; \
         {unpack} && chmod 700 \"$t\" || exit {WRITE_FAILED}; \
         have=$(sum \"$t\"); \
         if [ -z \"$have\" ]; then [ \"$(wc -c < \"$t\")\" -eq {size} ] || exit {WRONG_DIGEST}; \
         else [ \"$have\" = {digest} ] || exit {WRONG_DIGEST}; fi; \
         {adopt}",
        size = agent.size,
        digest = agent.digest,
        adopt = adopt(agent),
    );
    format!("sh -c {} sh {}", shell_quote(&script), shell_quote(directory))
}

/// Returns an installer's end: `$t`, whose digest is right, becomes the agent in `$d`, beside it `$g`, the same in gzip, which it
/// serves to other hosts, if it came so; and old ones go, with what a killed installer or probe has left beside them.
pub(super) fn adopt(agent: &AgentBinary) -> String {
    let mut version = agent.arguments().to_vec();
    version.push("--version");
    format!(
        "\"$t\" {version} >/dev/null || exit {DOES_NOT_RUN}; \
         mv -f \"$t\" \"$d/fleetdrop-agent\" || exit {WRITE_FAILED}; \
         if [ -f \"$g\" ]; then mv -f \"$g\" \"$d/{PACKED_AGENT}\"; fi; \
         cd \"$d/..\" && set -- * && [ \"$#\" -gt {KEPT_AGENTS} ] && ls -1t | grep -E -x \"[0-9a-f]{{64}}\" | tail -n +{first_old} | \
         while read -r old; do rm -f \"./$old/fleetdrop-agent\" \"./$old/{PACKED_AGENT}\" \"./$old\"/.new-* \"./$old\"/.test-*; rmdir \"./$old\"; done; exit 0",
        version = version.join(" "),
        first_old = KEPT_AGENTS + 1,
    )
}

impl Facts {
    /// Reads a probe's answer.
    pub(super) fn parse(stdout: &str) -> Option<Self> {
        let answer = answer(stdout)?;
        let mut facts = Self {
            os: String::new(),
            arch: String::new(),
            uid: u32::MAX,
            has_gzip: false,
            fetcher: None,
            ssh_ends: None,
            found: Found::Nothing(Vec::new()),
        };
        let mut refused = Vec::new();
        for line in answer.lines() {
            match line.split_once('=') {
                Some(("os", os)) => facts.os = os.to_owned(),
                Some(("arch", arch)) => facts.arch = arch.to_owned(),
                Some(("uid", uid)) => facts.uid = uid.parse().ok()?,
                Some(("gzip", _)) => facts.has_gzip = true,
                Some(("fetch", program)) => facts.fetcher = Fetcher::of(program),
                Some(("ends", ends)) => facts.ssh_ends = parse_ends(ends),
                Some(("agent", path)) => facts.found = Found::Agent(path.to_owned()),
                Some(("directory", path)) => facts.found = Found::Directory(path.to_owned()),
                Some(("refused", why)) => refused.push(why.to_owned()),
                _ => (),
            }
        }
        if let Found::Nothing(reasons) = &mut facts.found {
            *reasons = refused;
        }
        Some(facts)
    }
}

/// Reads `$SSH_CONNECTION`: client address, client port, server address, server port. Link-local addresses mean something on one
/// link only and are no addresses to give to others.
fn parse_ends(text: &str) -> Option<(IpAddr, IpAddr)> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [client, _, host, _] = words[..] else { return None };
    let address = |word: &str| word.parse().ok().filter(|ip| !is_link_local(*ip));
    Some((address(client)?, address(host)?))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    use super::*;
    use crate::controller::push::AgentFinder;

    #[test]
    fn facts_are_found_behind_a_login_banner() {
        let stdout = format!(
            "Welcome!\n{BEGIN}\nos=Linux\narch=x86_64\nuid=0\nends=2001:db8::5 5022 10.0.0.7 22\ngzip=yes\nrefused=/a: no\n{END}\nbye"
        );
        let facts = Facts::parse(&stdout).unwrap();
        assert_eq!((facts.os.as_str(), facts.arch.as_str(), facts.uid, facts.has_gzip), ("Linux", "x86_64", 0, true));
        assert_eq!(facts.ssh_ends, Some(("2001:db8::5".parse().unwrap(), "10.0.0.7".parse().unwrap())));
        assert_eq!(facts.found, Found::Nothing(vec!["/a: no".into()]));
        assert_eq!(Facts::parse("sorry"), None);
        for none in ["", "fe80::1%eth0 5022 fe80::2%eth0 22", "10.0.0.1 5 10.0.0.2", "x 1 y 2"] {
            assert_eq!(parse_ends(none), None, "{none}");
        }
    }

    #[tokio::test]
    async fn what_a_login_shell_gets_has_no_backslash_pairs_and_only_agents_are_pruned() {
        let (bin, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let agent = agent_in(bin.path(), "#!/bin/sh\nexit 0\n").await;
        let base = cache.path().join("agent");
        let directory = base.join(agent.digest.to_string());
        std::fs::create_dir_all(&directory).unwrap();
        for number in 0..8 {
            let old = base.join(format!("{number:064x}"));
            std::fs::create_dir_all(&old).unwrap();
            for left in ["fleetdrop-agent", PACKED_AGENT, ".new-7", ".new-7.gz", ".test-7"] {
                std::fs::write(old.join(left), "cut short").unwrap();
            }
        }
        for foreign in ["another-program", "x", "y", "z", "w"] {
            std::fs::create_dir_all(base.join(foreign)).unwrap();
        }
        let command = install(&agent, directory.to_str().unwrap(), false);
        assert!(!command.contains(r"\\"), "{command}");
        let output = shell(&command, &agent.plain().await.unwrap());
        assert!(output.status.success(), "{output:?}");
        assert!(directory.join("fleetdrop-agent").is_file());
        assert_eq!(std::fs::read_dir(&base).unwrap().count(), KEPT_AGENTS as usize + 5, "four agents and what is not ours");
    }

    fn shell(command: &str, input: &[u8]) -> std::process::Output {
        let mut child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The installer may end before it has read everything; its exit code is what is checked.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    async fn agent_in(directory: &std::path::Path, content: &str) -> Arc<AgentBinary> {
        std::fs::write(directory.join("fleetdrop-agent"), content).unwrap();
        let finder = AgentFinder::new(None, directory.join("fleetdrop"));
        finder.available().await.unwrap()[0].clone()
    }

    #[tokio::test]
    async fn probe_then_install_then_probe_finds_it() {
        let (bin, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let agent = agent_in(bin.path(), "#!/bin/sh\nexit 0\n").await;
        let cache = cache.path().join("it's a cache");
        let ask = || {
            let script = probe(std::slice::from_ref(&agent), cache.to_str());
            Facts::parse(&String::from_utf8(shell("sh -s", script.as_bytes()).stdout).unwrap()).unwrap()
        };
        let Found::Directory(directory) = ask().found else { panic!("{:?}", ask()) };
        let gzipped = agent.gzipped().await.unwrap();
        let wrong = shell(&install(&agent, &directory, false), &gzipped);
        assert_eq!(wrong.status.code(), Some(WRONG_DIGEST as i32));
        let broken = shell(&install(&agent, &directory, true), b"not gzip");
        assert_eq!(broken.status.code(), Some(WRITE_FAILED as i32));
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0, "nothing half-written stays");
        let pushed = shell(&install(&agent, &directory, true), &gzipped);
        assert!(pushed.status.success(), "{pushed:?}");
        assert!(std::fs::read(format!("{directory}/{PACKED_AGENT}")).unwrap() == *gzipped, "others can get it as it came");
        assert_eq!(ask().found, Found::Agent(format!("{directory}/fleetdrop-agent")));

        std::fs::write(format!("{directory}/fleetdrop-agent"), "#!/bin/sh\nexit 1\n").unwrap();
        assert!(matches!(ask().found, Found::Directory(_)), "a replaced agent is not used");
    }

    #[tokio::test]
    async fn an_agent_that_does_not_run_says_so() {
        let (bin, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let agent = agent_in(bin.path(), "#!/nowhere/sh\n").await;
        let output = shell(&install(&agent, cache.path().to_str().unwrap(), false), &agent.plain().await.unwrap());
        assert_eq!(output.status.code(), Some(DOES_NOT_RUN as i32), "{output:?}");
    }

    #[tokio::test]
    async fn a_cache_that_cannot_be_made_is_named_with_its_reason() {
        let bin = tempfile::tempdir().unwrap();
        let agent = agent_in(bin.path(), "#!/bin/sh\n").await;
        let script = probe(&[agent], Some("/proc/none"));
        let facts = Facts::parse(&String::from_utf8(shell("sh -s", script.as_bytes()).stdout).unwrap()).unwrap();
        let Found::Nothing(refused) = facts.found else { panic!("{facts:?}") };
        assert!(refused[0].starts_with("/proc/none: "), "{refused:?}");
    }
}
