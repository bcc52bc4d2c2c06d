//! Ports to listen on later, or where nobody is to listen: from below those that the system hands out by itself, so that no other
//! test gets one meanwhile.

use std::{
    net::{Ipv4Addr, TcpListener},
    process,
    sync::atomic::{AtomicU16, Ordering},
};

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// How many were given out.
static GIVEN: AtomicU16 = AtomicU16::new(0);

/// Returns a port that is free at every address, and another each time.
pub(crate) fn free_port() -> u16 {
    // Another run of the tests begins elsewhere.
    let begin = (process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
    (0..COUNT)
        .map(|_| FIRST + (begin + GIVEN.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT)
        .find(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok())
        .expect("all ports are taken")
}

/// Returns the first of so many consecutive ports that are free at every address, and others each time.
pub(crate) fn free_range(length: u16) -> u16 {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok();
    let mut first = free_port();
    while !(first..first + length).all(|port| is_free(&port)) {
        first = free_port();
    }
    GIVEN.fetch_add(length, Ordering::Relaxed);
    first
}
