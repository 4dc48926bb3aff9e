//! What a pool tells of itself.

use std::time::Duration;

/// What a pool is doing, for progress and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolState {
    pub connections: usize,
    /// Of these, with a slot in use.
    pub busy: usize,
    /// Being made.
    pub connecting: usize,
    pub slots_in_use: usize,
    /// Callers in `acquire`.
    pub waiting: usize,
    pub breaker: BreakerState,
    /// The last outage or refusal, with its cause.
    pub last_error: Option<String>,
    /// Why no caller would get a slot on a standing connection now. A connection that broke and was not missed yet
    /// counts as none.
    pub down: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    /// The next attempt begins in so long.
    Open {
        retry_in: Duration,
    },
    /// An attempt is under way.
    HalfOpen,
}
