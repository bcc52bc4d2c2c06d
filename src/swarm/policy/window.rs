//! How many pieces more than usual a neighbour is asked for at the same time: as many as a long way holds. Pure.
//!
//! The usual few pieces per neighbour leave a link empty when the answer to a request is far: over a round trip of 200 ms a link of 1 Gbit/s
//! holds 24 MiB. How far a neighbour is, the time of its handshake tells, which passes while links are idle, or the shortest time from a request to
//! its first block, if that is less: whatever queues, on links or at the neighbour, only makes them longer. As long as whole pieces come in hardly more than
//! that time, nothing queues, and each piece that comes makes room for one more: twice as many after each round trip, like TCP's slow start. Where they take
//! longer, each makes it one less, down to what would come in that time at the rate at which it came. So where links are busy, the usual few stay, and
//! where hosts are near, as well: there nothing changes.

use std::time::Duration;

/// A neighbour is asked for more while pieces take at most so many halves of the shortest time to a first block.
const QUEUED: u32 = 3;

/// Over less than this the usual few pieces go far enough.
const FAR: Duration = Duration::from_millis(30);

/// One neighbour's window, beyond what every neighbour is asked for.
#[derive(Debug)]
pub(super) struct Window {
    more: usize,
    /// The shortest time in which it answered.
    distance: Duration,
}

impl Window {
    /// Starts with the usual few.
    pub(super) fn new(round_trip: Duration) -> Self {
        Self { more: 0, distance: round_trip }
    }

    /// Returns how many pieces more than usual it may be asked for.
    pub(super) fn more(&self) -> usize {
        self.more
    }

    /// Notes how long after the request a piece's first block came.
    pub(super) fn began(&mut self, waited: Duration) {
        self.distance = self.distance.min(waited);
    }

    /// Notes that a piece came that was asked for as one of so many; `usual` is how long they take of late. `limit` is how many may be asked for, and
    /// `full` whether as many were.
    pub(super) fn came(&mut self, took: Duration, among: usize, usual: Duration, limit: usize, full: bool) {
        if self.distance < FAR {
            return self.close();
        }
        let near = self.distance * QUEUED / 2;
        if usual <= near {
            self.more += usize::from(full);
        } else if limit as f64 * took.as_secs_f64() > among as f64 * near.as_secs_f64() {
            // More than come in that time.
            self.more = self.more.saturating_sub(1);
        }
    }

    /// Starts again with the usual few.
    pub(super) fn close(&mut self) {
        self.more = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pieces_that_take_hardly_longer_than_the_way_open_the_window() {
        // The way to the first block, how long pieces take, among how many they were asked for, how many may be and whether they are; the change.
        let cases = [
            (200, 210, 4, 4, true, 1),
            (200, 300, 20, 40, true, 1),
            (200, 210, 4, 4, false, 0),
            (200, 301, 40, 40, true, -1),
            (200, 600, 40, 20, true, 0),
            (200, 600, 40, 21, true, -1),
            (200, 5_000, 4, 4, true, -1),
            (30, 32, 4, 4, true, 1),
            (29, 32, 4, 4, true, -3),
        ];
        for (distance, took, among, limit, full, change) in cases {
            let mut window = Window { more: 3, distance: MS * distance };
            window.came(MS * took, among, MS * took, limit, full);
            assert_eq!(
                window.more() as i32 - 3,
                change,
                "{took} ms over {distance} ms among {among}, of {limit}, full: {full}"
            );
        }
    }

    #[test]
    fn queues_are_not_taken_for_distance() {
        // The handshake waited for a processor, the first answers for others.
        let mut window = Window::new(MS * 400);
        [80, 50, 300].into_iter().for_each(|waited| window.began(MS * waited));
        window.came(MS * 90, 4, MS * 90, 4, true);
        assert_eq!(window.more(), 0);
        // Nearer than any first block says.
        let mut window = Window::new(MS);
        window.began(MS * 80);
        window.came(MS * 90, 4, MS * 90, 4, true);
        assert_eq!(window.more(), 0);
    }

    /// Asks a neighbour for as much as the window allows, over a way of 200 ms and a link that carries a piece in `each`; returns the window after each
    /// of so many round trips' time.
    fn after_round_trips(each: Duration, count: usize) -> Vec<usize> {
        const USUAL: usize = 4;
        let way = MS * 200;
        let (mut window, mut usual) = (Window::new(way), None);
        let (mut now, mut free, mut on_their_way) = (Duration::ZERO, Duration::ZERO, std::collections::VecDeque::new());
        let mut after = Vec::new();
        while after.len() < count {
            while on_their_way.len() < USUAL + window.more() {
                free = free.max(now) + each;
                on_their_way.push_back((now, free + way, on_their_way.len() + 1));
            }
            let Some((asked, came, among)) = on_their_way.pop_front() else { return after };
            now = came;
            let took = now - asked;
            let smooth = usual.map_or(took, |usual| (usual * 3 + took) / 4);
            usual = Some(smooth);
            window.began(way);
            let limit = USUAL + window.more();
            window.came(took, among, smooth, limit, on_their_way.len() + 1 >= limit);
            while now >= way * (after.len() as u32 + 1) && after.len() < count {
                after.push(window.more());
            }
        }
        after
    }

    #[test]
    fn the_window_doubles_until_the_way_is_full_and_then_stays() {
        // 200 pieces fit on the way.
        let more = after_round_trips(MS, 60);
        assert!(more.iter().skip(8).all(|more| (190..600).contains(more)), "{more:?}");
        assert!(more[4] < 190, "it does not jump: {more:?}");
        // Not even one.
        assert_eq!(after_round_trips(MS * 400, 60), [0; 60]);
    }

    #[test]
    fn a_neighbour_that_let_a_request_lapse_starts_again() {
        let mut window = Window { more: 9, distance: MS * 200 };
        window.close();
        assert_eq!(window.more(), 0);
    }
}
