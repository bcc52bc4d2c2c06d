//! Who is banned: the latest few thousand addresses, and the machines that several of them belong to. Pure.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::{IpAddr, SocketAddr},
};

/// The most bans remembered. Of more the oldest are forgotten: those may try again, and are banned again.
const MAX_BANS: usize = 4096;
/// A machine may get banned this often, under any port, before all of it is.
const MAX_PER_IP: u32 = 3;

/// The bans.
#[derive(Debug, Default)]
pub(super) struct Bans {
    /// The oldest first, and whether the address itself is banned or counts for its machine alone.
    latest: VecDeque<(SocketAddr, bool)>,
    addrs: HashSet<SocketAddr>,
    per_ip: HashMap<IpAddr, u32>,
}

impl Bans {
    /// Bans an address, unless it is `shared` with somebody honest; counts the ban for its machine.
    pub(super) fn add(&mut self, addr: SocketAddr, shared: bool) {
        if !shared && !self.addrs.insert(addr) {
            return;
        }
        if self.latest.len() >= MAX_BANS {
            self.forget_oldest();
        }
        *self.per_ip.entry(addr.ip()).or_default() += 1;
        self.latest.push_back((addr, shared));
    }

    fn forget_oldest(&mut self) {
        let Some((addr, shared)) = self.latest.pop_front() else { return };
        if !shared {
            self.addrs.remove(&addr);
        }
        if let Some(bans) = self.per_ip.get_mut(&addr.ip()) {
            *bans -= 1;
            if *bans == 0 {
                self.per_ip.remove(&addr.ip());
            }
        }
    }

    /// Returns whether this very address is banned.
    pub(super) fn holds(&self, addr: SocketAddr) -> bool {
        self.addrs.contains(&addr)
    }

    /// Returns whether a whole machine is banned. This one never is.
    pub(super) fn holds_ip(&self, ip: IpAddr) -> bool {
        !ip.is_loopback() && self.per_ip.get(&ip).is_some_and(|bans| *bans >= MAX_PER_IP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(number: usize) -> SocketAddr {
        SocketAddr::from(([192, 0, (number >> 8) as u8, number as u8], 7))
    }

    #[test]
    fn the_oldest_bans_make_room() {
        let mut bans = Bans::default();
        for port in 1..=MAX_PER_IP as u16 {
            bans.add(SocketAddr::from(([198, 51, 100, 1], port)), false);
        }
        assert!(bans.holds_ip([198, 51, 100, 1].into()));
        (0..MAX_BANS - 1).for_each(|number| bans.add(addr(number), false));
        assert!(!bans.holds(SocketAddr::from(([198, 51, 100, 1], 1))) && !bans.holds_ip([198, 51, 100, 1].into()));
        assert!((0..MAX_BANS - 1).all(|number| bans.holds(addr(number))));
        (MAX_BANS..2 * MAX_BANS).for_each(|number| bans.add(addr(number), number % 2 == 0));
        assert_eq!((bans.latest.len(), bans.addrs.len(), bans.per_ip.len()), (MAX_BANS, MAX_BANS / 2, MAX_BANS));
        assert!(bans.holds(addr(2 * MAX_BANS - 1)) && !bans.holds(addr(0)));
    }
}
