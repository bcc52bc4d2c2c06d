//! How a host fetches the agent from another one, with what it has: the programs that can, and the script around them.
//!
//! The source is not trusted. Nothing that arrives is run or stays unless its SHA-256 is right, no file grows larger than the binary
//! is, and a watch ends a fetch that brings nothing at first or takes too long, whatever program it is.

use std::{net::SocketAddr, time::Duration};

use super::{
    super::transport::shell_quote,
    binary::AgentBinary,
    script::{SUM, WRITE_FAILED, WRONG_DIGEST, adopt},
};

/// The script's exit code if nothing complete came; the others are the installer's.
pub(super) const NOT_FETCHED: u32 = 13;

/// The lines that the script prints when everything has come, and when that was the agent, which it starts then.
pub(super) const ARRIVED: &str = "FLEETDROP-AGENT-ARRIVED";
pub(super) const FETCHED: &str = "FLEETDROP-AGENT-FETCHED";

/// How long a fetch may bring nothing at first: where a firewall drops its packets, this is what trying costs.
const FIRST_BYTE: Duration = Duration::from_secs(3);

/// A program that can download a file over HTTP.
///
/// Each command writes what comes to its standard output at once, fails if it is not told `200`, follows no configuration of the user's, and
/// leaves time limits to the script. The path is secret and comes in `$FLEETDROP_RELAY`, so that no other user of the host sees it in
/// a list of processes; wget alone takes it only as an argument. No `'` may be in the small programs: they go between such quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fetcher {
    Curl,
    /// GNU's or busybox's.
    Wget,
    Perl,
    Python,
    /// Its `/dev/tcp`.
    Bash,
}

const PERL: &str = r#"use Socket qw(:DEFAULT getaddrinfo); my ($host, $port) = @ARGV;
my ($error, $at) = getaddrinfo($host, $port, {socktype => SOCK_STREAM}); die "$error\n" if $error;
socket(S, $at->{family}, SOCK_STREAM, 0) && connect(S, $at->{addr}) or die "$!\n";
syswrite S, "GET $ENV{FLEETDROP_RELAY} HTTP/1.0\r\nHost: $host\r\n\r\n"; binmode S; binmode STDOUT; $| = 1; my $head = "";
1 while $head !~ /\n\r?\n/ and length $head < 4096 and sysread S, $head, 1, length $head;
$head =~ m{^\S+ 200 .*\n\r?\n}s or die "refused: ", $head =~ /^(.*)/, "\n";
while (sysread S, $_, 65536) { print or die "$!\n" }"#;

const PYTHON: &str = r#"import os, socket, sys
host, port = sys.argv[1:]
answer = socket.create_connection((host, int(port)))
answer.sendall(("GET %s HTTP/1.0\r\nHost: %s\r\n\r\n" % (os.environ["FLEETDROP_RELAY"], host)).encode())
answer = answer.makefile("rb")
status = answer.readline(4096)
if b" 200 " not in status: sys.exit("refused: %r" % status)
while answer.readline(4096).strip(): pass
part = True
while part:
    part = answer.read1(65536)
    sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()"#;

const BASH: &str = r#"exec 3<>"/dev/tcp/$1/$2" || exit 1
printf "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n" "$FLEETDROP_RELAY" "$1" >&3
read -r status <&3; case $status in *" 200 "*) ;; *) echo "refused: $status" >&2; exit 1 ;; esac
while read -r line <&3; do [ "${#line}" -gt 1 ] || break; done
exec cat <&3"#;

impl Fetcher {
    /// All of them, the one to use first where several are there.
    pub(super) const ALL: [Self; 5] = [Self::Curl, Self::Wget, Self::Perl, Self::Python, Self::Bash];

    /// Returns the program's name.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::Wget => "wget",
            Self::Perl => "perl",
            Self::Python => "python3",
            Self::Bash => "bash",
        }
    }

    /// Returns the fetcher with that program.
    pub(super) fn of(program: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fetcher| fetcher.program() == program)
    }

    /// Returns the command, for a shell, without an end of line.
    fn command(self, source: SocketAddr) -> String {
        let arguments = format!("{} {}", source.ip(), source.port());
        match self {
            Self::Curl => {
                format!("curl -q -g -sS -N -f --noproxy '*' -K - <<END\nurl = \"http://{source}$FLEETDROP_RELAY\"\nEND")
            }
            // Without `-q`, which hides why it failed; busybox takes `-nv` and `-t` and ignores them.
            Self::Wget => format!("wget -nv -t 1 -O - \"http://{source}$FLEETDROP_RELAY\""),
            Self::Perl => format!("perl -e '{PERL}' {arguments}"),
            Self::Python => format!("python3 -I -c '{PYTHON}' {arguments}"),
            Self::Bash => format!("bash -c '{BASH}' bash {arguments}"),
        }
    }
}

/// Builds the script, for `sh -s`: fetches the binary, in gzip, from another host into a directory that the probe offered, then runs
/// `starter` in the same place: another command over SSH would cost a round trip or two, and a process. `path` has no character
/// that is special to a shell.
///
/// Limits and environment of the fetch are those of a subshell: the agent and what it runs have none of them.
pub(super) fn script(
    agent: &AgentBinary,
    directory: &str,
    fetcher: Fetcher,
    source: SocketAddr,
    path: &str,
    limit: Duration,
    starter: &str,
) -> String {
    format!(
        r#"(
umask 077
ulimit -f {blocks}
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
{SUM}
d={directory}; t=$d/.new-$$; g=$t.gz
trap 'rm -f "$t" "$g"' EXIT
: > "$t"; export WGETRC="$t" SYSTEM_WGETRC="$t"
export FLEETDROP_RELAY={path}
fetch() {{
exec {command}
}}
watch() {{
  trap 'kill $! 2>/dev/null; exit 0' TERM
  sleep {first} & wait $!
  if [ -s "$g" ]; then sleep {rest} & wait $!; fi
  kill "$f" 2>/dev/null
}}
fetch > "$g" & f=$!
watch > /dev/null 2>&1 & w=$!
wait "$f"; ended=$?
kill "$w" 2>/dev/null; wait "$w" 2>/dev/null
if [ "$ended" -gt 128 ]; then
  if [ -s "$g" ]; then echo "too large, or not complete after {limit} s" >&2; else echo "nothing came for {first} s" >&2; fi
fi
if [ "$ended" -ne 0 ]; then echo "{tool} failed ($ended)"; exit {NOT_FETCHED}; fi
echo {ARRIVED}
gzip -dc < "$g" > "$t"; ended=$?
if [ "$ended" -ne 0 ]; then
  if [ "$ended" -le 128 ] && gzip -t < "$g" 2>/dev/null; then exit {WRITE_FAILED}; fi
  exit {WRONG_DIGEST}
fi
chmod 700 "$t" || exit {WRITE_FAILED}
[ "$(sum "$t")" = {digest} ] || exit {WRONG_DIGEST}
{adopt}
) || exit
echo {FETCHED}
{starter}
"#,
        // Of 512 bytes, or of 1024 in some shells.
        blocks = agent.size / 512 + 128,
        directory = shell_quote(directory),
        command = fetcher.command(source),
        first = FIRST_BYTE.as_secs(),
        rest = limit.saturating_sub(FIRST_BYTE).as_secs(),
        limit = limit.as_secs(),
        tool = fetcher.program(),
        digest = agent.digest,
        adopt = adopt(agent),
    )
}

#[cfg(test)]
mod tests;
