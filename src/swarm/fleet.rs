//! Our own engine.

use super::{Engine, EngineConfig, EngineError, EngineHandle, session};

/// The engine made for fleets: pushes each piece once, spreads the rest rarest first. See [`super::policy`] for its rules.
#[derive(Debug, Clone, Copy, Default)]
pub struct FleetEngine;

impl Engine for FleetEngine {
    async fn start(&self, config: EngineConfig) -> Result<EngineHandle, EngineError> {
        session::start(config).await
    }
}
