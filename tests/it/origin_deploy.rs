//! Deploys with origins, as an operator makes them.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use fleetdrop::model::{HostState::Active, RunEvent, distribution::Mode};
use sha1::{Digest as _, Sha1};

use crate::{
    artifact,
    hosts::Embedded,
    operator::Operator,
    origin_rig::{Canned, Nginx, Reply},
};

const SIZE: usize = 8 << 20;

fn put(artifact: &Path, nginx: &Nginx) -> u64 {
    fs::copy(artifact, nginx.files().join(artifact.file_name().unwrap())).unwrap()
}

#[test]
fn a_deploy_uses_its_origin_and_says_how_much() {
    let (operator, fleet, nginx) = (Operator::new(), Embedded::start(4), Nginx::start());
    let artifact = artifact::shop(&operator.work(), "1", SIZE);
    let size = put(&artifact, &nginx);
    let torrent = operator.work().join("run.torrent");
    let url = nginx.url("plain/");
    let options = ["--web-seed", &url, "--encryption", "off", "--torrent-out", torrent.to_str().unwrap()];
    let run = operator.deploy(&fleet.fleet(), &artifact).with(options).run().expect_code(0).expect_no_warning();
    fleet.expect_live(&[Some("1"); 4]);
    let summary = run.summary();
    assert!(summary.bytes.from_origin > 0, "{:?}", summary.bytes);
    let copies = nginx.sent("/plain/") as f64 / size as f64;
    assert!(copies <= 1.3, "{copies} copies left the origin");
    let torrent = String::from_utf8_lossy(&fs::read(torrent).unwrap()).into_owned();
    assert!(torrent.ends_with(&format!("8:url-listl{}:{url}ee", url.len())), "the torrent does not name the origin");
}

#[test]
fn what_is_wrong_with_origins_is_a_warning_and_the_deploy_goes_on() {
    let (operator, fleet, nginx) = (Operator::new(), Embedded::start(2), Nginx::start());
    let artifact = artifact::shop(&operator.work(), "1", 200_000);
    put(&artifact, &nginx);
    let name = artifact.file_name().unwrap().to_str().unwrap();
    fs::write(nginx.files().join("other"), "something else").unwrap();
    let urls = [
        nginx.url("plain/nothing"),
        nginx.url("plain/other"),
        nginx.url(&format!("whole/{name}")),
        nginx.url("auth/"),
        nginx.secure_url("plain/"),
    ];
    let options = urls.iter().flat_map(|url| ["--web-seed", url]).collect::<Vec<_>>();
    // A preview shows what the deploy will meet.
    let seen = operator.deploy(&fleet.fleet(), &artifact).with(&options).with(["--check"]).run().expect_code(0);
    let seen: serde_json::Value = serde_json::from_str(&seen.stdout).unwrap();
    let uses: Vec<_> = seen["origins"].as_array().unwrap().iter().map(|look| look["use"].as_str().unwrap()).collect();
    assert_eq!(uses, ["nothing", "nothing", "whole", "nothing", "nothing"], "{seen}");
    let run = operator.deploy(&fleet.fleet(), &artifact).with(options).run().expect_code(0);
    fleet.expect_live(&[Some("1"); 2]);
    let told = run.warnings().join("\n");
    for wanted in ["404 Not Found", "it has 14 bytes", "only the whole file", "401 Unauthorized", "no TLS connection"] {
        assert!(told.contains(wanted), "{wanted} is missing:\n{told}");
        let mut problems = seen["origins"].as_array().unwrap().iter().map(|look| look["problem"].as_str().unwrap());
        assert!(problems.any(|problem| problem.contains(wanted)), "{wanted} is missing: {seen}");
    }
    // What serves only the whole is good for hosts that download directly.
    let bytes = run.summary().bytes;
    assert_eq!(bytes.received(), 2 * fs::metadata(&artifact).unwrap().len(), "{bytes:?}");
}

#[test]
fn a_playbook_a_secret_and_an_authority() {
    let (operator, fleet, nginx) = (Operator::new(), Embedded::start(2), Nginx::start());
    let artifact = artifact::shop(&operator.work(), "1", SIZE);
    put(&artifact, &nginx);
    let playbook = operator.work().join("playbook.yaml");
    let url = nginx.secure_url("auth/");
    fs::write(&playbook, format!("app: shop\nweb_seeds: [\"{url}\"]\norigin: {{max_requests_per_seed: 2}}\n")).unwrap();
    let secrets = operator.work().join("netrc");
    fs::write(&secrets, "machine localhost login bob password s3cret\n").unwrap();
    let authority = nginx.authority();
    let (authority, named) = (authority.to_str().unwrap(), secrets.to_str().unwrap());
    let options = ["--playbook", playbook.to_str().unwrap(), "--origin-ca", authority, "--origin-auth", named];

    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = operator.deploy(&fleet.fleet(), &artifact).with(options).run().expect_code(5);
    refused.expect_stderr(&["others may read", "chmod 600"]);

    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).unwrap();
    let run = operator.deploy(&fleet.fleet(), &artifact).with(options).run().expect_code(0).expect_no_warning();
    assert!(run.summary().bytes.from_origin > 0, "{:?}", run.summary().bytes);
    run.expect_states(&[Active, Active]);
}

#[test]
fn a_torrent_of_the_artifact_names_origins() {
    let (operator, fleet) = (Operator::new(), Embedded::start(2));
    let artifact = artifact::shop(&operator.work(), "1", SIZE);
    let content = fs::read(&artifact).unwrap();
    let served = content.clone();
    let origin = Canned::start(move |asked, _| Reply::part(&served, asked));
    let hashes: Vec<u8> = content.chunks(1 << 18).flat_map(Sha1::digest).collect();
    let mut torrent =
        format!("d4:infod6:lengthi{}e4:name5:other12:piece lengthi{}e6:pieces{}:", content.len(), 1 << 18, hashes.len())
            .into_bytes();
    torrent.extend_from_slice(&hashes);
    let url = origin.url("shop");
    torrent.extend_from_slice(format!("6:source1:xe8:url-list{}:{url}e", url.len()).as_bytes());
    let path = operator.work().join("shop.torrent");
    fs::write(&path, &torrent).unwrap();
    let options = ["--torrent", path.to_str().unwrap()];
    let run = operator.deploy(&fleet.fleet(), &artifact).with(options).run().expect_code(0).expect_no_warning();
    assert!(run.summary().bytes.from_origin > 0, "{:?}", run.summary().bytes);

    let other = artifact::shop(&operator.work(), "2", SIZE);
    let refused = operator.deploy(&fleet.fleet(), &other).with(options).run().expect_code(5);
    refused.expect_stderr(&["describes another file"]);
    fleet.expect_live(&[Some("1"); 2]);
}

#[test]
fn an_origin_alone_gives_everything_where_that_is_asked_for() {
    const HOSTS: usize = 3;
    let (operator, fleet, nginx) = (Operator::new(), Embedded::start(HOSTS), Nginx::start());
    let artifact = artifact::shop(&operator.work(), "1", SIZE);
    let size = put(&artifact, &nginx);
    let url = nginx.url("plain/");
    let deploy = |options: &[&str]| operator.deploy(&fleet.fleet(), &artifact).with(["--origin-only"]).with(options).run();

    deploy(&[]).expect_code(5).expect_stderr(&["no web server can give the artifact", "hint: name one that has it"]);
    let gone = deploy(&["--web-seed", &nginx.url("elsewhere/")]).expect_code(5);
    gone.expect_stderr(&["no web server can give the artifact: the origin http://", "404 Not Found"]);
    let playbook = operator.work().join("playbook.yaml");
    fs::write(&playbook, format!("app: shop\nweb_seeds: [\"{url}\"]\norigin: {{max_origin_bytes: 20MiB}}\n")).unwrap();
    let capped = deploy(&["--playbook", playbook.to_str().unwrap()]).expect_code(5);
    capped.expect_stderr(&["`max_origin_bytes` is 20971520 bytes, 3 hosts would fetch"]);
    fleet.expect_live(&[None; HOSTS]);

    let run = deploy(&["--web-seed", &url]).expect_code(0).expect_no_warning().expect_states(&[Active; HOSTS]);
    fleet.expect_live(&[Some("1"); HOSTS]);
    let (bytes, sent) = (run.summary().bytes, run.summary().controller_sent);
    assert_eq!((bytes.from_origin, bytes.from_peers, bytes.from_controller, sent), (HOSTS as u64 * size, 0, 0, 0), "{run:?}");
    assert!(run.summary().hosts.iter().all(|host| host.mode == Mode::Origin), "{run:?}");
    match &run.events[0].event {
        RunEvent::RunStarted { distribution: Some(way), .. } => {
            assert_eq!((way.use_swarm, way.reason.as_str()), (false, "only web servers are to give the artifact"));
        }
        other => panic!("{other:?}"),
    }
    run.expect_stderr(&["none, from origin alone: only web servers are to give the artifact"]);
}
