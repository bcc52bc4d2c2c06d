//! One event a line, as JSON, flushed at once.

use std::{
    io::{self, Write},
    time::Duration,
};

use super::{Reporter, escape};
use crate::model::Envelope;

/// Writes every event to `out`, unchanged and in order, until a write fails.
#[derive(Debug)]
pub struct Json<W> {
    out: W,
    ended: Option<io::Error>,
}

impl<W: Write + Send> Json<W> {
    /// Makes a reporter that writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, ended: None }
    }

    fn write(&mut self, envelope: &Envelope) -> io::Result<()> {
        // One write a line: a reader that polls never sees half of one.
        let line = format!("{}\n", escape::json(&serde_json::to_string(envelope)?));
        self.out.write_all(line.as_bytes())?;
        self.out.flush()
    }
}

impl<W: Write + Send> Reporter for Json<W> {
    fn event(&mut self, envelope: &Envelope, _now: Duration) {
        if self.ended.is_none() {
            self.ended = self.write(envelope).err();
        }
    }

    /// Tells why events were lost. A reader that went away wanted no more: that is no error.
    fn finish(&mut self) -> io::Result<()> {
        match self.ended.take() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::rehearsal;

    /// Takes so many bytes, then fails.
    struct Narrow(usize, io::ErrorKind, usize);

    impl Write for Narrow {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            self.2 += 1;
            if buffer.len() > self.0 {
                return Err(self.1.into());
            }
            self.0 -= buffer.len();
            Ok(buffer.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_event_is_a_line_that_reads_back_the_same() {
        let mut out = Vec::new();
        let mut reporter = Json::new(&mut out);
        let events = rehearsal::deploy();
        for (at, event) in &events {
            reporter.event(event, *at);
        }
        reporter.finish().unwrap();
        let text = String::from_utf8(out).unwrap();
        let back: Vec<Envelope> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(back.iter().eq(events.iter().map(|(_, event)| event)));
    }

    #[test]
    fn a_line_looks_like_this() {
        let mut out = Vec::new();
        Json::new(&mut out).event(&rehearsal::progress("web01", 800), Duration::ZERO);
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r#"{"v":1,"at":"2026-11-20T03:15:00.000Z","run":"0707070707070707","event":"host_progress","host":"web01","bytes":{"from_peers":700,"from_controller":100,"from_ssh":0,"from_origin":0,"from_disk":0,"uploaded":0},"rate":800,"peers":4}"#);
    }

    #[test]
    fn a_reader_that_went_away_is_no_error_and_is_not_written_to_again() {
        let mut reporter = Json::new(Narrow(0, io::ErrorKind::BrokenPipe, 0));
        reporter.event(&rehearsal::started(1, 1), Duration::ZERO);
        reporter.event(&rehearsal::started(1, 1), Duration::ZERO);
        assert_eq!(reporter.out.2, 1);
        reporter.finish().unwrap();
    }

    #[test]
    fn a_full_disk_is_told() {
        let mut reporter = Json::new(Narrow(0, io::ErrorKind::StorageFull, 0));
        reporter.event(&rehearsal::started(1, 1), Duration::ZERO);
        assert_eq!(reporter.finish().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
