use super::*;
use crate::{
    model::ReleaseInfo,
    report::rehearsal::{self, PREVIOUS, RELEASE},
};

fn release(id: &str) -> ReleaseInfo {
    ReleaseInfo {
        id: id.parse().unwrap(),
        app: None,
        artifact: None,
        digest: None,
        size: None,
        staged_at: None,
        activated_at: Some("2026-11-20T03:15:12Z".into()),
        by: None,
    }
}

fn report() -> Answers<HostStatus> {
    let there = HostStatus {
        deploy_to: "/srv/shop".into(),
        current: Some(RELEASE.parse().unwrap()),
        previous: Some(PREVIOUS.parse().unwrap()),
        releases: vec![release(RELEASE), release(PREVIOUS)],
        locked_by: None,
    };
    let behind = HostStatus { current: there.previous.clone(), previous: None, ..there.clone() };
    let busy = HostStatus { locked_by: Some("1f9a64c2d03b77e1".parse().unwrap()), ..HostStatus::default() };
    let good = [there.clone(), there, behind, busy].map(|status| Ok(status.into()));
    let answers = good.into_iter().chain([Err(rehearsal::no_answer())]);
    Answers::new(Some("shop".parse().unwrap()), (1..).map(rehearsal::host_name).zip(answers))
}

#[test]
fn a_row_a_host_then_what_is_odd_and_how_many_run_what() {
    insta::assert_snapshot!(render(&report(), 80, Palette::PLAIN), @"
    host   current                    previous                   activated (UTC)
    -------------------------------------------------------------------------------
    web01  20261120T031500Z-1a2b3c4d  20261113T101500Z-99887766  2026-11-20 03:15
    web02  20261120T031500Z-1a2b3c4d  20261113T101500Z-99887766  2026-11-20 03:15
    web03  20261113T101500Z-99887766  -                          2026-11-20 03:15
    web04  -                          -                          -
    web05  unreachable                -                          -

    web04: run 1f9a64c2d03b77e1 is at work
    web05 unreachable while connecting: no answer from 10.0.0.7:22 within 10 s,
        tried 3 times
      hint: check the address and the network, or leave the host out with `--limit
        '!HOST'`

    5 hosts: 2 on 20261120T031500Z-1a2b3c4d, 1 on 20261113T101500Z-99887766, 1
      without a release, 1 without an answer
    ");
}

#[test]
fn where_the_columns_do_not_fit_release_ids_stay_whole() {
    insta::assert_snapshot!(render(&report(), 60, Palette::PLAIN), @"
    web01: 20261120T031500Z-1a2b3c4d, before
      20261113T101500Z-99887766, since 2026-11-20 03:15
    web02: 20261120T031500Z-1a2b3c4d, before
      20261113T101500Z-99887766, since 2026-11-20 03:15
    web03: 20261113T101500Z-99887766, since 2026-11-20 03:15
    web04: no release
    web05: unreachable

    web04: run 1f9a64c2d03b77e1 is at work
    web05 unreachable while connecting: no answer from
        10.0.0.7:22 within 10 s, tried 3 times
      hint: check the address and the network, or leave the host
        out with `--limit '!HOST'`

    5 hosts: 2 on 20261120T031500Z-1a2b3c4d, 1 on
      20261113T101500Z-99887766, 1 without a release, 1 without
      an answer
    ");
}

#[test]
fn five_hundred_hosts() {
    let answers = (1..=500).map(|number| (rehearsal::host_name(number), Ok(HostStatus::default().into())));
    let text = render(&Answers::new(Some("shop".parse().unwrap()), answers), 80, Palette::PLAIN);
    assert_eq!(text.lines().count(), 504);
    assert!(text.ends_with("500 hosts: 500 without a release\n"), "{text}");
}

#[test]
fn json_is_one_versioned_object() {
    let mut report = report();
    report.hosts.drain(1..4);
    insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap(), @r#"
    {
      "v": 1,
      "app": "shop",
      "hosts": [
        {
          "host": "web01",
          "deploy_to": "/srv/shop",
          "current": "20261120T031500Z-1a2b3c4d",
          "previous": "20261113T101500Z-99887766",
          "releases": [
            {
              "id": "20261120T031500Z-1a2b3c4d",
              "app": null,
              "artifact": null,
              "digest": null,
              "size": null,
              "staged_at": null,
              "activated_at": "2026-11-20T03:15:12Z",
              "by": null
            },
            {
              "id": "20261113T101500Z-99887766",
              "app": null,
              "artifact": null,
              "digest": null,
              "size": null,
              "staged_at": null,
              "activated_at": "2026-11-20T03:15:12Z",
              "by": null
            }
          ],
          "locked_by": null
        },
        {
          "host": "web05",
          "failure": {
            "kind": "unreachable",
            "during": "connecting",
            "message": "no answer from 10.0.0.7:22 within 10 s, tried 3 times",
            "hint": "check the address and the network, or leave the host out with `--limit '!HOST'`"
          }
        }
      ]
    }
    "#);
}
