//! Who gets which piece from whom: pure, no socket, file or clock inside.

pub mod neighbours;
mod pieces;
mod rarity;

pub use neighbours::Neighbours;
pub use pieces::PieceSet;
