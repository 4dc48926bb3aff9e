//! The audit of one destination: what the ledger has on record is looked for on the server, and what stands on the
//! server is looked for in the ledger. Nothing is changed on either side.
//!
//! Records come page by page; of each, 16 bytes are kept to know its name again while the directories are listed. What
//! does not fit then is looked up in the ledger once more, for files are archived meanwhile, and one name may have
//! several records, of which the last holds.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use futures::StreamExt;
use futures::stream;
use sha2::{Digest, Sha256};

use super::findings::{Finding, Findings, Root, What};
use crate::destination::error::StatusCode;
use crate::destination::sftp::compare::{self, Found};
use crate::destination::sftp::{Attributes, Kind, Load, Pool};
use crate::destination::{Consequence, DestinationError};
use crate::domain::{RemotePath, Sha256Digest};
use crate::ledger::{Cursor, EntryFilter, EntryInfo, EntryState, LedgerError, LedgerView};

/// Entries asked for at a time.
const PAGE: usize = 2_000;
/// Questions in flight: names looked at, and files read back.
const LOOKS: usize = 128;
const READS: usize = 8;
/// Directories listed at the same time.
const LISTINGS: usize = 8;
/// Entries of one directory at most: no server is trusted to come to an end.
const LISTED: usize = 2_000_000;

/// What is kept to be looked at again, at most. Beyond it things are told as they were seen first.
const SUSPECTS: usize = 200_000;

/// How thoroughly files are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    Size,
    /// The bytes are read and hashed.
    Content,
}

/// What is audited.
#[derive(Debug)]
pub struct Audit<'a> {
    pub view: &'a dyn LedgerView,
    pub pool: &'a Pool,
    /// As the ledger's keys hold it.
    pub destination: String,
    /// Where it begins: the base, and what was asked for below it. Empty for the login directory.
    pub root: String,
    pub depth: Depth,
    /// Attempts for each question.
    pub attempts: u32,
    pub progress: &'a Progress,
}

/// How far an audit is.
#[derive(Debug, Default)]
pub struct Progress {
    pub checked: AtomicU64,
    pub listed: AtomicU64,
}

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Destination(#[from] DestinationError),
}

/// A record to look for.
struct Expected {
    remote: RemotePath,
    size: u64,
    sha256: Sha256Digest,
    recorded_at: DateTime<Utc>,
}

/// A name in 128 bits.
type Name = u128;

fn name_of(path: &str) -> Name {
    let digest = Sha256::digest(path);
    u128::from_be_bytes(std::array::from_fn(|index| digest[index]))
}

/// Something that may turn out to be in order, with what was seen there.
struct Suspect {
    finding: Finding,
    recorded_at: Option<DateTime<Utc>>,
}

impl Audit<'_> {
    pub async fn run(&self) -> Result<Findings, AuditError> {
        let mut findings = Findings::default();
        let mut suspects = HashMap::new();
        let known = self.look_for_records(&mut findings, &mut suspects).await?;
        self.look_for_others(&known, &mut findings, &mut suspects).await?;
        drop(known);
        if !suspects.is_empty() {
            self.look_again(&mut findings, &mut suspects).await?;
            self.drop_the_gone(&mut suspects).await?;
        }
        let mut left: Vec<_> = suspects.into_values().map(|suspect| suspect.finding).collect();
        left.sort();
        left.into_iter().for_each(|finding| findings.add(finding));
        Ok(findings)
    }

    fn is_below(&self, path: &str) -> bool {
        match path.strip_prefix(&*self.root) {
            _ if self.root.is_empty() => true,
            Some(below) => below.is_empty() || below.starts_with('/') || self.root.ends_with('/'),
            None => false,
        }
    }

    /// What is on record here, and the names that are known: those, and those that somebody is at.
    async fn look_for_records(
        &self,
        findings: &mut Findings,
        suspects: &mut HashMap<Name, Suspect>,
    ) -> Result<Vec<Name>, AuditError> {
        let mut known = Vec::new();
        // Under another file's name, whose own record may be forgotten by now.
        let mut duplicates = HashMap::new();
        let mut after = Cursor::default();
        loop {
            let (page, next) = self.view.entries(EntryFilter::All, after, PAGE).await?;
            let last = page.len() < PAGE;
            after = next;
            let mut expected = Vec::new();
            for entry in page.into_iter().filter(|entry| *entry.key.destination == self.destination) {
                known.extend(self.names_in_use(&entry).map(|name| name_of(&name)));
                let is_duplicate = entry.is_duplicate();
                if let Some(record) = entry.record.filter(|record| self.is_below(record.remote.as_str())) {
                    let name = name_of(record.remote.as_str());
                    let one = Expected {
                        remote: record.remote,
                        size: entry.key.fingerprint.size,
                        sha256: record.sha256,
                        recorded_at: record.recorded_at,
                    };
                    if is_duplicate {
                        duplicates.entry(name).or_insert(one);
                    } else {
                        known.push(name);
                        expected.push(one);
                    }
                }
            }
            self.look_for_all(expected, findings, suspects).await?;
            if last {
                break;
            }
        }
        known.sort_unstable();
        known.dedup();
        duplicates.retain(|name, _| known.binary_search(name).is_err());
        known.extend(duplicates.keys());
        known.sort_unstable();
        self.look_for_all(duplicates.into_values().collect(), findings, suspects).await?;
        Ok(known)
    }

    async fn look_for_all(
        &self,
        expected: Vec<Expected>,
        findings: &mut Findings,
        suspects: &mut HashMap<Name, Suspect>,
    ) -> Result<(), AuditError> {
        let in_flight = if self.depth == Depth::Size { LOOKS } else { READS };
        let looks = expected.into_iter().map(|expected| async move {
            let seen = self.look_at(&expected).await;
            self.progress.checked.fetch_add(1, Ordering::Relaxed);
            (expected, seen)
        });
        let mut looks = stream::iter(looks).buffer_unordered(in_flight);
        while let Some((expected, seen)) = looks.next().await {
            findings.checked(expected.size);
            let Some(what) = seen? else { continue };
            let finding = Finding { remote: expected.remote.as_str().to_owned(), what };
            if finding.what == What::Missing || suspects.len() >= SUSPECTS {
                findings.add(finding);
            } else {
                let name = name_of(expected.remote.as_str());
                let recorded_at = Some(expected.recorded_at);
                // Of several records of one name, the last is the one that counts.
                let older = suspects.get(&name).is_some_and(|other: &Suspect| other.recorded_at > recorded_at);
                if !older {
                    suspects.insert(name, Suspect { finding, recorded_at });
                }
            }
        }
        Ok(())
    }

    /// The names that an upload under way has, or had before it was recorded.
    fn names_in_use(&self, entry: &EntryInfo) -> impl Iterator<Item = String> + use<> {
        let names = match entry.state {
            EntryState::Held { .. } => {
                let staging = entry.remote.staging(entry.key.id(), entry.token);
                vec![staging.as_str().to_owned(), entry.remote.as_str().to_owned()]
            }
            EntryState::Waiting { .. } | EntryState::Failed { .. } => vec![entry.remote.as_str().to_owned()],
            EntryState::Recorded => vec![],
        };
        names.into_iter()
    }

    /// What is wrong with a file; `None` for nothing.
    async fn look_at(&self, expected: &Expected) -> Result<Option<What>, DestinationError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let slot = self.pool.acquire(if self.depth == Depth::Size { Load::Light } else { Load::Heavy }).await?;
            let looked = async {
                let Some(found) = slot.lstat(&expected.remote).await? else { return Ok(Some(What::Missing)) };
                if !matches!(found.kind, Kind::File | Kind::Unknown) {
                    return Ok(Some(What::NotAFile));
                }
                if let Some(size) = found.size.filter(|size| *size != expected.size) {
                    return Ok(Some(What::WrongSize { expected: expected.size, found: size }));
                }
                if self.depth == Depth::Size {
                    return Ok(None);
                }
                Ok(match compare::compare(&slot, &expected.remote, expected.size, &expected.sha256).await? {
                    Found::SameBytes => None,
                    Found::OtherBytes => Some(What::WrongHash { size: expected.size }),
                    Found::Nothing => Some(What::Missing),
                    Found::NotAFile => Some(What::NotAFile),
                })
            };
            match self.judged(looked.await, &slot, attempt) {
                Some(Err(error)) if error.consequence == Consequence::File => {
                    return Ok(Some(What::Unreadable { why: error.to_string() }));
                }
                Some(result) => return result,
                None => {}
            }
        }
    }

    /// The result of an attempt; `None` where it is worth another.
    fn judged<T>(
        &self,
        result: Result<T, DestinationError>,
        slot: &crate::destination::sftp::Slot,
        attempt: u32,
    ) -> Option<Result<T, DestinationError>> {
        match &result {
            Ok(_) => self.pool.succeeded(),
            Err(error) => {
                self.pool.report(error);
                match error.consequence {
                    Consequence::Session => slot.broken(),
                    // The pool counts these itself, and gives up in the end.
                    Consequence::Outage => return None,
                    Consequence::File | Consequence::Policy | Consequence::Refusal => return Some(result),
                }
                if attempt < self.attempts {
                    return None;
                }
            }
        }
        Some(result)
    }

    /// Lists all directories from the root on. Links are not followed.
    async fn look_for_others(
        &self,
        known: &[Name],
        findings: &mut Findings,
        suspects: &mut HashMap<Name, Suspect>,
    ) -> Result<(), AuditError> {
        let mut waiting = vec![self.root.clone()];
        let mut listings = stream::FuturesUnordered::new();
        loop {
            while listings.len() < LISTINGS
                && let Some(directory) = waiting.pop()
            {
                listings.push(async move {
                    let listed = self.list(&directory).await;
                    (directory, listed)
                });
            }
            let Some((directory, listed)) = listings.next().await else { return Ok(()) };
            let entries = match listed {
                Ok(entries) => entries,
                // A single file was asked for, or nothing is there: records say what should be.
                Err(error)
                    if error.is_status(StatusCode::NoSuchFile)
                        || directory == self.root && error.is_status(StatusCode::Failure) =>
                {
                    if directory == self.root {
                        findings.root = Root::NotListed;
                        if let Some(attributes) = self.file_at_the_root().await? {
                            let name = directory.rsplit('/').next().unwrap_or_default();
                            note_unknown(name, directory.clone(), &attributes, known, findings, suspects);
                        }
                    }
                    continue;
                }
                Err(error) if error.consequence == Consequence::File => {
                    findings.add(Finding { remote: directory, what: What::Unreadable { why: error.to_string() } });
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            self.progress.listed.fetch_add(entries.len() as u64, Ordering::Relaxed);
            for entry in entries {
                let path = join(&directory, &entry.name);
                if entry.attributes.kind == Kind::Directory {
                    waiting.push(path);
                    continue;
                }
                note_unknown(&entry.name, path, &entry.attributes, known, findings, suspects);
            }
        }
    }

    /// What an audit begins with, where that is a file.
    async fn file_at_the_root(&self) -> Result<Option<Attributes>, DestinationError> {
        if self.root.is_empty() {
            return Ok(None);
        }
        match self.lstat(&self.root).await {
            Ok(found) => Ok(found.filter(|attributes| attributes.kind != Kind::Directory)),
            Err(error) if error.consequence == Consequence::File => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn list(&self, directory: &str) -> Result<Vec<crate::destination::sftp::DirectoryEntry>, DestinationError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let slot = self.pool.acquire(Load::Light).await?;
            if let Some(result) = self.judged(slot.list(directory, LISTED).await, &slot, attempt) {
                return result;
            }
        }
    }

    /// Drops what the ledger explains by now.
    async fn look_again(
        &self,
        findings: &mut Findings,
        suspects: &mut HashMap<Name, Suspect>,
    ) -> Result<(), AuditError> {
        let mut after = Cursor::default();
        // Names with a later record, and what that says.
        let mut later: BTreeMap<Name, Expected> = BTreeMap::new();
        loop {
            let (page, next) = self.view.entries(EntryFilter::All, after, PAGE).await?;
            let last = page.len() < PAGE;
            after = next;
            for entry in page.into_iter().filter(|entry| *entry.key.destination == self.destination) {
                for name in self.names_in_use(&entry).map(|name| name_of(&name)) {
                    if suspects.get(&name).is_some_and(|suspect| suspect.recorded_at.is_none()) {
                        suspects.remove(&name);
                        findings.in_hand();
                    }
                }
                let Some(record) = entry.record else { continue };
                let name = name_of(record.remote.as_str());
                let Some(suspect) = suspects.get(&name) else { continue };
                if suspect.recorded_at.is_none() {
                    // Archived while the directories were listed.
                    suspects.remove(&name);
                } else if Some(record.recorded_at) > suspect.recorded_at
                    && later.get(&name).is_none_or(|other| other.recorded_at < record.recorded_at)
                {
                    let (size, sha256) = (entry.key.fingerprint.size, record.sha256);
                    later.insert(
                        name,
                        Expected { remote: record.remote, size, sha256, recorded_at: record.recorded_at },
                    );
                }
            }
            if last {
                break;
            }
        }
        for (name, expected) in later {
            match self.look_at(&expected).await? {
                None => drop(suspects.remove(&name)),
                Some(what) => {
                    let remote = expected.remote.as_str().to_owned();
                    let recorded_at = Some(expected.recorded_at);
                    suspects.insert(name, Suspect { finding: Finding { remote, what }, recorded_at });
                }
            }
        }
        Ok(())
    }

    /// Drops what was listed and stands there no more: a temporary name has become a file, or somebody tidied up.
    async fn drop_the_gone(&self, suspects: &mut HashMap<Name, Suspect>) -> Result<(), AuditError> {
        let listed = suspects.iter().filter(|(_, suspect)| suspect.recorded_at.is_none());
        let looks = listed.map(|(name, suspect)| (*name, suspect.finding.remote.clone())).collect::<Vec<_>>();
        let looks = looks.into_iter().map(|(name, path)| async move { (name, self.lstat(&path).await) });
        let mut looks = stream::iter(looks).buffer_unordered(LOOKS);
        while let Some((name, found)) = looks.next().await {
            match found {
                Ok(None) => drop(suspects.remove(&name)),
                Ok(Some(_)) => {}
                // It was listed, so it is told.
                Err(error) if error.consequence == Consequence::File => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What has this name.
    async fn lstat(&self, path: &str) -> Result<Option<Attributes>, DestinationError> {
        let path = RemotePath::new(path);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let slot = self.pool.acquire(Load::Light).await?;
            if let Some(found) = self.judged(slot.lstat(&path).await, &slot, attempt) {
                return found;
            }
        }
    }
}

/// Takes note of a file on the server, unless it is known.
fn note_unknown(
    file_name: &str,
    path: String,
    attributes: &Attributes,
    known: &[Name],
    findings: &mut Findings,
    suspects: &mut HashMap<Name, Suspect>,
) {
    let name = name_of(&path);
    if known.binary_search(&name).is_ok() {
        return;
    }
    let bytes = attributes.size.unwrap_or_default();
    let what = if RemotePath::is_staging(file_name) { What::Leftover { bytes } } else { What::Extra { bytes } };
    let finding = Finding { remote: path, what };
    if suspects.len() < SUSPECTS {
        suspects.insert(name, Suspect { finding, recorded_at: None });
    } else {
        findings.add(finding);
    }
}

fn join(directory: &str, name: &str) -> String {
    match directory {
        "" => name.to_owned(),
        directory => format!("{}/{name}", directory.trim_end_matches('/')),
    }
}

/// Where an audit begins: `prefix` below the base, or from it on where it is absolute.
///
/// # Errors
/// What is wrong with the prefix.
pub fn root(base: &str, prefix: &str) -> Result<String, String> {
    if prefix.split('/').any(|part| part == "..") {
        return Err(format!("`{prefix}` leads out of the archive; write it without `..`"));
    }
    let plain: Vec<_> = prefix.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let below = plain.join("/");
    let base = if base.len() > 1 { base.trim_end_matches('/') } else { base };
    let absolute = format!("/{below}");
    if prefix.starts_with('/') && base.starts_with('/') && base.len() > 1 {
        return match absolute.strip_prefix(base) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => Ok(absolute),
            _ => Err(format!("`{prefix}` is not below {base}; write what follows it, such as 2026/11/21")),
        };
    }
    Ok(if below.is_empty() { base.to_owned() } else { join(base, &below).replace("//", "/") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_below_the_base() {
        let root = |base, prefix| root(base, prefix).map_err(|_| ());
        assert_eq!(root("/upload", "2026/11/21"), Ok("/upload/2026/11/21".into()));
        assert_eq!(root("/upload", "2026/11/"), Ok("/upload/2026/11".into()));
        assert_eq!(root("/upload", ""), Ok("/upload".into()));
        assert_eq!(root("/upload", "./2026"), Ok("/upload/2026".into()));
        assert_eq!(root("/upload", "/upload/2026"), Ok("/upload/2026".into()));
        assert_eq!(root("/upload", "/uploads/2026"), Err(()));
        assert_eq!(root("/upload", "../2026"), Err(()));
        assert_eq!(root("/", "2026"), Ok("/2026".into()));
        assert_eq!(root("/", ""), Ok("/".into()));
        assert_eq!(root("", "2026"), Ok("2026".into()));
        assert_eq!(root("", ""), Ok(String::new()));
        assert_eq!(root("in/box", "2026"), Ok("in/box/2026".into()));
    }
}
