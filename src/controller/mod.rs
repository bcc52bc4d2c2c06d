//! A run, seen from the controller.

pub mod local_fleet;
