//! Who asks too often: announces counted by source address. Pure: the time is passed in.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

/// How many addresses are counted at once; a further one is refused until the window ends.
const MAX_ADDRESSES: usize = 16_384;

/// Requests counted by address in windows of fixed length.
///
/// Many hosts can share an address (NAT, a demo on loopback), so the limit is for what a fleet of that size would need, not a single
/// host: it stops a broken client in a loop, not a fleet.
#[derive(Debug)]
pub(super) struct RateLimit {
    window: Duration,
    limit: u32,
    window_start: Duration,
    counts: HashMap<IpAddr, u32>,
}

impl RateLimit {
    /// Allows each address `limit` requests in each `window`.
    pub(super) fn new(limit: u32, window: Duration) -> Self {
        Self { window, limit, window_start: Duration::ZERO, counts: HashMap::new() }
    }

    /// Counts a request at `now` (since any fixed moment, never going back) and tells whether it may be answered.
    pub(super) fn allows(&mut self, now: Duration, address: IpAddr) -> bool {
        if now.saturating_sub(self.window_start) >= self.window {
            self.window_start = now;
            self.counts.clear();
        }
        let address = site(address);
        if self.counts.len() >= MAX_ADDRESSES && !self.counts.contains_key(&address) {
            return false;
        }
        let count = self.counts.entry(address).or_insert(0);
        *count = count.saturating_add(1);
        *count <= self.limit
    }
}

/// Returns what counts as one address: a whole /64 in IPv6, as one machine can use all of it.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share_in_every_window() {
        let mut rate = RateLimit::new(2, Duration::from_secs(10));
        let [one, other]: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let at = Duration::from_secs;
        assert!(rate.allows(at(0), one) && rate.allows(at(9), one));
        assert!(!rate.allows(at(9), one));
        assert!(rate.allows(at(9), other));
        assert!(rate.allows(at(10), one));
    }

    #[test]
    fn one_machine_with_many_ipv6_addresses_is_one_address() {
        let mut rate = RateLimit::new(1, Duration::from_secs(10));
        assert!(rate.allows(Duration::ZERO, "2001:db8::1".parse().unwrap()));
        assert!(!rate.allows(Duration::ZERO, "2001:db8::2".parse().unwrap()));
        assert!(rate.allows(Duration::ZERO, "2001:db8:0:1::1".parse().unwrap()));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut rate = RateLimit::new(1, Duration::from_secs(10));
        for n in 0..MAX_ADDRESSES as u32 {
            assert!(rate.allows(Duration::ZERO, std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into()));
        }
        assert!(!rate.allows(Duration::ZERO, "192.0.2.1".parse().unwrap()));
        assert!(rate.allows(Duration::from_secs(10), "192.0.2.1".parse().unwrap()));
    }
}
