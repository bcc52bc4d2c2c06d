use std::io::Write;

use super::*;
use crate::report::{json::Json, plain::Plain, rehearsal, terminal::Terminal};

/// Every order in which events may arrive, as far as a reporter must care: in order, each twice, backwards, without the first or the last.
fn deliveries() -> Vec<(&'static str, Vec<(Duration, Envelope)>)> {
    let right = rehearsal::deploy();
    let twice = right.iter().flat_map(|event| [event.clone(), event.clone()]).collect();
    let backwards = right.iter().rev().cloned().collect();
    let headless = right[1..].to_vec();
    let endless = right[..right.len() - 1].to_vec();
    vec![("in order", right), ("twice", twice), ("backwards", backwards), ("headless", headless), ("endless", endless)]
}

fn run(mut reporter: impl Reporter, events: &[(Duration, Envelope)]) {
    for (at, event) in events {
        reporter.event(event, *at);
        reporter.tick(*at);
    }
    reporter.tick(Duration::from_secs(3600));
    reporter.finish().unwrap();
}

#[test]
fn every_reporter_takes_a_run_however_its_events_arrive() {
    for (how, events) in deliveries() {
        let (mut json, mut text) = (Vec::new(), Vec::new());
        run(Both(Json::new(&mut json), Plain::new(&mut text, Palette::PLAIN, 120, false)), &events);
        run(Terminal::new(indicatif::ProgressDrawTarget::hidden(), || 80, Palette::PLAIN), &events);
        let (json, text) = (String::from_utf8(json).unwrap(), String::from_utf8(text).unwrap());
        assert_eq!(json.lines().count(), events.len(), "{how}");
        let ends = text.matches("are live on 20261120T031500Z-1a2b3c4d").count();
        // Without its first event the run's name is not known, without its last one there is no end to tell.
        let expected = usize::from(matches!(how, "in order" | "twice"));
        assert_eq!(ends, expected, "{how}:\n{text}");
        if how == "twice" {
            assert_eq!(text.matches("web04 unreachable").count(), 1, "{text}");
        }
    }
}

#[test]
fn ten_thousand_hosts_are_no_burden() {
    let mut out = Vec::new();
    let mut plain = Plain::new(&mut out, Palette::PLAIN, 120, false);
    let mut terminal = Terminal::new(indicatif::ProgressDrawTarget::hidden(), || 80, Palette::PLAIN);
    let started = rehearsal::started(10_000, 1 << 30);
    for reporter in [&mut plain as &mut dyn Reporter, &mut terminal] {
        reporter.event(&started, Duration::ZERO);
        for number in 1..=10_000 {
            let event = rehearsal::progress(rehearsal::host_name(number).as_str(), 1 << 20);
            reporter.event(&event, Duration::from_millis(number as u64));
        }
        for second in 0..120 {
            reporter.tick(Duration::from_secs(second));
        }
    }
    assert!(out.len() < 1000, "{}", String::from_utf8(out).unwrap());
}

#[test]
fn the_error_of_one_reporter_is_told_whichever_it_is() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for swapped in [false, true] {
        let (a, b) = (Json::new(Full), Plain::new(Full, Palette::PLAIN, 120, false));
        let mut both: Box<dyn Reporter> = if swapped { Box::new(Both(b, a)) } else { Box::new(Both(a, b)) };
        both.event(&rehearsal::started(1, 1), Duration::ZERO);
        assert_eq!(both.finish().unwrap_err().kind(), io::ErrorKind::StorageFull, "{swapped}");
    }
}
