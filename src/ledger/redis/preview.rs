//! A dry run's ledger: what is recorded or held on the server is so here, and what happens here stays here.

use async_trait::async_trait;
use futures::future::try_join_all;

use super::call::{Calls, Seen};
use super::connect::{Connector, Identity, Purpose};
use super::link::Link;
use super::{CHUNK, RedisConfig};
use crate::domain::{FileKey, OwnerId, Repeat, Row, Sha256Digest, Totals};
use crate::ledger::*;

/// Looks at a Redis ledger and keeps its own claims in a private one.
#[derive(Debug)]
pub struct RedisPreview {
    link: Link,
    calls: Calls,
    private: SqliteLedger,
}

impl RedisPreview {
    /// Connects at once or not at all, and changes nothing on the server.
    ///
    /// # Errors
    /// As [`super::RedisLedger::open`], and where no temporary file can be made.
    pub async fn open(config: RedisConfig) -> Result<Self, LedgerError> {
        let calls = Calls::new(&config.settings.prefix);
        let identity = Identity { owner: config.owner, lease: config.lease };
        let connector = Connector::new(config.settings, identity, Purpose::Look);
        let link = Link::open(connector, Duration::ZERO).await?;
        let config = SqliteConfig {
            // No ledger stands there.
            path: std::env::temp_dir().join(format!("archiver-preview-{}", config.owner)),
            retention: config.retention,
            lease: config.lease,
            owner: config.owner,
            clock: Arc::new(Utc::now),
        };
        let opening = tokio::task::spawn_blocking(move || SqliteLedger::open_snapshot(config));
        let private = opening.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        Ok(Self { link, calls, private })
    }

    async fn look(&self, keys: &[FileKey]) -> Result<Vec<Seen>, LedgerError> {
        let chunks = keys.chunks(CHUNK).map(async |keys| {
            let reply = self.link.call(self.calls.look(keys)).await?;
            self.calls.looked(self.link.location(), reply)
        });
        Ok(try_join_all(chunks).await?.into_iter().flatten().collect())
    }
}

#[async_trait]
impl Ledger for RedisPreview {
    fn owner(&self) -> OwnerId {
        self.private.owner()
    }

    async fn claim(&self, requests: Vec<ClaimRequest>) -> Result<Vec<ClaimReply>, LedgerError> {
        let keys: Vec<_> = requests.iter().map(|request| request.key.clone()).collect();
        let seen = self.look(&keys).await?;
        let mut replies = Vec::with_capacity(requests.len());
        let mut free = Vec::new();
        for (request, seen) in requests.into_iter().zip(seen) {
            replies.push(match (seen.owner, seen.record, request.repeat) {
                (Some(owner), _, _) => Some(ClaimReply::Held { owner }),
                (None, Some(record), Repeat::Skip) => Some(ClaimReply::Recorded(record)),
                (None, record, _) => {
                    let pinned = seen.remote.filter(|_| record.is_none());
                    let remote = pinned.unwrap_or_else(|| request.remote.clone());
                    free.push(ClaimRequest { remote, ..request });
                    None
                }
            });
        }
        let mut claimed = self.private.claim(free).await?.into_iter();
        Ok(replies.into_iter().filter_map(|reply| reply.or_else(|| claimed.next())).collect())
    }

    async fn recorded(&self, keys: Vec<FileKey>) -> Result<Vec<Option<Record>>, LedgerError> {
        Ok(self.look(&keys).await?.into_iter().map(|seen| seen.record).collect())
    }

    async fn renew(&self) -> Result<(), LedgerError> {
        self.private.renew().await
    }

    fn lease(&self) -> Duration {
        self.private.lease()
    }

    async fn confirm(&self, claim: &Claim) -> Result<(), LedgerError> {
        self.private.confirm(claim).await
    }

    async fn reissue(&self, claim: &Claim) -> Result<Claim, LedgerError> {
        self.private.reissue(claim).await
    }

    async fn index_contents(&self) -> Result<(), LedgerError> {
        self.private.index_contents().await
    }

    async fn reserve(&self, claim: &Claim, sha256: Sha256Digest) -> Result<Reservation, LedgerError> {
        self.private.reserve(claim, sha256).await
    }

    async fn reserved(&self, claim: &Claim) -> Result<Option<Sha256Digest>, LedgerError> {
        self.private.reserved(claim).await
    }

    async fn record(&self, claim: &Claim, record: Record, intention: Intention) -> Result<(), LedgerError> {
        self.private.record(claim, record, intention).await
    }

    async fn release(&self, claim: &Claim, release: Release) -> Result<(), LedgerError> {
        self.private.release(claim, release).await
    }

    async fn disposed(&self, key: &FileKey) -> Result<(), LedgerError> {
        self.private.disposed(key).await
    }

    /// None: what others left is not looked after.
    async fn orphans(&self, _: &str, after: Cursor, _: usize) -> Result<(Vec<Orphan>, Cursor), LedgerError> {
        Ok((vec![], after))
    }

    async fn rivals(&self, claim: &Claim, local_path: &Path) -> Result<Vec<RemotePath>, LedgerError> {
        self.private.rivals(claim, local_path).await
    }

    async fn undisposed(&self, _: &str, after: Cursor, _: usize) -> Result<(Vec<Undisposed>, Cursor), LedgerError> {
        Ok((vec![], after))
    }

    async fn postponed(&self, key: &FileKey) -> Result<(), LedgerError> {
        self.private.postponed(key).await
    }

    async fn disposing(&self, key: &FileKey) -> Result<(), LedgerError> {
        self.private.disposing(key).await
    }

    async fn retry(&self, keys: Vec<FileKey>) -> Result<Vec<bool>, LedgerError> {
        self.private.retry(keys).await
    }

    async fn retries(&self) -> Result<u64, LedgerError> {
        self.private.retries().await
    }

    async fn import(&self, entries: Vec<EntryInfo>, issued: Token) -> Result<Vec<Imported>, LedgerError> {
        self.private.import(entries, issued).await
    }

    async fn put_rows(&self, rows: Vec<RowOf>) -> Result<Vec<Recount>, LedgerError> {
        self.private.put_rows(rows).await
    }

    async fn rows(&self, filter: RowFilter, after: Cursor, limit: usize) -> Result<(Vec<Row>, Cursor), LedgerError> {
        self.private.rows(filter, after, limit).await
    }

    async fn totals(&self) -> Result<Totals, LedgerError> {
        self.private.totals().await
    }

    async fn tidy(&self) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn finish(&self) -> Result<(), LedgerError> {
        self.private.finish().await
    }
}
