//! What a preview comes to, from what was seen of hosts.

use super::*;
use crate::{
    controller::{AgentPreview, OriginUse},
    model::{ArchiveKind, FailureKind, plan::WaveSize, plan::Waves},
    report::Palette,
};

fn host(number: usize, seen: Result<HostPreview, HostFailure>) -> Row {
    let seen = seen.map_or_else(|failure| Seen::Failure { failure }, |preview| Seen::Host(Box::new(preview)));
    Row { host: HostName::new(&format!("web{number:02}")).unwrap(), zone: None, wave: None, reused: 0, seen }
}

fn fresh() -> HostPreview {
    HostPreview {
        deploy_to: "/srv/shop".into(),
        agent: AgentPreview::There,
        has_gzip: true,
        fetcher: None,
        current: Some("20261113T101500Z-99887766".parse().unwrap()),
        previous: None,
        unchanged: false,
        cached: false,
        partial: false,
        transfer: 64 << 20,
        free: Some(9 << 30),
        needed: 200 << 20,
        locked_by: None,
        warnings: Vec::new(),
        failure: None,
    }
}

fn manifest() -> Manifest {
    Manifest {
        app: "shop".parse().unwrap(),
        file_name: "shop.tar.zst".into(),
        digest: "1a2b3c4d".repeat(8).parse().unwrap(),
        size: 64 << 20,
        archive: ArchiveKind::TarZst,
        tree: None,
    }
}

fn no_answer() -> HostFailure {
    HostFailure::new(FailureKind::Unreachable, HostState::Connecting, "no answer from 10.0.0.7:22")
        .with_hint("check the address")
}

fn plan(waves: &[&str]) -> Plan {
    let sizes: Vec<WaveSize> = waves.iter().map(|size| size.parse().unwrap()).collect();
    let mut plan = Plan::default();
    plan.rollout.waves = Waves::new(sizes).unwrap();
    plan
}

async fn report(hosts: Vec<Row>, plan: &Plan) -> Report {
    let distribution = Distribution { use_swarm: true, origin_only: false, reason: "it pays".into(), origins: false };
    let way = Way { origins: origins(), distribution, controller_zone: None, link: 125_000_000 };
    Report::new(manifest(), hosts, plan, way).await.unwrap()
}

fn origins() -> Vec<OriginLook> {
    let look = |good_for, problem: Option<&str>, hint| OriginLook {
        address: "http://store/".into(),
        good_for,
        problem: problem.map(str::to_owned),
        hint,
    };
    vec![look(OriginUse::Parts, None, None), look(OriginUse::Nothing, Some("the origin is not used: 404"), Some("look there"))]
}

#[tokio::test]
async fn a_deploy_that_goes_is_shown_with_waves_and_time() {
    let unchanged = HostPreview { unchanged: true, transfer: 0, needed: 0, ..fresh() };
    let cached = HostPreview { cached: true, transfer: 0, agent: AgentPreview::ToCome(3 << 20), ..fresh() };
    let hosts = vec![host(1, Ok(fresh())), host(2, Ok(unchanged)), host(3, Ok(cached)), host(4, Ok(fresh()))];
    let report = report(hosts, &plan(&["1", "100%"])).await;
    assert_eq!((report.exit_code, report.goes, report.transfer), (0, true, 128 << 20));
    let waves: Vec<_> = report.hosts.iter().map(|row| row.wave).collect();
    assert_eq!(waves, [Some(1), None, Some(2), Some(2)], "who has it already is in no wave");
    let seconds = report.prediction.unwrap().seconds;
    assert!(
        (0.5..2.0).contains(&seconds),
        "64 MiB take 0.56 s over such a link, and there is a copy besides the controller's: {seconds}"
    );
    let text = report.render(120, Palette::PLAIN);
    for wanted in [
        "wave 1 of 2: 1 host: web01",
        "wave 2 of 2: 2 hosts: web03, web04",
        "nothing: cached",
        "to come (3.0 MiB)",
        "has 1 Gbit/s",
        "it would go: 3 hosts would switch, 1 up to date already",
        "origin http://store/: it has the artifact, and serves parts of it",
        "warning: the origin is not used: 404\n  hint: look there",
        "hosts would exchange pieces: it pays",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
}

#[tokio::test]
async fn hosts_that_would_drop_out_decide_the_exit_code_and_whether_it_goes() {
    let full = HostFailure::new(FailureKind::Failed, HostState::Preparing, "not enough space in /srv/shop");
    let failing = || HostPreview { failure: Some(full.clone()), ..fresh() };
    let mut lenient = plan(&["100%"]);
    lenient.rollout.max_failures.after = "2".parse().unwrap();
    for (hosts, plan, code, goes) in [
        (vec![host(1, Ok(fresh())), host(2, Ok(failing()))], plan(&["100%"]), 8, false),
        (vec![host(1, Ok(fresh())), host(2, Err(no_answer()))], plan(&["100%"]), 8, false),
        (vec![host(1, Ok(failing())), host(2, Err(no_answer())), host(3, Ok(fresh()))], lenient, 6, true),
    ] {
        let report = report(hosts, &plan).await;
        assert_eq!((report.exit_code, report.goes), (code, goes), "{report:?}");
        let text = report.render(120, Palette::PLAIN);
        assert_eq!(text.contains("it would stop before anybody switches"), !goes, "{text}");
        assert_eq!(report.waves.iter().flatten().count(), 1, "the others are in no wave");
    }
}

#[tokio::test]
async fn what_hosts_have_need_not_come_to_them() {
    let mut hosts: Vec<Row> = (1..=2).map(|number| host(number, Ok(fresh()))).collect();
    hosts.iter_mut().for_each(|row| row.reused = 63 << 20);
    let report = report(hosts, &plan(&["100%"])).await;
    assert_eq!((report.transfer, report.reused), (128 << 20, 126 << 20));
    assert!(report.prediction.unwrap().seconds < 0.2, "{report:?}");
    let text = report.render(120, Palette::PLAIN);
    for wanted in ["about 1.0 MiB", "transfer: about 2.0 MiB, for 126.0 MiB are in releases that hosts have"] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
}

#[tokio::test]
async fn a_preview_in_json_names_every_field_of_a_host() {
    let report = report(vec![host(1, Ok(fresh())), host(2, Err(no_answer()))], &plan(&["100%"])).await;
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["v"], &json["exit_code"], &json["goes"]), (&1.into(), &8.into(), &false.into()));
    assert_eq!(json["hosts"][0]["agent"], "there");
    assert_eq!(json["hosts"][0]["transfer"], 64 << 20);
    assert_eq!(json["hosts"][1]["failure"]["kind"], "unreachable");
    assert_eq!(json["waves"][0][0], "web01");
    assert_eq!(json["distribution"]["use_swarm"], true);
    assert_eq!((&json["origins"][0]["use"], &json["origins"][1]["use"]), (&"parts".into(), &"nothing".into()));
}

#[tokio::test]
async fn a_large_fleet_is_predicted_in_moments() {
    let hosts = (0..1000).map(|number| host(number, Ok(fresh()))).collect();
    let report = report(hosts, &plan(&["1", "10%"])).await;
    let seconds = report.prediction.unwrap().seconds;
    assert!((0.5..3.0).contains(&seconds), "{seconds}");
}
