//! Looking at a Redis ledger without taking part in it.

use async_trait::async_trait;

use super::call::Calls;
use super::connect::{Connector, Identity, Purpose};
use super::link::Link;
use super::{LISTING_PAGE, RedisConfig};
use crate::ledger::{Cursor, EntryFilter, EntryInfo, LedgerError, LedgerView, Outline};

/// A Redis ledger, seen from outside. It registers no owner.
#[derive(Debug)]
pub struct RedisView {
    link: Link,
    calls: Calls,
}

impl RedisView {
    /// Connects at once or not at all. A ledger that was never made has no entries.
    ///
    /// # Errors
    /// As [`super::RedisLedger::open`].
    pub async fn open(config: RedisConfig) -> Result<Self, LedgerError> {
        let calls = Calls::new(&config.settings.prefix);
        let identity = Identity { owner: config.owner, lease: config.lease };
        let connector = Connector::new(config.settings, identity, Purpose::Look);
        Ok(Self { link: Link::open(connector, std::time::Duration::ZERO).await?, calls })
    }
}

#[async_trait]
impl LedgerView for RedisView {
    async fn entries(
        &self,
        filter: EntryFilter,
        mut after: Cursor,
        limit: usize,
    ) -> Result<(Vec<EntryInfo>, Cursor), LedgerError> {
        let mut found = Vec::new();
        while found.len() < limit {
            let ask = (limit - found.len()).min(LISTING_PAGE);
            let reply = self.link.call(self.calls.view(filter, after, ask)).await?;
            let (last, looked_at, page) = self.calls.viewed(self.link.location(), reply)?;
            after = last;
            found.extend(page);
            if looked_at < ask {
                break;
            }
        }
        Ok((found, after))
    }

    async fn outline(&self) -> Result<Outline, LedgerError> {
        let reply = self.link.call(self.calls.outline()).await?;
        self.calls.outlined(self.link.location(), reply)
    }
}
