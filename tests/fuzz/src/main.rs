//! One fuzzer for all parsers: `FUZZ_TARGET` says which. See `tests/fuzz/README.md`.
#![no_main]

use std::sync::OnceLock;

use fleetdrop::fuzzing::{TARGETS, Target};

fn target() -> Target {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        let found = TARGETS.iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("FUZZ_TARGET must be one of {}", names.join(" "))).1
    })
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| target()(bytes));
