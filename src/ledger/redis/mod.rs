//! The shared ledger: one Redis server, for replicas on several hosts.
//!
//! - `link`: the task that owns the connection and sends what many callers ask for at once; `connect`: the right server
//! - `scripts`: what runs on the server, each rule of the contract as one Lua script; `keys`: where it keeps it
//! - `call`, `content`, `whole`: requests, in `words`, and replies, between the contract's words and Redis's; `preview`:
//!   for a dry run; `view`: for those who only look
//! - `summary`: the run's rows, which stay in this process
//!
//! `docs/redis.md` describes the keys to who operates it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::try_join_all;

use super::rows::Rows;
use super::*;
use crate::config::settings::RedisSettings;
use call::Calls;
use connect::{Connector, Identity, Purpose};
use link::Link;
use summary::Summary;

mod call;
mod connect;
mod content;
mod error;
mod keys;
mod link;
mod preview;
mod scripts;
mod summary;
#[cfg(test)]
pub(crate) mod tests;
mod view;
mod whole;
mod words;

pub use preview::RedisPreview;
pub use view::RedisView;

/// How long a start waits for a server that is not there yet.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests of one script call: the server does nothing else meanwhile, a millisecond or so.
const CHUNK: usize = 64;
/// Records that are looked at together for retention, and how often at most in one call.
const RETENTION_PAGE: usize = 500;
const RETENTION_PAGES: usize = 100;
/// Entries of an index that one script call looks at.
const LISTING_PAGE: usize = 500;

/// Where the ledger is and who asks.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    pub settings: RedisSettings,
    /// Records older than this go once their local file is gone.
    pub retention: Duration,
    pub lease: Duration,
    pub owner: OwnerId,
}

/// A [`Ledger`] on a Redis server. Dropping it closes its connection; without [`Ledger::finish`] its claims are free to
/// be taken over once its lease has run out, by the server's clock.
#[derive(Debug)]
pub struct RedisLedger {
    link: Link,
    calls: Calls,
    owner: OwnerId,
    lease: Duration,
    retention: Duration,
    summary: Summary,
    /// Calls that may have taken effect although they failed, by their key: repeated, they have the same number.
    unclear: Mutex<HashMap<KeyId, u64>>,
    last_call: AtomicU64,
    finished: AtomicBool,
}

impl RedisLedger {
    /// Connects, and makes the ledger where there is none. Waits half a minute for a server that is not there.
    ///
    /// # Errors
    /// [`LedgerError::Unusable`] for a login that is refused, keys of another program or version, and a server that drops
    /// keys when it is full. [`LedgerError::Unavailable`] for one that is out of reach or takes no changes.
    pub async fn open(config: RedisConfig) -> Result<Self, LedgerError> {
        let calls = Calls::new(&config.settings.prefix);
        let rows = Rows::unnamed()?;
        let identity = Identity { owner: config.owner, lease: config.lease };
        let link = Link::open(Connector::new(config.settings, identity, Purpose::Join), PATIENCE).await?;
        Ok(Self {
            link,
            calls,
            owner: config.owner,
            lease: config.lease,
            retention: config.retention,
            summary: Summary::new(rows),
            unclear: Mutex::default(),
            last_call: AtomicU64::new(0),
            finished: AtomicBool::new(false),
        })
    }

    fn running(&self) -> Result<&Link, LedgerError> {
        match self.finished.load(Ordering::Acquire) {
            false => Ok(&self.link),
            true => Err(LedgerError::Unusable {
                location: self.link.location().to_owned(),
                reason: "this run has ended it".into(),
            }),
        }
    }

    /// The number of a call that changes the entry of a key: the last one's, where it is not clear what became of that.
    fn number(&self, id: KeyId) -> u64 {
        let unclear = self.unclear.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        unclear.unwrap_or_else(|| self.last_call.fetch_add(1, Ordering::Relaxed))
    }

    /// Of a key that was asked for twice at once, the first call may have taken effect.
    fn is_unclear(&self, id: KeyId, number: u64) {
        self.unclear.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_insert(number);
    }

    /// A call for a claim, fenced by its token.
    async fn fenced(
        &self,
        claim: &Claim,
        request: impl FnOnce(KeyId, u64) -> link::Request,
    ) -> Result<(), LedgerError> {
        let link = self.running()?;
        let id = claim.key.id();
        let number = self.number(id);
        let outcome = link.call(request(id, number)).await.and_then(|reply| self.calls.done(link.location(), reply));
        if let Err(LedgerError::Unavailable { .. }) = &outcome {
            self.is_unclear(id, number);
        }
        outcome
    }

    /// The replies, each with the number of its claim.
    async fn claim_some(&self, requests: Vec<ClaimRequest>) -> Result<Vec<(ClaimReply, u64)>, LedgerError> {
        let link = self.running()?;
        let ids = requests.iter().map(|request| request.key.id());
        let numbers: Vec<_> = ids.map(|id| (id, self.number(id))).collect();
        let request = self.calls.claim(&requests, &numbers);
        let outcome = link.call(request).await.and_then(|reply| self.calls.claimed(link.location(), requests, reply));
        if let Err(LedgerError::Unavailable { .. }) = &outcome {
            numbers.iter().for_each(|(id, number)| self.is_unclear(*id, *number));
        }
        Ok(outcome?.into_iter().zip(numbers).map(|(reply, (_, number))| (reply, number)).collect())
    }

    /// Pages of an index, until there are `limit` entries or it ends.
    async fn page<T>(
        &self,
        request: impl Fn(Cursor) -> link::Request,
        read: impl Fn(call::Listed) -> Result<T, LedgerError>,
        mut after: Cursor,
        limit: usize,
    ) -> Result<(Vec<T>, Cursor), LedgerError> {
        let link = self.running()?;
        let mut found = Vec::new();
        loop {
            let (last, looked_at, page) = self.calls.listed(link.location(), link.call(request(after)).await?)?;
            for listed in page {
                if found.len() == limit {
                    return Ok((found, after));
                }
                after = listed.seq;
                found.push(read(listed)?);
            }
            if looked_at < LISTING_PAGE {
                return Ok((found, after));
            }
            after = last;
            if found.len() == limit {
                return Ok((found, after));
            }
        }
    }
}

#[async_trait]
impl Ledger for RedisLedger {
    fn owner(&self) -> OwnerId {
        self.owner
    }

    async fn claim(&self, requests: Vec<ClaimRequest>) -> Result<Vec<ClaimReply>, LedgerError> {
        let mut chunks = Vec::new();
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            chunks.push(self.claim_some(requests.by_ref().take(CHUNK).collect()));
        }
        // They go in one pipeline.
        let chunks = futures::future::join_all(chunks).await;
        if let Some(error) = chunks.iter().find_map(|chunk| chunk.as_ref().err().cloned()) {
            // Nobody hears of what was claimed: asked again, the server tells it again.
            for (reply, number) in chunks.into_iter().flatten().flatten() {
                if let ClaimReply::Claimed(claim) = reply {
                    self.is_unclear(claim.key.id(), number);
                }
            }
            return Err(error);
        }
        Ok(chunks.into_iter().flatten().flatten().map(|(reply, _)| reply).collect())
    }

    async fn recorded(&self, keys: Vec<FileKey>) -> Result<Vec<Option<Record>>, LedgerError> {
        let link = self.running()?;
        let chunks = keys.chunks(CHUNK).map(async |keys| {
            let reply = link.call(self.calls.look(keys)).await?;
            self.calls.looked(link.location(), reply)
        });
        Ok(try_join_all(chunks).await?.into_iter().flatten().map(|seen| seen.record).collect())
    }

    async fn renew(&self) -> Result<(), LedgerError> {
        self.running()?.call(self.calls.renew()).await.map(drop)
    }

    fn lease(&self) -> Duration {
        self.lease
    }

    /// A server that failed over or was emptied may have given the file to somebody else within any lease, so it is
    /// asked every time.
    fn certainty(&self) -> Duration {
        Duration::ZERO
    }

    async fn confirm(&self, claim: &Claim) -> Result<(), LedgerError> {
        let link = self.running()?;
        let reply = link.call(self.calls.confirm(claim)).await?;
        self.calls.done(link.location(), reply)
    }

    async fn reissue(&self, claim: &Claim) -> Result<Claim, LedgerError> {
        let link = self.running()?;
        let id = claim.key.id();
        let number = self.number(id);
        let reply = link.call(self.calls.reissue(claim, number)).await;
        let outcome = reply.and_then(|reply| self.calls.reissued(link.location(), claim, reply));
        if let Err(LedgerError::Unavailable { .. }) = &outcome {
            self.is_unclear(id, number);
        }
        outcome
    }

    async fn index_contents(&self) -> Result<(), LedgerError> {
        let link = self.running()?;
        let mut after = Cursor::default();
        loop {
            let reply = link.call(self.calls.contents(after)).await?;
            let (last, looked_at) = self.calls.indexed(link.location(), reply)?;
            if looked_at < LISTING_PAGE {
                return Ok(());
            }
            after = last;
        }
    }

    async fn reserve(&self, claim: &Claim, sha256: Sha256Digest) -> Result<Reservation, LedgerError> {
        let link = self.running()?;
        loop {
            let reply = link.call(self.calls.reserve(claim, &sha256)).await?;
            match self.calls.reserved(link.location(), reply)? {
                Some(reservation) => return Ok(reservation),
                // The server was emptied since.
                None => self.index_contents().await?,
            }
        }
    }

    async fn reserved(&self, claim: &Claim) -> Result<Option<Sha256Digest>, LedgerError> {
        let link = self.running()?;
        let reply = link.call(self.calls.content(claim)).await?;
        self.calls.content_was(link.location(), reply)
    }

    async fn record(&self, claim: &Claim, record: Record, intention: Intention) -> Result<(), LedgerError> {
        self.fenced(claim, |id, number| self.calls.record(claim, id, number, &record, intention)).await
    }

    async fn release(&self, claim: &Claim, release: Release) -> Result<(), LedgerError> {
        self.fenced(claim, |id, number| self.calls.release(claim, id, number, &release)).await
    }

    async fn disposed(&self, key: &FileKey) -> Result<(), LedgerError> {
        self.running()?.call(self.calls.disposed(key)).await.map(drop)
    }

    async fn orphans(
        &self,
        destination: &str,
        after: Cursor,
        limit: usize,
    ) -> Result<(Vec<Orphan>, Cursor), LedgerError> {
        let request = |after| self.calls.staged(destination, after);
        let read = |listed: call::Listed| {
            let call::Listed { key, local_path, remote, record, gone, .. } = listed;
            let state = if record.is_some() { OrphanState::Recorded } else { OrphanState::Unfinished };
            Ok(Orphan { key, local_path, remote, state, gone })
        };
        self.page(request, read, after, limit).await
    }

    async fn rivals(&self, claim: &Claim, local_path: &Path) -> Result<Vec<RemotePath>, LedgerError> {
        let link = self.running()?;
        let (mut names, mut after) = (Vec::new(), Cursor::default());
        loop {
            let reply = link.call(self.calls.rivals(claim, local_path, after)).await?;
            let (last, looked_at, found) = self.calls.found_rivals(link.location(), claim, reply)?;
            names.extend(found);
            if looked_at < LISTING_PAGE {
                return Ok(names);
            }
            after = last;
        }
    }

    async fn undisposed(
        &self,
        destination: &str,
        after: Cursor,
        limit: usize,
    ) -> Result<(Vec<Undisposed>, Cursor), LedgerError> {
        let request = |after| self.calls.undisposed(destination, after);
        let read = |listed: call::Listed| {
            let call::Listed { key, local_path, record, is_failed, .. } = listed;
            Ok(Undisposed { key, local_path, record, is_failed })
        };
        self.page(request, read, after, limit).await
    }

    async fn postponed(&self, key: &FileKey) -> Result<(), LedgerError> {
        self.running()?.call(self.calls.postponed(key)).await.map(drop)
    }

    async fn disposing(&self, key: &FileKey) -> Result<(), LedgerError> {
        let link = self.running()?;
        let reply = link.call(self.calls.disposing(key)).await?;
        self.calls.done(link.location(), reply)
    }

    async fn retry(&self, keys: Vec<FileKey>) -> Result<Vec<bool>, LedgerError> {
        let link = self.running()?;
        let chunks = keys.chunks(CHUNK).map(async |keys| {
            let reply = link.call(self.calls.retry(keys)).await?;
            self.calls.retried(link.location(), reply)
        });
        Ok(try_join_all(chunks).await?.into_iter().flatten().collect())
    }

    async fn retries(&self) -> Result<u64, LedgerError> {
        let link = self.running()?;
        let reply = link.call(self.calls.retries()).await?;
        self.calls.count(link.location(), reply).map(|count| count as u64)
    }

    async fn import(&self, entries: Vec<EntryInfo>, issued: Token) -> Result<Vec<Imported>, LedgerError> {
        let link = self.running()?;
        // Without entries, too, it has a token to tell.
        let chunks = if entries.is_empty() { vec![&entries[..]] } else { entries.chunks(CHUNK).collect() };
        let chunks = chunks.into_iter().map(async |entries| {
            let reply = link.call(self.calls.import(entries, issued)).await?;
            self.calls.imported(link.location(), reply)
        });
        Ok(try_join_all(chunks).await?.into_iter().flatten().collect())
    }

    async fn put_rows(&self, rows: Vec<RowOf>) -> Result<Vec<Recount>, LedgerError> {
        self.running()?;
        self.summary.put(rows).await
    }

    async fn rows(&self, filter: RowFilter, after: Cursor, limit: usize) -> Result<(Vec<Row>, Cursor), LedgerError> {
        self.running()?;
        self.summary.read(move |rows| rows.page(filter, after, limit)).await
    }

    async fn totals(&self) -> Result<Totals, LedgerError> {
        self.running()?;
        self.summary.read(Rows::totals).await
    }

    async fn tidy(&self) -> Result<(), LedgerError> {
        let link = self.running()?;
        let mut from = None;
        // Those that stay are passed over by their number.
        let mut passed = 0;
        for _ in 0..RETENTION_PAGES {
            let reply = link.call(self.calls.expired(self.retention, from.as_deref(), passed)).await?;
            let (began, last, looked_at, page) = self.calls.found_expired(link.location(), reply)?;
            from = Some(began);
            let is_last = looked_at < RETENTION_PAGE;
            // A filesystem may be slow to answer.
            let looked = tokio::task::spawn_blocking(move || page.into_iter().filter(call::Expired::is_gone).collect());
            let gone: Vec<_> = looked.await.unwrap_or_default();
            // Past the last one, the next call starts with the oldest again.
            let next = if is_last { "0" } else { last.as_str() };
            let reply = link.call(self.calls.forget(&gone, next)).await?;
            passed += looked_at.saturating_sub(self.calls.count(link.location(), reply)?);
            if is_last {
                break;
            }
        }
        Ok(())
    }

    async fn peers(&self, scope: &str) -> Result<Vec<OwnerId>, LedgerError> {
        let link = self.running()?;
        let reply = link.call(self.calls.peers(scope)).await?;
        self.calls.found_peers(link.location(), reply)
    }

    async fn finish(&self) -> Result<(), LedgerError> {
        let tidied = self.tidy().await;
        self.running()?.call(self.calls.leave()).await?;
        self.finished.store(true, Ordering::Release);
        tidied
    }
}
