//! Keeping our leases alive, and knowing without a question to the ledger that they are.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::ledger::{Claim, Ledger, LedgerError};

/// Renews this process's leases every third of their length.
#[derive(Debug)]
pub struct LeaseKeeper {
    ledger: Arc<dyn Ledger>,
    /// When the last renewal that succeeded was *asked for*: the lease counts from no later than that.
    renewed: Mutex<Instant>,
    /// Why the last renewal failed.
    trouble: Mutex<Option<String>>,
    /// [`Ledger::retries`], as it was last seen.
    retries: watch::Sender<Option<u64>>,
}

impl LeaseKeeper {
    pub fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self {
            ledger,
            renewed: Mutex::new(Instant::now()),
            trouble: Mutex::default(),
            retries: watch::Sender::new(None),
        }
    }

    /// Runs until `stop`. `in_hand` gives how many files would be lost to others with the leases.
    pub async fn keep(&self, in_hand: impl Fn() -> usize, stop: CancellationToken) {
        let period = self.ledger.lease() / 3;
        self.renew(&in_hand).await;
        while stop.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
            self.renew(&in_hand).await;
        }
    }

    async fn renew(&self, in_hand: impl Fn() -> usize) {
        let asked = Instant::now();
        // Together, so that they share a transaction.
        let (renewed, retries) = futures::join!(self.ledger.renew(), self.ledger.retries());
        let trouble = renewed.as_ref().err().map(ToString::to_string);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        match renewed {
            Ok(()) => *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = asked,
            // A ledger that is away is told of by whoever needs it.
            Err(error) if in_hand() == 0 => debug!(%error, "the lease could not be renewed; nothing is in flight"),
            Err(error) => warn!(%error, "the leases on files in flight could not be renewed; trying again"),
        }
        self.look_for_retries(retries);
    }

    /// Why leases cannot be renewed at the moment.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes when failed files were put back by somebody, at the latest a renewal later.
    pub fn retried(&self) -> watch::Receiver<Option<u64>> {
        self.retries.subscribe()
    }

    /// A ledger that does not answer is told of by others.
    fn look_for_retries(&self, seen: Result<u64, LedgerError>) {
        let Ok(seen) = seen else { return };
        // The first one is no news, but says what later ones are compared with.
        self.retries.send_if_modified(|known| known.replace(seen).is_some_and(|known| known != seen));
    }

    /// Fails where the claim may belong to somebody else by now. While renewals succeed in time nobody can have taken
    /// it, so the ledger is asked only after a pause of this process or trouble with the ledger.
    pub async fn confirm(&self, claim: &Claim) -> Result<(), LedgerError> {
        let age = self.renewed.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        if age < self.ledger.certainty() { Ok(()) } else { self.ledger.confirm(claim).await }
    }

    /// Whether nobody can have taken over since then what was ours at that moment; knowing that without the ledger.
    pub fn lasts_since(&self, then: Instant) -> bool {
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        // Between two renewals there may have been a pause.
        renewed <= then && renewed.elapsed() < self.ledger.certainty()
    }
}
