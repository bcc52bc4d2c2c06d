//! The messages between controller and agent: their types, their framing and their limits.
//!
//! They travel over the agent's stdin and stdout, that is, over the host's SSH channel: trusted to come from the other side,
//! never trusted to be well-formed. A frame is a 4-byte big-endian length and that many bytes of JSON. A frame over
//! [`MAX_FRAME`], a missing required field or a version other than [`WIRE_VERSION`] is an error, never a panic.
//! The agent speaks first ([`FromAgent::Hello`]); the controller then sends exactly one [`Job`].
//! This module opens nothing and decides nothing.

mod ferry;
mod frame;
mod info;
mod message;
mod relay;

pub use ferry::{ferry_line, ferry_port};
pub use frame::{FrameError, MAX_FRAME, read_frame, write_frame};
pub use info::{InfoError, PackedInfo};
pub use message::{
    AgentHello, DeployJob, FromAgent, Job, PeerAddr, Procedure, PruneJob, RollbackJob, StopReason, ToAgent, TransferProgress,
    WIRE_VERSION, WayBack,
};
pub use relay::{PACKED_AGENT, RelayToken};
