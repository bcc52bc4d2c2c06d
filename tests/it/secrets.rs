//! What a run with known secrets leaves behind, looked through byte by byte: output, history, hosts, processes while it lasts.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use crate::{
    artifact,
    operator::Operator,
    origin_rig::{Canned, Reply},
    sshd::SshdFleet,
};

/// Returns every regular file below a directory.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let (mut directories, mut files) = (vec![directory.to_owned()], Vec::new());
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files
}

fn holds(bytes: &[u8], secret: &str) -> bool {
    String::from_utf8_lossy(bytes).contains(secret)
}

/// The hook's view of a host: all processes with their environments, and its own.
const LOOK: &str = "ps axeww > \"$FLEETDROP_DEPLOY_TO/shared/seen\"; env >> \"$FLEETDROP_DEPLOY_TO/shared/seen\"; \
                    cat /proc/[0-9]*/environ >> \"$FLEETDROP_DEPLOY_TO/shared/seen\" 2>/dev/null; true";

#[test]
fn a_run_with_secrets_leaves_none_of_them_behind() {
    let (operator, fleet) = (Operator::new(), SshdFleet::start(2));
    let work = operator.work();
    let artifact = artifact::shop(&work, "1", 2 << 20);
    let served = fs::read(&artifact).unwrap();
    let [token, password, signature] =
        ["token", "password", "signature"].map(|kind| format!("{kind}-{:016x}", fastrand::u64(..)));
    let needed = format!("Bearer {token}");
    // One origin takes the token, one the password, and one has a signature in its address and is broken, so that its error is told.
    let by_token = Canned::start(move |asked, _| match asked.headers.contains(&("authorization".into(), needed.clone())) {
        true => Reply::part(&served, asked),
        false => Reply::status(401),
    });
    let by_password = Canned::start(|_, _| Reply::status(403));
    let signed = Canned::start(|_, _| Reply::status(500));
    let secrets = work.join("netrc");
    let text =
        format!("machine 127.0.0.1\nheader Authorization: Bearer {token}\nmachine localhost login ada password {password}\n");
    fs::write(&secrets, text).unwrap();
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).unwrap();
    let playbook = work.join("shop.yaml");
    let seeds = [
        by_token.url("shop"),
        by_password.url("shop").replace("127.0.0.1", "localhost"),
        signed.url(&format!("shop?X-Signature={signature}")),
    ];
    let seeds: String = seeds.iter().map(|seed| format!("  - {seed}\n")).collect();
    fs::write(&playbook, format!("web_seeds:\n{seeds}linked_dirs: [log]\nhooks:\n  after_stage: ['{}']\n", LOOK)).unwrap();
    let key = fs::read_to_string(fleet.client_key()).unwrap().lines().nth(2).unwrap().to_owned();

    let with = ["--playbook".as_ref(), playbook.as_os_str(), "--origin-auth".as_ref(), secrets.as_os_str()];
    let more =
        ["--web-seed".to_owned(), by_token.url("shop"), "--web-seed".to_owned(), signed.url(&format!("x?k={signature}"))];
    for (call, swarm) in [(operator.deploy(&fleet.fleet(), &artifact).with(with), "--swarm"), {
        let again = operator.deploy(&fleet.fleet(), &artifact).with(with).with(more);
        (again, "--no-swarm")
    }] {
        let output = call.with([swarm, "-vvv", "--history"]).with([work.join("history.db")]).command().output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        for secret in [&token, &password, &signature, &key] {
            assert!(!holds(&output.stdout, secret), "{secret} is in the events");
            assert!(!holds(&output.stderr, secret), "{secret} is on stderr: {}", String::from_utf8_lossy(&output.stderr));
        }
        for host in fleet.hosts() {
            // The next run is to do it all again.
            let seen = fs::read(host.deploy_to().join("shared/seen")).unwrap();
            assert!(holds(&seen, "fleetdrop-agent") && holds(&seen, "FLEETDROP_RUN_ID"), "the hook has not seen the agent");
            for secret in [&token, &password, &key].into_iter().chain((swarm == "--swarm").then_some(&signature)) {
                assert!(!holds(&seen, secret), "{secret} is among processes and environments on {}", host.name());
            }
            fs::remove_file(host.deploy_to().join("shared/seen")).unwrap();
            fs::remove_file(host.deploy_to().join("current")).unwrap();
            fs::remove_dir_all(host.deploy_to().join("releases")).unwrap();
            fs::remove_dir_all(host.home().join(".cache/fleetdrop/blobs")).unwrap();
        }
    }
    let basic = |(name, value): &(String, String)| name == "authorization" && value.starts_with("Basic ");
    assert!(by_password.asked().iter().any(|asked| asked.headers.iter().any(basic)), "the password was not used");
    assert!(
        by_token.asked().iter().filter(|asked| asked.range.is_some()).count() > 2,
        "the origin with the token was not used"
    );
    assert!(!signed.asked().is_empty());

    // What people may read later: the history, its listing, and all that is on the hosts.
    let history = operator.run(&["history", "--history", work.join("history.db").to_str().unwrap(), "--output", "json"]);
    let mut places = files_below(work.parent().unwrap());
    places.retain(|path| *path != secrets && *path != playbook);
    let inventory = fs::read(fleet.inventory()).unwrap();
    places.extend(
        fleet.hosts().iter().flat_map(|host| [host.home(), host.deploy_to().to_owned()]).flat_map(|place| files_below(&place)),
    );
    assert!(places.iter().any(|path| path.ends_with("history.db")) && !inventory.is_empty());
    for secret in [&token, &password, &signature, &key] {
        assert!(!holds(history.stdout.as_bytes(), secret), "{secret} is in what history shows");
        for place in &places {
            assert!(!holds(&fs::read(place).unwrap_or_default(), secret), "{secret} is in {}", place.display());
        }
    }
    fleet.assert_nothing_left();
}
