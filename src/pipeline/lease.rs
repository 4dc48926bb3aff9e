//! Keeping our leases alive, and knowing without a question to the ledger that they are.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::ledger::{Claim, Ledger, LedgerError};

/// Renews this process's leases every third of their length.
#[derive(Debug)]
pub struct LeaseKeeper {
    ledger: Arc<dyn Ledger>,
    /// When the last renewal that succeeded was *asked for*: the lease counts from no later than that.
    renewed: Mutex<Instant>,
    /// Why the last renewal failed.
    trouble: Mutex<Option<String>>,
}

impl LeaseKeeper {
    pub fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self { ledger, renewed: Mutex::new(Instant::now()), trouble: Mutex::default() }
    }

    /// Runs until `stop`.
    pub async fn keep(&self, stop: CancellationToken) {
        let period = self.ledger.lease() / 3;
        while stop.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
            let asked = Instant::now();
            let renewed = self.ledger.renew().await;
            let trouble = renewed.as_ref().err().map(ToString::to_string);
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
            match renewed {
                Ok(()) => *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = asked,
                Err(error) => warn!(%error, "the leases on files in flight could not be renewed; trying again"),
            }
        }
    }

    /// Why leases cannot be renewed at the moment.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fails where the claim may belong to somebody else by now. While renewals succeed in time nobody can have taken
    /// it, so the ledger is asked only after a pause of this process or trouble with the ledger.
    pub async fn confirm(&self, claim: &Claim) -> Result<(), LedgerError> {
        let age = self.renewed.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        if age < self.certain() { Ok(()) } else { self.ledger.confirm(claim).await }
    }

    fn certain(&self) -> Duration {
        self.ledger.lease() * 2 / 3
    }
}
