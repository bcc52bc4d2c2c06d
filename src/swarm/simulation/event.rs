//! What happens in the simulated fleet, and when.

/// Virtual time in nanoseconds since the start.
pub(super) type Time = u64;

/// Nanoseconds in a second.
pub(super) const SECOND: f64 = 1e9;

/// Something that reaches a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub(super) at: Time,
    pub(super) to: u32,
    pub(super) from: u32,
    /// The sender's own count: with `at` and `from` it makes the order of a node's events unique.
    pub(super) serial: u32,
    /// Which piece; of announcements, the first one's place in the sender's [`super::log::Log`].
    pub(super) piece: u32,
    pub(super) kind: Kind,
}

/// What it is. The first part comes from other nodes, the second from the node itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Unchoke,
    /// It has so many more pieces.
    Haves {
        count: u32,
    },
    Request,
    Cancel,
    /// The first block of a piece.
    First {
        push: bool,
    },
    /// The last block of a piece, which took so many microseconds from its first byte to its last to leave.
    Last {
        took: u32,
    },
    /// A piece ends after so many bytes, because it was cancelled.
    Stopped {
        bytes: u32,
    },
    /// A piece has arrived whole: the connection has room in the network again.
    Arrived,
    /// The node's connections were closed.
    Left,

    /// Pieces can be announced again.
    Announce,
    /// Every connection stands.
    Connected,
    /// The policy's clock.
    Tick,
    /// The uplink may have sent a piece.
    Uploaded,
    /// The downlink has taken in the last block of a piece of `peer`.
    Complete {
        peer: u32,
    },
    /// The piece's hash is checked.
    Checked,
    /// The host's process dies.
    Dies,
}

impl Event {
    /// Returns what events of one node are ordered by.
    pub(super) fn order(&self) -> (Time, u32, u32) {
        (self.at, self.from, self.serial)
    }
}
