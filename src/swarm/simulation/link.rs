//! The two directions of a node's link.

use super::event::Time;

/// A piece on its way out.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) to: u32,
    pub(super) piece: u32,
    bytes: u32,
    /// When its first byte left.
    pub(super) began: Time,
    /// When its first block arrives: nothing later of it may arrive earlier.
    pub(super) first_arrives: Time,
    /// How far [`Uplink::served`] will be when it has left.
    ends: f64,
}

/// The way out: the connections that have a piece to send share the rate equally, and a connection sends one piece after the other.
#[derive(Debug)]
pub(super) struct Uplink {
    /// Bytes per nanosecond.
    rate: f64,
    /// Bytes that a connection active from the beginning would have sent.
    served: f64,
    /// When that was computed.
    at: Time,
    active: Vec<Upload>,
    /// Pieces (receiver, piece, push) behind another one on the same connection.
    waiting: Vec<(u32, u32, bool)>,
    /// When the next piece has left; [`Time::MAX`] if none is on its way.
    next: Time,
}

impl Uplink {
    /// Makes a link of so many bytes per second.
    pub(super) fn new(rate: f64) -> Self {
        let rate = rate / super::event::SECOND;
        Self { rate, served: 0.0, at: 0, active: Vec::new(), waiting: Vec::new(), next: Time::MAX }
    }

    /// Returns when the next piece has left.
    pub(super) fn next(&self) -> Time {
        self.next
    }

    /// Returns whether a piece is being sent to that node.
    pub(super) fn is_sending_to(&self, to: u32) -> bool {
        self.active.iter().any(|upload| upload.to == to)
    }

    /// Puts a piece behind the one that is being sent to the same node.
    pub(super) fn queue(&mut self, to: u32, piece: u32, push: bool) {
        self.waiting.push((to, piece, push));
    }

    /// Takes the next piece for a node out of the queue, and whether it is pushed.
    pub(super) fn unqueue(&mut self, to: u32) -> Option<(u32, bool)> {
        let at = self.waiting.iter().position(|waiting| waiting.0 == to)?;
        let (_, piece, push) = self.waiting.remove(at);
        Some((piece, push))
    }

    /// Takes one piece out of the queue; false if it was not there.
    pub(super) fn unqueue_piece(&mut self, to: u32, piece: u32) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| (waiting.0, waiting.1) != (to, piece));
        self.waiting.len() < before
    }

    /// Starts to send a piece; returns how long the first `block` bytes take at today's share.
    pub(super) fn start(&mut self, now: Time, to: u32, piece: u32, bytes: u32, block: u32) -> Time {
        self.advance(now);
        let ends = self.served + f64::from(bytes);
        self.active.push(Upload { to, piece, bytes, began: now, first_arrives: 0, ends });
        self.plan();
        (f64::from(bytes.min(block)) * self.active.len() as f64 / self.rate) as Time
    }

    /// Notes when the first block of the piece that was started last arrives.
    pub(super) fn first_arrives(&mut self, at: Time) {
        if let Some(upload) = self.active.last_mut() {
            upload.first_arrives = at;
        }
    }

    /// Takes out a piece that has left by now.
    pub(super) fn finish(&mut self, now: Time) -> Option<Upload> {
        if now < self.next {
            return None;
        }
        self.advance(now);
        let first = (0..self.active.len()).min_by(|a, b| self.active[*a].ends.total_cmp(&self.active[*b].ends))?;
        let upload = self.active.remove(first);
        self.plan();
        Some(upload)
    }

    /// Stops sending a piece; returns it and how many bytes have left.
    pub(super) fn stop(&mut self, now: Time, to: u32, piece: u32) -> Option<(Upload, u32)> {
        let at = self.active.iter().position(|upload| (upload.to, upload.piece) == (to, piece))?;
        self.advance(now);
        let upload = self.active.remove(at);
        self.plan();
        let left = (upload.ends - self.served).clamp(0.0, f64::from(upload.bytes));
        let sent = upload.bytes - left as u32;
        Some((upload, sent))
    }

    /// Forgets everything that goes to a node; returns the bytes that have left.
    pub(super) fn forget(&mut self, now: Time, to: u32) -> u64 {
        self.waiting.retain(|waiting| waiting.0 != to);
        let mut sent = 0;
        while let Some(piece) = self.active.iter().find(|upload| upload.to == to).map(|upload| upload.piece) {
            sent += self.stop(now, to, piece).map_or(0, |(_, bytes)| u64::from(bytes));
        }
        sent
    }

    fn advance(&mut self, now: Time) {
        if !self.active.is_empty() {
            self.served += now.saturating_sub(self.at) as f64 * self.rate / self.active.len() as f64;
        }
        self.at = now;
    }

    fn plan(&mut self) {
        let least = self.active.iter().map(|upload| upload.ends).min_by(f64::total_cmp);
        self.next = least.map_or(Time::MAX, |ends| {
            let left = (ends - self.served).max(0.0) * self.active.len() as f64;
            self.at + (left / self.rate).ceil() as Time
        });
    }
}

/// Any place that lets so many bytes per second through, in the order in which pieces' last bytes reach it: a node's way in, a zone's link.
///
/// A piece may use the capacity since its first byte came, so pieces that trickle in side by side don't wait for each other unless
/// together they are more than the link carries.
#[derive(Debug)]
pub(super) struct Pipe {
    /// Bytes per nanosecond.
    rate: f64,
    /// When everything so far is through.
    free: f64,
}

impl Pipe {
    /// Makes a pipe for so many bytes per second.
    pub(super) fn new(rate: f64) -> Self {
        Self { rate: rate / super::event::SECOND, free: 0.0 }
    }

    /// Lets bytes through of which the first came at `began`; returns when the last is through, at `now` or later.
    pub(super) fn pass(&mut self, now: Time, began: Time, bytes: u32) -> Time {
        self.free = self.free.max(began as f64) + f64::from(bytes) / self.rate;
        now.max(self.free.ceil() as Time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte a nanosecond.
    const RATE: f64 = 1e9;

    #[test]
    fn connections_share_the_way_out_equally() {
        let mut link = Uplink::new(RATE);
        assert_eq!(link.start(0, 1, 7, 1000, 100), 100);
        assert_eq!(link.next(), 1000);
        assert_eq!(link.start(500, 2, 8, 1000, 100), 200);
        // 500 bytes of the first are left at half the rate; then 500 of the second at the full one.
        assert_eq!(link.next(), 1500);
        assert!(link.finish(1499).is_none());
        assert_eq!(link.finish(1500).map(|upload| upload.piece), Some(7));
        assert_eq!(link.next(), 2000);
        assert_eq!(link.stop(1600, 2, 8).map(|(_, sent)| sent), Some(600));
        assert_eq!(link.next(), Time::MAX);
    }

    #[test]
    fn a_pipe_delays_only_what_is_too_much() {
        let mut pipe = Pipe::new(RATE);
        // Four pieces of 100 trickle in side by side over 400: nobody waits.
        for _ in 0..4 {
            assert_eq!(pipe.pass(400, 0, 100), 400);
        }
        // Two more that came in the last 100 are 100 too much.
        assert_eq!(pipe.pass(500, 400, 100), 500);
        assert_eq!(pipe.pass(500, 400, 100), 600);
    }
}
