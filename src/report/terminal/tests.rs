use std::sync::{Arc, Mutex};

use indicatif::TermLike;

use super::*;
use crate::{model::distribution::Mode, report::rehearsal};

fn downloading(hosts: usize, size: u64) -> FleetView {
    let mut view = FleetView::default();
    view.apply(&rehearsal::started(hosts, size), Duration::ZERO);
    for number in 1..=hosts {
        let host = rehearsal::host_name(number);
        view.apply(&rehearsal::state(host.as_str(), HostState::Downloading), Duration::ZERO);
        for second in 0..=5_u64 {
            let received = size / 10 * second - (number as u64 % 7).min(second) * size / 100;
            view.apply(&rehearsal::progress(host.as_str(), received), Duration::from_secs(second));
        }
    }
    view
}

fn drawn(view: &FleetView, width: usize) -> String {
    let lines = frame(view, width, Duration::from_secs(83), Palette::PLAIN);
    assert!(lines.len() <= 2 + SLOWEST);
    assert!(lines.iter().all(|line| measure_text_width(line) < width.max(2)), "{width}: {lines:#?}");
    lines.join("\n")
}

#[test]
fn one_host() {
    insta::assert_snapshot!(drawn(&downloading(1, 64 << 20), 80), @"
    [===========>           ]   48%  31.4 MiB of 64.0 MiB  6.3 MiB/s  5 s left
    1:23  1 downloading
      web01  48%  31.4 MiB/s  4 peers
    ");
}

#[test]
fn three_hosts_of_which_one_dropped_out() {
    let mut view = downloading(3, 64 << 20);
    view.apply(&rehearsal::dropped("web02", rehearsal::disk_full()), Duration::from_secs(6));
    insta::assert_snapshot!(drawn(&view, 80), @"
    [===========>           ]   47%  61.4 MiB of 128.0 MiB  18.4 MiB/s  3 s left
    1:23  2 downloading, 1 failed
      web03  46%  30.1 MiB/s  4 peers
      web01  48%  31.4 MiB/s  4 peers
    ");
}

#[test]
fn a_host_that_gets_it_another_way_says_which() {
    let mut view = downloading(2, 64 << 20);
    let event =
        RunEvent::HostMode { host: rehearsal::host_name(2), mode: Mode::Origin, reason: "nothing came for 30 s".into() };
    view.apply(&rehearsal::envelope(event), Duration::from_secs(6));
    let lines = drawn(&view, 80);
    assert!(lines.contains(" peers  from origin"), "{lines}");
    assert_eq!(lines.matches("from origin").count(), 1, "{lines}");
}

#[test]
fn five_hundred_hosts_take_five_lines() {
    insta::assert_snapshot!(drawn(&downloading(500, 1 << 30), 100), @"
    [=============>               ]   47%  235.7 GiB of 500.0 GiB  47.1 GiB/s  5 s left
    1:23  500 downloading
      web05  44%  460.8 MiB/s  4 peers
      web06  44%  460.8 MiB/s  4 peers
      web12  44%  460.8 MiB/s  4 peers
    ");
}

#[test]
fn a_narrow_terminal_loses_figures_first_and_the_bar_last() {
    let view = downloading(16, 64 << 20);
    let all: Vec<_> = [80, 60, 40, 24, 16, 8].map(|width| drawn(&view, width).lines().next().unwrap().to_owned()).into();
    insta::assert_snapshot!(all.join("\n"), @"
    [==========>            ]   47%  484.5 MiB of 1.0 GiB  96.9 MiB/s  5 s left
    [========>        ]   47%  484.5 MiB of 1.0 GiB  96.9 MiB/s
    [=====>     ]   47%
    [===>    ]   47%
     47%
     47%
    ");
    for width in 0..120 {
        drawn(&view, width);
    }
}

#[test]
fn what_went_wrong_is_marked_and_nothing_else() {
    let mut view = downloading(3, 64 << 20);
    view.apply(&rehearsal::dropped("web02", rehearsal::disk_full()), Duration::from_secs(6));
    let lines = frame(&view, 80, Duration::from_secs(83), Palette::new(true));
    assert_eq!(lines[1], "1:23  2 downloading, \u{1b}[31m\u{1b}[1m1 failed\u{1b}[0m");
}

#[test]
fn nothing_to_transfer_counts_hosts() {
    let mut view = FleetView::default();
    view.apply(&rehearsal::rollback_started(4, None), Duration::ZERO);
    view.apply(&rehearsal::state("web01", HostState::Active), Duration::ZERO);
    insta::assert_snapshot!(drawn(&view, 60), @"
    [====>            ]  1 of 4 hosts
    1:23  3 queued, 1 active
    ");
}

#[test]
fn before_the_first_event_there_is_nothing_to_show() {
    insta::assert_snapshot!(drawn(&FleetView::default(), 40), @"
    [>          ]  0 of 0 hosts
    1:23
    ");
}

/// A terminal that remembers what was written on it.
#[derive(Debug, Clone, Default)]
struct Paper(Arc<Mutex<String>>);

impl TermLike for Paper {
    fn width(&self) -> u16 {
        80
    }
    fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }
    fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }
    fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }
    fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }
    fn write_line(&self, text: &str) -> std::io::Result<()> {
        self.write_str(&format!("{text}\n"))
    }
    fn write_str(&self, text: &str) -> std::io::Result<()> {
        self.0.lock().unwrap().push_str(text);
        Ok(())
    }
    fn clear_line(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn failures_scroll_by_and_the_summary_stays() {
    let paper = Paper::default();
    let mut terminal = Terminal::new(ProgressDrawTarget::term_like(Box::new(paper.clone())), || 80, Palette::PLAIN);
    for (at, event) in rehearsal::deploy() {
        terminal.event(&event, at);
        terminal.tick(at);
    }
    terminal.finish().unwrap();
    let text = paper.0.lock().unwrap().clone();
    let position = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part:?} is missing in:\n{text}"));
    assert!(position("deploying shop.tar.zst") < position("web04 unreachable while connecting"));
    assert!(position("web04 unreachable while connecting") < position("4 hosts are live on"));
    assert_eq!(text.matches("deploying shop.tar.zst").count(), 1);
    assert_eq!(text.matches("web04 unreachable while connecting").count(), 1);
    assert!(position("4 hosts are live on") < position("(exit code"));
    assert!(!text[position("4 hosts are live on")..].contains("[=="), "the bar came back:\n{text}");
}

#[test]
fn a_question_has_the_screen_to_itself() {
    let paper = Paper::default();
    let mut terminal = Terminal::new(ProgressDrawTarget::term_like(Box::new(paper.clone())), || 80, Palette::PLAIN);
    let screen = terminal.screen.clone();
    let second = Duration::from_secs(1);
    terminal.event(&rehearsal::started(4, 64 << 20), Duration::ZERO);
    terminal.tick(second);
    let text = || std::mem::take(&mut *paper.0.lock().unwrap());
    assert!(text().contains("[>"), "nothing was drawn");
    screen.ask(|| {
        text();
        terminal.event(&rehearsal::dropped("web02", rehearsal::disk_full()), second);
        terminal.tick(2 * second);
        assert_eq!(text(), "", "the question was overwritten");
    });
    terminal.tick(3 * second);
    let after = text();
    assert!(after.contains("web02 failed") && after.contains("[>"), "the display did not come back:\n{after}");
    assert_eq!(after.matches("web02 failed").count(), 1);
}

#[test]
fn a_run_that_ends_during_a_question_is_told_to_its_end() {
    let paper = Paper::default();
    let mut terminal = Terminal::new(ProgressDrawTarget::term_like(Box::new(paper.clone())), || 80, Palette::PLAIN);
    let screen = terminal.screen.clone();
    screen.ask(|| {
        for (at, event) in rehearsal::deploy() {
            terminal.event(&event, at);
        }
        terminal.finish().unwrap();
    });
    let text = paper.0.lock().unwrap().clone();
    assert!(text.contains("web04 unreachable while connecting") && text.contains("4 hosts are live on"), "{text}");
}

#[test]
fn questions_come_one_after_the_other() {
    let (screen, asked) = (Screen::default(), std::sync::atomic::AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                screen.ask(|| {
                    assert_eq!(asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0, "two questions at once");
                    (0..1000).for_each(|_| std::thread::yield_now());
                    asked.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                });
            });
        }
    });
}
