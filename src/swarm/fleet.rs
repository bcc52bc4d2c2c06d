//! Our own engine.

use std::sync::Arc;

use super::{Engine, EngineConfig, EngineError, EngineHandle, session, transport::Plain};

/// The engine made for fleets: pushes each piece once, spreads the rest rarest first. See [`super::policy`] for its rules.
#[derive(Debug, Clone, Copy, Default)]
pub struct FleetEngine;

impl Engine for FleetEngine {
    async fn start(&self, config: EngineConfig) -> Result<EngineHandle, EngineError> {
        session::start(config, Arc::new(Plain)).await
    }
}
