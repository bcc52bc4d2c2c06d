//! The agent over in-memory streams, with an engine that needs no network, on a real directory.

mod conversation;
mod endings;
mod engine;
mod hooks;
mod linked;
mod support;
mod unchanged;
mod upkeep;
