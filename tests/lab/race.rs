//! Lets a round's nodes run against each other and takes their times.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;

use crate::{
    fleet::{Fleet, Meter, Usage},
    transfer_node::Node,
};

/// Lets all `nodes` begin at once and returns how long each took, and what all of the fleet used meanwhile. They go on running, serving each
/// other, until the last is complete.
pub(crate) async fn race(fleet: &Fleet, mut nodes: Vec<Node>, timeout: Duration) -> Result<(Vec<Duration>, Usage)> {
    let meter = Meter::start(fleet)?;
    let began = Instant::now();
    try_join_all(nodes.iter_mut().map(Node::go)).await?;
    let times = try_join_all(nodes.iter_mut().map(async |node| {
        node.complete().await?;
        anyhow::Ok(began.elapsed())
    }));
    let times = tokio::time::timeout(timeout, times).await.with_context(|| format!("not complete after {timeout:?}"))??;
    let usage = meter.finish()?;
    try_join_all(nodes.into_iter().map(Node::end)).await?;
    Ok((times, usage))
}
