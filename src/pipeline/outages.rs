//! Tells whoever watches the progress which destinations are out, and until when.

use std::time::Duration;

use super::engine::Engine;
use crate::destination::sftp::pool::BreakerState;

/// How often the pools are asked; people read no faster.
const EVERY: Duration = Duration::from_millis(500);

/// Runs until it is dropped.
pub async fn tell(engine: &Engine) {
    loop {
        for (archive, destination) in engine.archives.iter().zip(&engine.destinations) {
            let state = archive.pool().state();
            match (state.breaker, state.last_error) {
                (BreakerState::Open { retry_in }, Some(reason)) => {
                    engine.reporter.destination_down(destination, &reason, retry_in);
                }
                (BreakerState::Closed, _) => engine.reporter.destination_up(destination),
                // A probe is under way, and will tell.
                (BreakerState::HalfOpen | BreakerState::Open { .. }, _) => {}
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}
