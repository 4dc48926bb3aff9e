//! Looking at a Redis ledger without taking part in it.

use async_trait::async_trait;

use super::call::Calls;
use super::connect::{Connector, Identity, Purpose};
use super::link::Link;
use super::{LISTING_PAGE, RedisConfig};
use crate::domain::Token;
use crate::ledger::{Cursor, EntryFilter, EntryInfo, LedgerError, LedgerView, Outline};

/// A Redis ledger, seen from outside. It registers no owner.
#[derive(Debug)]
pub struct RedisView {
    link: Link,
    calls: Calls,
}

impl RedisView {
    /// Connects at once or not at all.
    ///
    /// # Errors
    /// As [`super::RedisLedger::open`]; [`LedgerError::Unusable`], too, for a ledger that was never made.
    pub async fn open(config: RedisConfig) -> Result<Self, LedgerError> {
        let prefix = config.settings.prefix.clone();
        let calls = Calls::new(&prefix);
        let identity = Identity { owner: config.owner, lease: config.lease };
        let connector = Connector::new(config.settings, identity, Purpose::Look);
        let view = Self { link: Link::open(connector, std::time::Duration::ZERO).await?, calls };
        if view.outline().await?.last_token == Token(0) {
            return Err(LedgerError::Unusable {
                location: view.link.location().to_owned(),
                reason: no_ledger(&prefix),
            });
        }
        Ok(view)
    }
}

fn no_ledger(prefix: &str) -> String {
    format!(
        "no archiver has made one with the prefix `{prefix}` in this database; see `ledger.prefix` and the number in the URL"
    )
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
