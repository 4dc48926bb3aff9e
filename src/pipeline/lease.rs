//! Keeping our leases alive, and knowing without a question to the ledger that they are.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::ledger::{Claim, Ledger, LedgerError, certainty};

/// How long leases have lasted.
#[derive(Debug, Clone, Copy)]
struct Lasting {
    /// When the last renewal that succeeded was *asked for*: the lease counts from no later than that.
    renewed: Instant,
    /// Since then no renewal came after the end of the lease before it. What was claimed earlier may have been taken by
    /// others, and nothing gives it back: a renewal after that keeps the rest alive.
    unbroken_since: Instant,
}

impl Lasting {
    fn from(now: Instant) -> Self {
        Self { renewed: now, unbroken_since: now }
    }

    /// A renewal was asked for, and the answer is there.
    fn renewed(&mut self, asked: Instant, answered: Instant, lease: Duration) {
        if answered.duration_since(self.renewed) >= lease {
            self.unbroken_since = answered;
        }
        self.renewed = asked;
    }

    /// Whether what was claimed at `then` or later is claimed still, where a lease lasts this long for certain.
    fn covers(&self, then: Instant, now: Instant, certainty: Duration) -> bool {
        self.unbroken_since <= then && now.duration_since(self.renewed) < certainty
    }
}

/// Renews this process's leases every third of their length.
#[derive(Debug)]
pub struct LeaseKeeper {
    ledger: Arc<dyn Ledger>,
    lasting: Mutex<Lasting>,
    /// Why the last renewal failed.
    trouble: Mutex<Option<String>>,
    /// [`Ledger::retries`], as it was last seen.
    retries: watch::Sender<Option<u64>>,
}

impl LeaseKeeper {
    pub fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self {
            ledger,
            lasting: Mutex::new(Lasting::from(Instant::now())),
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
            Ok(()) => self.lasting().renewed(asked, Instant::now(), self.ledger.lease()),
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

    /// Fails where the claim, made at `since` or later, may belong to somebody else by now. While renewals succeed in time
    /// nobody can have taken it, so the ledger is asked only after a pause of this process or trouble with the ledger; one
    /// that may forget what it said, always.
    pub async fn confirm(&self, claim: &Claim, since: Instant) -> Result<(), LedgerError> {
        let certain = self.lasting().covers(since, Instant::now(), self.ledger.certainty());
        if certain { Ok(()) } else { self.ledger.confirm(claim).await }
    }

    /// Whether nobody can have taken over since then what was ours at that moment, unless the ledger lost it.
    pub fn lasts_since(&self, then: Instant) -> bool {
        self.lasting().covers(then, Instant::now(), certainty(self.ledger.lease()))
    }

    fn lasting(&self) -> MutexGuard<'_, Lasting> {
        self.lasting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_ran_out_covers_nothing_that_was_claimed_before() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let (lease, sure) = (Duration::from_secs(30), Duration::from_secs(20));
        let mut lasting = Lasting::from(start);
        assert!(lasting.covers(at(1), at(19), sure));
        assert!(!lasting.covers(at(1), at(20), sure), "no renewal came");
        lasting.renewed(at(10), at(11), lease);
        lasting.renewed(at(20), at(39), lease);
        assert!(lasting.covers(at(1), at(39), sure), "each came in time");
        // Asked for in time, and perhaps carried out too late.
        lasting.renewed(at(45), at(50), lease);
        assert!(!lasting.covers(at(1), at(51), sure));
        assert!(!lasting.covers(at(49), at(51), sure));
        assert!(lasting.covers(at(50), at(51), sure));
        lasting.renewed(at(52), at(52), lease);
        assert!(!lasting.covers(at(49), at(53), sure), "a later one gives nothing back");
    }
}
