//! Keeping our leases alive, and knowing without a question to the ledger that they are.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::ledger::{Claim, Ledger, LedgerError};

/// Renews this process's leases every third of their length.
#[derive(Debug)]
pub struct LeaseKeeper {
    ledger: Arc<dyn Ledger>,
    /// When the last renewal that succeeded was *asked for*: the lease counts from no later than that.
    renewed: Mutex<Instant>,
}

impl LeaseKeeper {
    pub fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self { ledger, renewed: Mutex::new(Instant::now()) }
    }

    /// Runs until `stop`.
    pub async fn keep(&self, stop: CancellationToken) {
        let period = self.ledger.lease() / 3;
        while stop.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
            let asked = Instant::now();
            match self.ledger.renew().await {
                Ok(()) => *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = asked,
                Err(error) => warn!(%error, "the leases on files in flight could not be renewed; trying again"),
            }
        }
    }

    /// Fails where the claim may belong to somebody else by now. While renewals succeed in time nobody can have taken
    /// it, so the ledger is asked only after a pause of this process or trouble with the ledger.
    pub async fn confirm(&self, claim: &Claim) -> Result<(), LedgerError> {
        let age = self.renewed.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        if age < self.ledger.certainty() { Ok(()) } else { self.ledger.confirm(claim).await }
    }
}
