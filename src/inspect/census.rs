//! How many files the ledger has in which state, entry by entry: memory does not grow with their number.

use std::collections::{BTreeMap, BinaryHeap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::capacity::Flow;
use crate::ledger::{Disposal, EntryInfo, EntryState, Holder};

/// What is counted for each source and destination.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    pub recorded: Flow,
    /// On record, with bytes that stand under another file's name.
    pub duplicates: Flow,
    pub held: Flow,
    pub waiting: Flow,
    pub failed: Flow,
    /// Those of them whose local file is on its way, or stayed on it.
    pub disposal_pending: Flow,
    pub last_archived: Option<DateTime<Utc>>,
}

/// A process that has files in hand.
#[derive(Debug, Clone, PartialEq)]
pub struct InHand {
    pub holder: Holder,
    pub flow: Flow,
    /// When it claimed the one it has had longest.
    pub since: Option<DateTime<Utc>>,
}

/// One file, as it is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub source: Arc<str>,
    pub destination: Arc<str>,
    pub path: PathBuf,
    pub remote: String,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub item: Item,
    pub reason: String,
    pub attempts: u32,
    pub at: Option<DateTime<Utc>>,
}

/// Counts of all that was seen.
#[derive(Debug)]
pub struct Census {
    pub sources: BTreeMap<(Arc<str>, Arc<str>), Counts>,
    pub in_hand: BTreeMap<u128, InHand>,
    /// Of those that are neither archived nor failed, the one that was queued first.
    pub oldest_waiting: Option<(DateTime<Utc>, Item)>,
    pub last_archived: Option<(DateTime<Utc>, Item)>,
    failed: BinaryHeap<ByAge>,
    keep_failed: usize,
}

impl Census {
    /// Names that many failed files, the newest.
    pub fn new(keep_failed: usize) -> Self {
        Self {
            sources: BTreeMap::new(),
            in_hand: BTreeMap::new(),
            oldest_waiting: None,
            last_archived: None,
            failed: BinaryHeap::new(),
            keep_failed,
        }
    }

    pub fn add(&mut self, entry: EntryInfo) {
        let bytes = entry.key.fingerprint.size;
        let flow = Flow::of(bytes);
        let item = |remote: &str| Item {
            source: entry.key.source.clone(),
            destination: entry.key.destination.clone(),
            path: entry.local_path.clone(),
            remote: remote.to_owned(),
            bytes,
        };
        let pinned = entry.remote.as_str();
        let counts = self.sources.entry((entry.key.source.clone(), entry.key.destination.clone())).or_default();
        if entry.disposal == Disposal::Pending {
            counts.disposal_pending += flow;
        }
        if let Some(record) = &entry.record {
            let at = record.recorded_at;
            counts.last_archived = counts.last_archived.max(Some(at));
            if self.last_archived.as_ref().is_none_or(|(last, _)| *last < at) {
                self.last_archived = Some((at, item(record.remote.as_str())));
            }
        }
        match &entry.state {
            EntryState::Recorded if entry.is_duplicate() => counts.duplicates += flow,
            EntryState::Recorded => counts.recorded += flow,
            EntryState::Held { holder, since } => {
                counts.held += flow;
                let in_hand = self.in_hand.entry(holder.owner.0).or_insert_with(|| InHand {
                    holder: holder.clone(),
                    flow: Flow::default(),
                    since: *since,
                });
                in_hand.flow += flow;
                in_hand.since = earlier(in_hand.since, *since);
                // As of the page that came last.
                in_hand.holder = holder.clone();
            }
            EntryState::Waiting { .. } => counts.waiting += flow,
            EntryState::Failed { reason, attempts, since } => {
                counts.failed += flow;
                let failed = Failed { item: item(pinned), reason: reason.clone(), attempts: *attempts, at: *since };
                self.failed.push(ByAge(failed));
                if self.failed.len() > self.keep_failed {
                    self.failed.pop();
                }
            }
        }
        if matches!(entry.state, EntryState::Held { .. } | EntryState::Waiting { .. })
            && let Some(queued) = entry.queued_at
            && self.oldest_waiting.as_ref().is_none_or(|(oldest, _)| queued < *oldest)
        {
            self.oldest_waiting = Some((queued, item(pinned)));
        }
    }

    pub fn totals(&self) -> Counts {
        let mut totals = Counts::default();
        for counts in self.sources.values() {
            totals.recorded += counts.recorded;
            totals.duplicates += counts.duplicates;
            totals.held += counts.held;
            totals.waiting += counts.waiting;
            totals.failed += counts.failed;
            totals.disposal_pending += counts.disposal_pending;
            totals.last_archived = totals.last_archived.max(counts.last_archived);
        }
        totals
    }

    /// Those that are named, the newest first.
    pub fn failed(&self) -> Vec<&Failed> {
        let mut failed: Vec<_> = self.failed.iter().collect();
        failed.sort();
        failed.into_iter().map(|ByAge(failed)| failed).collect()
    }
}

fn earlier(one: Option<DateTime<Utc>>, other: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    one.into_iter().chain(other).min()
}

/// Ordered so that the oldest is the greatest, the first to be left out: one without a time is the oldest.
#[derive(Debug, PartialEq, Eq)]
struct ByAge(Failed);

impl Ord for ByAge {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |failed: &Failed| (failed.at, std::cmp::Reverse(failed.item.path.clone()));
        key(&other.0).cmp(&key(&self.0))
    }
}

impl PartialOrd for ByAge {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// How long ago something was; nothing for what lies ahead of a clock that was set back.
pub fn ago(now: DateTime<Utc>, then: DateTime<Utc>) -> Duration {
    (now - then).to_std().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{FileKey, Fingerprint, OwnerId, RemotePath, Sha256Digest, Token};
    use crate::ledger::Record;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn entry(source: &str, name: &str, size: u64, queued: i64, state: EntryState) -> EntryInfo {
        let recorded = state == EntryState::Recorded;
        let remote = RemotePath::new(format!("/r/{name}"));
        EntryInfo {
            key: FileKey {
                destination: "sftp://h/r".into(),
                source: source.into(),
                path: name.into(),
                fingerprint: Fingerprint { inode: 1, size, mtime_ns: 1 },
            },
            local_path: format!("/src/{name}").into(),
            token: Token(1),
            queued_at: Some(at(queued)),
            record: recorded.then(|| Record {
                remote: remote.clone(),
                sha256: Sha256Digest([1; 32]),
                recorded_at: at(queued + 1),
            }),
            remote,
            disposal: Disposal::Settled,
            attempts: 0,
            staged: vec![],
            gone_at: None,
            state,
        }
    }

    fn failed(at_second: Option<i64>) -> EntryState {
        EntryState::Failed { reason: "full".into(), attempts: 8, since: at_second.map(at) }
    }

    fn held(owner: u128, since: i64) -> EntryState {
        let holder =
            Holder { owner: OwnerId(owner), hostname: "web".into(), pid: 7, lease_left: Duration::from_secs(50) };
        EntryState::Held { holder, since: Some(at(since)) }
    }

    #[test]
    fn every_entry_is_counted_once() {
        let mut census = Census::new(9);
        census.add(entry("a", "1", 10, 5, EntryState::Recorded));
        census.add(entry("a", "2", 20, 9, EntryState::Recorded));
        census.add(EntryInfo { disposal: Disposal::Pending, ..entry("a", "3", 30, 7, EntryState::Recorded) });
        census.add(entry("a", "4", 40, 50, held(1, 60)));
        census.add(entry("b", "5", 50, 51, held(1, 58)));
        census.add(entry("b", "6", 60, 20, EntryState::Waiting { since: None }));
        census.add(entry("b", "7", 70, 1, failed(Some(3))));
        assert_eq!(census.sources.len(), 2);
        let totals = census.totals();
        assert_eq!(totals.recorded, Flow { files: 3, bytes: 60 });
        assert_eq!(totals.held, Flow { files: 2, bytes: 90 });
        assert_eq!(totals.waiting, Flow { files: 1, bytes: 60 });
        assert_eq!(totals.failed, Flow { files: 1, bytes: 70 });
        assert_eq!(totals.disposal_pending, Flow { files: 1, bytes: 30 });
        let (last, item) = census.last_archived.as_ref().unwrap();
        assert_eq!((*last, &*item.remote), (at(10), "/r/2"));
        let (oldest, item) = census.oldest_waiting.as_ref().unwrap();
        assert_eq!((*oldest, item.path.to_str()), (at(20), Some("/src/6")));
        let in_hand = &census.in_hand[&1];
        assert_eq!((in_hand.flow, in_hand.since), (Flow { files: 2, bytes: 90 }, Some(at(58))));
    }

    #[test]
    fn the_newest_failures_are_named() {
        let mut census = Census::new(2);
        for (name, second) in [("1", Some(3)), ("2", Some(9)), ("3", None), ("4", Some(5)), ("5", Some(1))] {
            census.add(entry("a", name, 1, 0, failed(second)));
        }
        let named: Vec<_> = census.failed().iter().map(|failed| failed.item.remote.clone()).collect();
        assert_eq!(named, ["/r/2", "/r/4"]);
        assert_eq!(census.totals().failed.files, 5);
    }
}
