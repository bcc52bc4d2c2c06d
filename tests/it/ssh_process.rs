//! Commands on a real sshd: their streams, their end, and the end of the connection under them.

use std::time::Duration;

use fleetdrop::ssh::{Connection, ExitStatus, Process, RunLimits, SshError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

use crate::ssh_rig::{Rig, Server, run};

/// A wait that only a defect makes as long.
const LONG: Duration = Duration::from_secs(60);

async fn connect(rig: &Rig, server: &Server) -> Connection {
    rig.connector().connect(&server.target()).await.unwrap()
}

/// Bytes that do not repeat within any window or packet.
fn noise(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

#[tokio::test]
async fn a_command_ends_with_its_code_or_signal_and_its_streams_apart() {
    let rig = Rig::new();
    let server = rig.server("");
    let connection = connect(&rig, &server).await;
    let run = async |command: &str| connection.run(command, b"input", RunLimits::default()).await.unwrap();
    let output = run("cat; echo problem >&2; exit 7").await;
    assert_eq!(
        (output.status, &output.stdout[..], &output.stderr[..]),
        (ExitStatus::Code(7), &b"input"[..], &b"problem\n"[..])
    );
    assert!(run("true").await.status.success());
    assert_eq!(run("kill -KILL $$").await.status, ExitStatus::Signal("KILL".to_owned()));
    assert_eq!(run("kill -TERM $$").await.status, ExitStatus::Signal("TERM".to_owned()));
    assert_eq!(run("/no/such/command").await.status, ExitStatus::Code(127));
    connection.close().await;
}

#[tokio::test]
async fn much_goes_in_and_out_of_all_three_streams_at_once() {
    let rig = Rig::new();
    let server = rig.server("");
    let connection = connect(&rig, &server).await;
    let data = noise(20 << 20);
    let limits = RunLimits { timeout: LONG, max_output: data.len() };
    let output = timeout(LONG, connection.run("tee /dev/stderr", &data, limits)).await.unwrap().unwrap();
    assert!(output.stdout == data && output.stderr == data);
}

#[tokio::test]
async fn several_commands_share_the_connection() {
    let rig = Rig::new();
    let server = rig.server("");
    let connection = connect(&rig, &server).await;
    let data = noise(1 << 20);
    let limits = RunLimits { timeout: LONG, max_output: data.len() };
    let runs = (0..8).map(|_| connection.run("cat", &data, limits));
    for output in futures_util::future::join_all(runs).await {
        assert!(output.unwrap().stdout == data);
    }
    assert_eq!(server.logins(), 1);
}

#[tokio::test]
async fn an_unread_stream_does_not_hold_up_the_others() {
    let rig = Rig::new();
    let server = rig.server("");
    let connection = connect(&rig, &server).await;
    let Process { mut stdin, stdout, mut stderr, exit } =
        connection.exec("head -c 3000000 /dev/zero; wc -c >&2").await.unwrap();
    timeout(LONG, stdin.write_all(&noise(12 << 20))).await.unwrap().unwrap();
    drop(stdin);
    let mut count = String::new();
    timeout(LONG, stderr.read_to_string(&mut count)).await.unwrap().unwrap();
    assert_eq!(count.trim(), (12 << 20).to_string());
    assert_eq!(exit.await.unwrap(), ExitStatus::Code(0));
    drop(stdout);
}

#[tokio::test]
async fn a_reader_that_waits_makes_the_host_wait() {
    let rig = Rig::new();
    let server = rig.server("");
    let connection = connect(&rig, &server).await;
    let total = 64 << 20;
    let Process { mut stdout, mut stderr, exit, .. } =
        connection.exec(&format!("head -c {total} /dev/zero; echo done >&2")).await.unwrap();
    let mut word = String::new();
    let early = timeout(Duration::from_millis(700), stderr.read_to_string(&mut word)).await;
    assert!(early.is_err(), "64 MiB went somewhere without being read");
    let count = timeout(LONG, tokio::io::copy(&mut stdout, &mut tokio::io::sink())).await.unwrap().unwrap();
    assert_eq!(count, total);
    stderr.read_to_string(&mut word).await.unwrap();
    assert_eq!(word, "done\n");
    assert!(exit.await.unwrap().success());
}

#[tokio::test]
async fn a_dropped_stream_is_discarded_and_a_dropped_process_sees_the_end_of_its_input() {
    let rig = Rig::new();
    let server = rig.server("");
    let connection = connect(&rig, &server).await;
    let Process { stdin, stdout, stderr, exit } = connection.exec("head -c 30000000 /dev/zero; exit 3").await.unwrap();
    drop((stdin, stdout, stderr));
    assert_eq!(timeout(LONG, exit).await.unwrap().unwrap(), ExitStatus::Code(3));

    let marker = rig.path("ended");
    let process = connection.exec(&format!("mkfifo {0}; cat; echo end > {0}", marker.display())).await.unwrap();
    run(&connection, &format!("while [ ! -p {} ]; do sleep 0.01; done", marker.display())).await;
    drop(process);
    // Opening a fifo waits for its other end, so no polling here.
    assert_eq!(run(&connection, &format!("cat {}", marker.display())).await, "end");
}

#[tokio::test]
async fn a_command_that_does_not_read_its_input_breaks_the_pipe() {
    let rig = Rig::new();
    let server = rig.server("");
    let connection = connect(&rig, &server).await;
    let Process { mut stdin, exit, .. } = connection.exec("exec true").await.unwrap();
    let written = timeout(LONG, stdin.write_all(&noise(16 << 20))).await.unwrap();
    assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    assert!(exit.await.unwrap().success());
    let output = connection.run("exit 4", &noise(16 << 20), RunLimits::default()).await.unwrap();
    assert_eq!(output.status, ExitStatus::Code(4), "not reading is no failure of a run");
}

#[tokio::test]
async fn limits_of_a_run_are_errors_and_leave_the_connection_usable() {
    let rig = Rig::new();
    let server = rig.server("");
    let connection = connect(&rig, &server).await;
    let limits = RunLimits { timeout: Duration::from_millis(300), max_output: 1000 };
    let error = connection.run("sleep 1000", b"", limits).await.unwrap_err();
    assert!(matches!(error, SshError::Timeout { .. }), "{error}");
    assert_eq!(error.to_string(), format!("{}: the command took longer than 300 ms", server.address));
    let limits = RunLimits { timeout: LONG, max_output: 1000 };
    let error = connection.run("head -c 1001 /dev/zero", b"", limits).await.unwrap_err();
    assert!(matches!(error, SshError::OutputTooLarge { .. }), "{error}");
    assert_eq!(connection.run("head -c 1000 /dev/zero", b"", limits).await.unwrap().stdout.len(), 1000);
}

#[tokio::test]
async fn a_host_that_refuses_sessions_says_so() {
    let rig = Rig::new();
    let server = rig.server("MaxSessions 1");
    let connection = connect(&rig, &server).await;
    let first = connection.exec("cat").await.unwrap();
    let error = connection.exec("true").await.unwrap_err();
    assert!(matches!(error, SshError::Refused { .. }), "{error}");
    drop(first);
}

#[tokio::test]
async fn a_dropped_connection_is_noticed_everywhere_at_once() {
    let rig = Rig::new();
    let server = rig.server("");
    let connection = connect(&rig, &server).await;
    let Process { mut stdin, mut stdout, exit, .. } = connection.exec("echo ready; cat >/dev/null").await.unwrap();
    let mut ready = [0; 6];
    stdout.read_exact(&mut ready).await.unwrap();
    server.kill_sessions();
    timeout(LONG, connection.closed()).await.unwrap();
    let lost = |error: &SshError| matches!(error, SshError::Lost { .. });
    let error = timeout(LONG, exit).await.unwrap().unwrap_err();
    assert!(lost(&error) && error.to_string().contains("closed by the host"), "{error}");
    assert!(stdout.read_to_end(&mut Vec::new()).await.is_err(), "a broken stream must not look complete");
    assert!(timeout(LONG, stdin.write_all(&noise(1 << 20))).await.unwrap().is_err());
    let error = connection.exec("true").await.unwrap_err();
    assert!(lost(&error), "{error}");
    connection.close().await;
}

/// The clock is stopped once the host is frozen, so that 45 s take no time.
#[tokio::test]
async fn a_host_that_answers_nothing_any_more_is_given_up_within_45_seconds() {
    let rig = Rig::new();
    let server = rig.server("");
    let connection = connect(&rig, &server).await;
    let Process { exit, mut stdin, .. } = connection.exec("cat >/dev/null").await.unwrap();
    stdin.write_all(b"x").await.unwrap();
    server.freeze_sessions();
    tokio::time::pause();
    let since = Instant::now();
    connection.closed().await;
    assert!(since.elapsed() <= Duration::from_secs(46), "{:?}", since.elapsed());
    let error = exit.await.unwrap_err();
    assert!(error.to_string().contains("does not answer any more"), "{error}");
}

/// As above, with so much on its way that the session is stuck writing.
#[tokio::test]
async fn a_frozen_host_is_given_up_also_in_the_middle_of_an_upload() {
    let rig = Rig::new();
    let server = rig.server("");
    let connection = connect(&rig, &server).await;
    let Process { exit, mut stdin, mut stdout, .. } = connection.exec("echo ready; cat >/dev/null").await.unwrap();
    let mut ready = [0; 6];
    stdout.read_exact(&mut ready).await.unwrap();
    server.freeze_sessions();
    let upload = tokio::spawn(async move { stdin.write_all(&noise(64 << 20)).await });
    tokio::time::pause();
    let since = Instant::now();
    connection.closed().await;
    assert!(since.elapsed() <= Duration::from_secs(61), "{:?}", since.elapsed());
    assert!(exit.await.is_err());
    assert!(upload.await.unwrap().is_err());
}
