//! How long an announcement waits for others when nothing else goes to that neighbour.
//!
//! A piece announced alone costs a packet, its acknowledgement and two wakings for every neighbour; a piece announced late is passed on late. So
//! announcements wait as long as the last few pieces took to come: a fast link's hardly at all, a slow one's [`LONGEST`] at most.
//!
//! Measured in the lab, the engine alone, as multiples of one plain download and processor seconds per GB:
//!
//! | fleet | wait | x floor | s/GB |
//! |---|---|---|---|
//! | 16 hosts at 50 Mbit/s | none; 25 ms; 100 ms; 200 ms | 1.05 each | 17.4; 10.3; 9.6; 10.3 |
//! | 32 hosts at 25 Mbit/s, 24 neighbours | 100 ms; 200 ms | 1.14; 1.11 | 17.6; 14.0 |
//! | the same, 16 neighbours | 100 ms; 200 ms | 1.10; 1.10 | 12.3; 11.5 |
//! | 64 hosts at 10 Mbit/s, 24 neighbours | 100 ms; 200 ms | 1.22; 1.22 | 28.6; 23.8 |
//! | the same, 16 neighbours | 100 ms; 200 ms; 300 ms | 1.18; 1.19; 1.19 | 23.6; 18.0; 15.0 |

use std::{collections::VecDeque, time::Duration};

/// The longest wait.
pub(in crate::swarm) const LONGEST: Duration = Duration::from_millis(300);
/// The most pieces that are worth waiting for.
const TOGETHER: u32 = 16;
/// No more than one of so many is waited for, so that a short transfer is not all waiting.
const PART: u32 = 32;

/// Remembers when the last few pieces came.
#[derive(Debug)]
pub(in crate::swarm) struct Pace {
    together: usize,
    /// When the last `together + 1` pieces were verified.
    verified: VecDeque<Duration>,
}

impl Pace {
    /// Returns the pace of a transfer of that many pieces, none of which has come.
    pub(in crate::swarm) fn new(pieces: u32) -> Self {
        Self { together: together(pieces) as usize, verified: VecDeque::new() }
    }

    /// Notes that a piece was verified; returns how long announcements wait from now on.
    pub(in crate::swarm) fn verified(&mut self, now: Duration) -> Duration {
        self.verified.push_back(now);
        if self.verified.len() > self.together + 1 {
            self.verified.pop_front();
        }
        let first = self.verified.front().copied().unwrap_or(now);
        now.saturating_sub(first).min(LONGEST)
    }
}

/// Returns how many pieces are announced together where they come evenly and not too slowly.
pub(in crate::swarm) fn together(pieces: u32) -> u32 {
    (pieces / PART).clamp(1, TOGETHER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_wait_as_long_as_the_last_pieces_took_and_no_longer_than_the_longest_wait() {
        let waits = |pieces, every: u64| {
            let mut pace = Pace::new(pieces);
            (0..40).map(|at| pace.verified(Duration::from_millis(at * every)).as_millis() as u64).collect::<Vec<_>>()
        };
        let fast = waits(2048, 5);
        assert_eq!(fast[..3], [0, 5, 10], "the first pieces are passed on at once");
        assert_eq!(fast[16..], [80; 24]);
        assert_eq!(waits(512, 26)[16..], [300; 24]);
        assert_eq!(waits(64, 13)[16..], [26; 24], "a short transfer waits for two");
        assert_eq!(waits(4, 13)[16..], [13; 24]);
    }
}
