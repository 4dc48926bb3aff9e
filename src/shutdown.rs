//! Stopping, in two stages: first *drain* (take in nothing new, finish what is ready within the grace), then *now*.
//!
//! Signals are one way to ask for it; the command line's other conditions (a file that appears, idleness) call
//! [`Shutdown::drain`] themselves. Tests do without signals: [`Shutdown::obey`] takes any stream of them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The two stages. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    now: CancellationToken,
    handing_over: CancellationToken,
    /// When draining began.
    since: Arc<OnceLock<Instant>>,
}

/// A request to stop, as the system delivers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGTERM: from an init system, a container runtime, `kill`. However often it comes, it asks to drain.
    Terminate,
    /// SIGINT: from a person at a terminal. The second one means it.
    Interrupt,
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled once draining has begun, and stays so.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Cancelled once everything has to stop at once; draining is cancelled by then.
    pub fn now(&self) -> &CancellationToken {
        &self.now
    }

    /// Begins to drain. Calling it again changes nothing.
    pub fn drain(&self) {
        self.since.get_or_init(Instant::now);
        self.draining.cancel();
    }

    /// Stops at once.
    pub fn stop_now(&self) {
        self.drain();
        self.now.cancel();
    }

    /// When a grace that began with draining is over. To be asked once it has begun.
    pub fn over(&self, grace: Duration) -> Instant {
        *self.since.get_or_init(Instant::now) + grace
    }

    /// The same stages for one of several engines that follow each other; it alone is told to hand over.
    pub fn of_one(&self) -> Self {
        Self { handing_over: CancellationToken::new(), ..self.clone() }
    }

    /// Asks the engine to make room for its successor: take in nothing more and finish what is in flight.
    pub fn hand_over(&self) {
        self.handing_over.cancel();
    }

    /// Cancelled once a successor waits.
    pub fn handing_over(&self) -> &CancellationToken {
        &self.handing_over
    }

    /// Follows a stream of signals until it ends: the first one drains, an interrupt after any other stops at once.
    pub async fn obey(self, signals: impl Stream<Item = StopSignal>) {
        let mut signals = std::pin::pin!(signals);
        let mut asked_before = false;
        while let Some(signal) = signals.next().await {
            match (signal, asked_before) {
                (StopSignal::Interrupt, true) => {
                    tracing::warn!("interrupted again: stopping at once");
                    self.stop_now();
                }
                (_, true) => tracing::info!("still draining"),
                (StopSignal::Interrupt, false) => {
                    tracing::info!("interrupted: finishing what is under way; interrupt again to stop at once");
                    self.drain();
                }
                (StopSignal::Terminate, false) => {
                    tracing::info!("asked to terminate: finishing what is under way");
                    self.drain();
                }
            }
            asked_before = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use StopSignal::{Interrupt, Terminate};

    /// Whether (draining, now) are cancelled after these signals.
    async fn after(signals: &[StopSignal]) -> (bool, bool) {
        let shutdown = Shutdown::new();
        shutdown.clone().obey(futures::stream::iter(signals.to_vec())).await;
        (shutdown.draining().is_cancelled(), shutdown.now().is_cancelled())
    }

    #[tokio::test]
    async fn the_first_signal_drains_and_a_second_interrupt_stops() {
        assert_eq!(after(&[]).await, (false, false));
        assert_eq!(after(&[Terminate]).await, (true, false));
        assert_eq!(after(&[Interrupt]).await, (true, false));
        assert_eq!(after(&[Interrupt, Interrupt]).await, (true, true));
        assert_eq!(after(&[Terminate, Interrupt]).await, (true, true));
    }

    #[tokio::test]
    async fn a_repeated_terminate_stays_patient() {
        assert_eq!(after(&[Terminate, Terminate, Terminate]).await, (true, false));
        assert_eq!(after(&[Interrupt, Terminate]).await, (true, false));
    }

    #[tokio::test]
    async fn draining_for_another_reason_leaves_the_first_interrupt_polite() {
        let shutdown = Shutdown::new();
        shutdown.drain();
        shutdown.clone().obey(futures::stream::iter([Interrupt])).await;
        assert!(!shutdown.now().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn one_hands_over_and_all_drain_in_the_same_grace() {
        let shutdown = Shutdown::new();
        let (one, next) = (shutdown.of_one(), shutdown.of_one());
        one.hand_over();
        assert!(!next.handing_over().is_cancelled() && !next.draining().is_cancelled());
        one.drain();
        let over = Instant::now() + Duration::from_secs(5);
        tokio::time::advance(Duration::from_secs(3)).await;
        shutdown.drain();
        assert_eq!(next.over(Duration::from_secs(5)), over);
        assert!(next.draining().is_cancelled());
    }

    #[tokio::test]
    async fn clones_share_the_stages() {
        let shutdown = Shutdown::new();
        let worker = shutdown.clone();
        shutdown.stop_now();
        worker.draining().cancelled().await;
        worker.now().cancelled().await;
    }
}
