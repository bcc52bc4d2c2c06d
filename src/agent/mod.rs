//! One job on one host.
