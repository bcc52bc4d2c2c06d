//! The engine that moves pieces between the controller's seed, the hosts and the origins.
//!
//! Owns: torrent metainfo, the piece policy (pure, in [`policy`]), peer connections and how processes of a run prove to each other that they
//! belong to it ([`Tls`]), piece storage, the announce client, byte counts.
//! Promises: a piece is hash-checked before it is served, counted or written as complete; a peer that sends a bad piece is
//! dropped and banned; every queue and buffer is bounded; stopping an engine ends all its tasks and closes its sockets.
//! Never: trusts a peer or a tracker for the artifact's digest (the caller checks SHA-256 afterwards), uses DHT, local
//! discovery or peer exchange, knows the controller's wire protocol.

pub mod policy;

mod announce;
mod bencode;
mod connection;
#[cfg(feature = "controller")]
mod content;
mod engine;
mod fleet;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod metainfo;
pub(crate) mod origin;
mod protocol;
mod session;
#[cfg(feature = "controller")]
pub mod simulation;
#[cfg(feature = "engine-librqbit")]
pub mod stock;
mod storage;
mod throttle;
mod transport;

pub use announce::{AnnounceConfig, AnnounceError, AnnounceProgress, Announcer};
#[cfg(feature = "controller")]
pub(crate) use content::Content;
#[cfg(test)]
pub(crate) use engine::Control;
pub use engine::{Bounds, Engine, EngineConfig, EngineError, EngineHandle, MAX_NOTICES, Notice, Reach, Role, TransferStats};
pub use fleet::FleetEngine;
pub use metainfo::{
    FilePart, MAX_INFO, MAX_PIECE_LENGTH, MAX_PIECES, MIN_PIECE_LENGTH, Metainfo, MetainfoError, PieceHash, choose_piece_length,
};
#[cfg(feature = "controller")]
pub use origin::{ForeignTorrent, MAX_TORRENT, TorrentError};
pub use throttle::Throttle;
pub(crate) use transport::listen;
pub use transport::{Tls, TlsError};
#[cfg(feature = "controller")]
pub(crate) use transport::{accept, admit};
