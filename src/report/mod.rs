//! Run events, for people and machines: synchronous consumers of [`crate::model::Envelope`].
//!
//! Uses [`crate::model`] and nothing else of the house. Promises: memory grows with the fleet's size and nothing else; events may
//! come twice, late or for unknown hosts; text from hosts never reaches the terminal with control characters in it.

pub mod escape;
pub mod measure;
mod palette;

pub use palette::Palette;

/// The width in columns where there is no terminal that would wrap a line.
pub const WIDE: usize = 120;
