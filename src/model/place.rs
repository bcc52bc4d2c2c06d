//! Where a host or the controller is, in a fleet with zones.

use serde::{Deserialize, Serialize};

/// A host's place among those of its zone. The number of hosts is that of the inventory, dead ones included, so that it never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The zone's number.
    pub zone: u32,
    /// The host's number in it, from 0.
    pub rank: u32,
    /// How many hosts the zone has; 0 for the controller, which is none of them.
    pub of: u32,
}

impl Place {
    /// Returns the controller's place in a zone.
    pub fn of_controller(zone: u32) -> Self {
        Self { zone, rank: 0, of: 0 }
    }
}
