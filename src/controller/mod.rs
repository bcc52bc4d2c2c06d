//! A run, seen from the controller.
