//! Requests and replies: the contract's words as the arguments of scripts, and back.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use chrono::DateTime;
use redis::{FromRedisValue, Value};

use super::keys::{Keys, hex, unhex};
use super::link::Request;
use super::scripts::Script;
use super::{LISTING_PAGE, RETENTION_PAGE};
use crate::domain::{FileKey, Fingerprint, OwnerId, RemotePath, Repeat, Sha256Digest, Token};
use crate::ledger::sqlite::is_gone;
use crate::ledger::{
    Claim, ClaimReply, ClaimRequest, Cursor, Disposal, EntryFilter, EntryInfo, EntryState, Holder, Intention,
    LedgerError, Record, Release, Staged,
};

/// Makes requests of one ledger and reads their replies.
#[derive(Debug)]
pub(super) struct Calls {
    keys: Keys,
}

/// What a look at an entry shows.
pub(super) struct Seen {
    /// Who holds it.
    pub(super) owner: Option<OwnerId>,
    pub(super) record: Option<Record>,
    /// The pinned path of an entry that stands.
    pub(super) remote: Option<RemotePath>,
}

/// An entry of an index.
pub(super) struct Listed {
    pub(super) seq: Cursor,
    pub(super) key: FileKey,
    pub(super) local_path: PathBuf,
    pub(super) remote: RemotePath,
    pub(super) record: Option<Record>,
    /// Staged tokens that were seen to be gone.
    pub(super) gone: Vec<Token>,
    pub(super) is_failed: bool,
}

/// A record past the retention.
pub(super) struct Expired {
    id: String,
    recorded_at: String,
    local_path: PathBuf,
    /// As the key has it.
    path: Vec<u8>,
}

impl Expired {
    /// Whether the local file is gone from a volume that is there: the ledger may be another host's, too.
    pub(super) fn is_gone(&self) -> bool {
        is_gone(&self.local_path) && root_of(&self.local_path, &self.path).exists()
    }
}

/// The root of the source that a file is of; of one that has no name, the first directory of all.
fn root_of<'a>(local_path: &'a Path, below: &[u8]) -> &'a Path {
    let whole = local_path.as_os_str().as_bytes();
    match whole.strip_suffix(below).and_then(|root| root.strip_suffix(b"/")) {
        Some(root) if !root.is_empty() => Path::new(std::ffi::OsStr::from_bytes(root)),
        _ => {
            let depth = local_path.components().filter(|part| matches!(part, Component::Normal(_))).count();
            local_path.ancestors().nth(depth.saturating_sub(1)).unwrap_or(local_path)
        }
    }
}

fn text(value: impl ToString) -> Vec<u8> {
    value.to_string().into_bytes()
}

impl Calls {
    pub(super) fn new(prefix: &str) -> Self {
        Self { keys: Keys::new(prefix) }
    }

    pub(super) fn renew(&self) -> Request {
        Request { script: Script::Renew, keys: vec![], arguments: vec![] }
    }

    pub(super) fn leave(&self) -> Request {
        Request { script: Script::Leave, keys: vec![self.keys.peers()], arguments: vec![] }
    }

    pub(super) fn peers(&self, scope: &str) -> Request {
        Request { script: Script::Peers, keys: vec![self.keys.peers()], arguments: vec![text(scope)] }
    }

    pub(super) fn found_peers(&self, location: &str, reply: Value) -> Result<Vec<OwnerId>, LedgerError> {
        let owners: Vec<Vec<u8>> = read(location, reply)?;
        owners.iter().map(|owner| owner_of(owner)).collect::<Option<_>>().ok_or_else(|| strange(location))
    }

    pub(super) fn claim(&self, requests: &[ClaimRequest], numbers: &[u64]) -> Request {
        let mut keys = vec![self.keys.all(), self.keys.failed()];
        let mut arguments = Vec::with_capacity(9 * requests.len());
        for (ClaimRequest { key, local_path, remote, repeat }, number) in requests.iter().zip(numbers) {
            keys.extend([self.keys.entry(key), self.keys.staged(&key.destination)]);
            let how = match repeat {
                Repeat::Skip => "skip",
                Repeat::Force => "force",
            };
            arguments.extend([
                text(hex(key.id())),
                text(&*key.destination),
                text(&*key.source),
                key.path.clone(),
                version(&key.fingerprint),
                local_path.as_os_str().as_bytes().to_vec(),
                text(remote.as_str()),
                text(how),
                text(number),
            ]);
        }
        Request { script: Script::Claim, keys, arguments }
    }

    /// The replies to a claim of these keys.
    pub(super) fn claimed(
        &self,
        location: &str,
        keys: Vec<FileKey>,
        reply: Value,
    ) -> Result<Vec<ClaimReply>, LedgerError> {
        let replies: Vec<Vec<Vec<u8>>> = read(location, reply)?;
        if replies.len() != keys.len() {
            return Err(strange(location));
        }
        let replies = keys.into_iter().zip(replies).map(|(key, reply)| {
            let fields: Vec<_> = reply.iter().map(Vec::as_slice).collect();
            Some(match fields[..] {
                [b"held", owner] => ClaimReply::Held { owner: owner_of(owner)? },
                [b"recorded", remote, sha256, at] => ClaimReply::Recorded(record_of(remote, sha256, at)?),
                [b"claimed", token, remote, attempts, staged] => ClaimReply::Claimed(Claim {
                    key,
                    token: Token(number(token)?),
                    remote: remote_of(remote)?,
                    predecessors: tokens(staged)?,
                    attempts: number(attempts)?,
                }),
                _ => return None,
            })
        });
        replies.collect::<Option<_>>().ok_or_else(|| strange(location))
    }

    pub(super) fn look(&self, keys: &[FileKey]) -> Request {
        let keys = keys.iter().map(|key| self.keys.entry(key)).collect();
        Request { script: Script::Look, keys, arguments: vec![] }
    }

    pub(super) fn looked(&self, location: &str, reply: Value) -> Result<Vec<Seen>, LedgerError> {
        let replies: Vec<[Vec<u8>; 5]> = read(location, reply)?;
        let seen = replies.into_iter().map(|[owner, stands, sha256, at, remote]| {
            Some(Seen {
                owner: if owner.is_empty() { None } else { Some(owner_of(&owner)?) },
                record: if at.is_empty() { None } else { Some(record_of(&stands, &sha256, &at)?) },
                remote: if remote.is_empty() { None } else { Some(remote_of(&remote)?) },
            })
        });
        seen.collect::<Option<_>>().ok_or_else(|| strange(location))
    }

    pub(super) fn confirm(&self, claim: &Claim) -> Request {
        Request { script: Script::Confirm, keys: vec![self.keys.entry(&claim.key)], arguments: vec![text(claim.token)] }
    }

    pub(super) fn reissue(&self, claim: &Claim, number: u64) -> Request {
        let staged = claim.predecessors.iter().copied().chain([claim.token]);
        let arguments = vec![text(claim.token), text(number), list(staged)];
        Request { script: Script::Reissue, keys: vec![self.keys.entry(&claim.key)], arguments }
    }

    pub(super) fn reissued(&self, location: &str, claim: &Claim, reply: Value) -> Result<Claim, LedgerError> {
        let token: Vec<u8> = read(location, reply)?;
        if token.is_empty() {
            return Err(LedgerError::LeaseLost);
        }
        let token = number(&token).map(Token).ok_or_else(|| strange(location))?;
        let predecessors = claim.predecessors.iter().copied().chain([claim.token]).collect();
        Ok(Claim { token, predecessors, ..claim.clone() })
    }

    pub(super) fn record(&self, claim: &Claim, number: u64, record: &Record, intention: Intention) -> Request {
        let destination = &claim.key.destination;
        let [staged, gone] = left(claim, Staged::Gone);
        Request {
            script: Script::Record,
            keys: vec![
                self.keys.entry(&claim.key),
                self.keys.staged(destination),
                self.keys.disposing(destination),
                self.keys.recorded(),
            ],
            arguments: vec![
                text(hex(claim.key.id())),
                text(claim.token),
                text(number),
                text(record.remote.as_str()),
                text(record.sha256),
                text(record.recorded_at.timestamp_micros()),
                intended(intention),
                staged,
                gone,
            ],
        }
    }

    pub(super) fn release(&self, claim: &Claim, number: u64, release: &Release) -> Request {
        let destination = &claim.key.destination;
        let (how, staged, attempts, reason, intention) = match release {
            Release::Failed { reason, attempts, staged, intention } => {
                ("failed", *staged, *attempts, reason.as_str(), *intention)
            }
            Release::Unfinished { attempts, staged } => ("unfinished", *staged, *attempts, "", Intention::LeaveAlone),
            Release::Forget { staged } => ("forget", *staged, 0, "", Intention::LeaveAlone),
        };
        let [staged, gone] = left(claim, staged);
        Request {
            script: Script::Release,
            keys: vec![
                self.keys.entry(&claim.key),
                self.keys.staged(destination),
                self.keys.disposing(destination),
                self.keys.all(),
                self.keys.failed(),
            ],
            arguments: vec![
                text(hex(claim.key.id())),
                text(claim.token),
                text(number),
                text(how),
                text(attempts),
                text(reason),
                intended(intention),
                staged,
                gone,
            ],
        }
    }

    pub(super) fn disposing(&self, key: &FileKey) -> Request {
        self.of_disposal(Script::Disposing, key)
    }

    pub(super) fn disposed(&self, key: &FileKey) -> Request {
        self.of_disposal(Script::Disposed, key)
    }

    pub(super) fn postponed(&self, key: &FileKey) -> Request {
        Request { script: Script::Postponed, keys: vec![self.keys.entry(key)], arguments: vec![] }
    }

    fn of_disposal(&self, script: Script, key: &FileKey) -> Request {
        let keys = vec![self.keys.entry(key), self.keys.disposing(&key.destination)];
        Request { script, keys, arguments: vec![text(hex(key.id()))] }
    }

    pub(super) fn staged(&self, destination: &str, after: Cursor) -> Request {
        self.page(self.keys.staged(destination), after, "staged")
    }

    pub(super) fn undisposed(&self, destination: &str, after: Cursor) -> Request {
        self.page(self.keys.disposing(destination), after, "disposer")
    }

    fn page(&self, index: String, after: Cursor, field: &str) -> Request {
        let arguments = vec![text(self.keys.entry_start()), text(after.0), text(LISTING_PAGE), text(field)];
        Request { script: Script::Page, keys: vec![index], arguments }
    }

    /// The position of the last entry that was looked at, how many there were, and those that nobody holds.
    pub(super) fn listed(&self, location: &str, reply: Value) -> Result<(Cursor, usize, Vec<Listed>), LedgerError> {
        let (last, looked_at, found): (i64, usize, Vec<[Vec<u8>; 12]>) = read(location, reply)?;
        let found = found.into_iter().map(listed).collect::<Option<_>>().ok_or_else(|| strange(location))?;
        Ok((Cursor(last), looked_at, found))
    }

    pub(super) fn rivals(&self, claim: &Claim, local_path: &Path, after: Cursor) -> Request {
        let arguments = vec![
            text(self.keys.entry_start()),
            text(after.0),
            text(LISTING_PAGE),
            text(hex(claim.key.id())),
            text(claim.remote.as_str()),
            local_path.as_os_str().as_bytes().to_vec(),
        ];
        Request { script: Script::Rivals, keys: vec![self.keys.staged(&claim.key.destination)], arguments }
    }

    /// As [`Calls::listed`], but of each rival all temporary names.
    pub(super) fn found_rivals(
        &self,
        location: &str,
        claim: &Claim,
        reply: Value,
    ) -> Result<(Cursor, usize, Vec<RemotePath>), LedgerError> {
        let (last, looked_at, found): (i64, usize, Vec<[Vec<u8>; 2]>) = read(location, reply)?;
        let mut names = Vec::new();
        for [id, staged] in found {
            let (id, staged) = unhex(&id).zip(tokens(&staged)).ok_or_else(|| strange(location))?;
            names.extend(staged.into_iter().map(|token| claim.remote.staging(id, token)));
        }
        Ok((Cursor(last), looked_at, names))
    }

    /// From the age `from` on, or from where the last run stopped, without the first `passed`.
    pub(super) fn expired(&self, retention: Duration, from: Option<&str>, passed: usize) -> Request {
        let arguments = vec![
            text(self.keys.entry_start()),
            text(retention.as_micros()),
            text(from.unwrap_or_default()),
            text(passed),
            text(RETENTION_PAGE),
        ];
        Request { script: Script::Expired, keys: vec![self.keys.recorded()], arguments }
    }

    /// Where it began, the age of the last record that was looked at, how many there were, and those that may go.
    pub(super) fn found_expired(
        &self,
        location: &str,
        reply: Value,
    ) -> Result<(String, String, usize, Vec<Expired>), LedgerError> {
        let (from, last, looked_at, found): (String, String, usize, Vec<[Vec<u8>; 4]>) = read(location, reply)?;
        let found = found.into_iter().map(|[id, recorded_at, local_path, path]| {
            let [id, recorded_at] = [id, recorded_at].map(String::from_utf8);
            Some(Expired {
                id: id.ok()?,
                recorded_at: recorded_at.ok()?,
                local_path: OsString::from_vec(local_path).into(),
                path,
            })
        });
        Ok((from, last, looked_at, found.collect::<Option<_>>().ok_or_else(|| strange(location))?))
    }

    pub(super) fn forget(&self, gone: &[Expired], next: &str) -> Request {
        let entries = gone.iter().map(|expired| self.keys.entry_of(&expired.id));
        let keys = [self.keys.recorded(), self.keys.all()].into_iter().chain(entries).collect();
        let each = gone.iter().flat_map(|expired| [text(&expired.id), text(&expired.recorded_at)]);
        Request { script: Script::Forget, keys, arguments: [text(next)].into_iter().chain(each).collect() }
    }

    pub(super) fn retry(&self, keys: &[FileKey]) -> Request {
        let entries = keys.iter().map(|key| self.keys.entry(key));
        Request {
            script: Script::Retry,
            keys: [self.keys.failed()].into_iter().chain(entries).collect(),
            arguments: keys.iter().map(|key| text(hex(key.id()))).collect(),
        }
    }

    pub(super) fn retried(&self, location: &str, reply: Value) -> Result<Vec<bool>, LedgerError> {
        let put_back: Vec<i64> = read(location, reply)?;
        Ok(put_back.into_iter().map(|was_failed| was_failed == 1).collect())
    }

    pub(super) fn retries(&self) -> Request {
        Request { script: Script::Retries, keys: vec![], arguments: vec![] }
    }

    pub(super) fn view(&self, filter: EntryFilter, after: Cursor, limit: usize) -> Request {
        let index = match filter {
            EntryFilter::All => self.keys.all(),
            EntryFilter::Failed => self.keys.failed(),
        };
        let arguments = vec![text(self.keys.entry_start()), text(after.0), text(limit)];
        Request { script: Script::View, keys: vec![index], arguments }
    }

    /// As [`Calls::listed`].
    pub(super) fn viewed(&self, location: &str, reply: Value) -> Result<(Cursor, usize, Vec<EntryInfo>), LedgerError> {
        let (last, looked_at, found): (i64, usize, Vec<[Vec<u8>; 19]>) = read(location, reply)?;
        let found = found.into_iter().map(info).collect::<Option<_>>().ok_or_else(|| strange(location))?;
        Ok((Cursor(last), looked_at, found))
    }

    pub(super) fn count(&self, location: &str, reply: Value) -> Result<usize, LedgerError> {
        read(location, reply)
    }

    /// Of a call that the server did, or did not because the claim had ended.
    pub(super) fn done(&self, location: &str, reply: Value) -> Result<(), LedgerError> {
        match reply {
            Value::Int(1) => Ok(()),
            Value::Int(0) => Err(LedgerError::LeaseLost),
            _ => Err(strange(location)),
        }
    }
}

fn read<T: FromRedisValue>(location: &str, reply: Value) -> Result<T, LedgerError> {
    redis::from_redis_value(reply).map_err(|_| strange(location))
}

/// Something between us and the server may have mixed replies up: nothing is guessed.
fn strange(location: &str) -> LedgerError {
    LedgerError::Unavailable { location: location.to_owned(), reason: "its reply cannot be read".into() }
}

fn version(fingerprint: &Fingerprint) -> Vec<u8> {
    text(format_args!("{} {} {}", fingerprint.inode, fingerprint.size, fingerprint.mtime_ns))
}

fn intended(intention: Intention) -> Vec<u8> {
    match intention {
        Intention::Dispose => text("dispose"),
        Intention::LeaveAlone => text("leave"),
    }
}

/// The tokens that stay staged when a claim ends, and whether they are gone.
fn left(claim: &Claim, staged: Staged) -> [Vec<u8>; 2] {
    let predecessors = claim.predecessors.iter().copied();
    match staged {
        Staged::Nothing => [vec![], vec![]],
        Staged::Gone => [list(predecessors), text("gone")],
        Staged::Maybe => [list(predecessors.chain([claim.token])), vec![]],
    }
}

fn listed(fields: [Vec<u8>; 12]) -> Option<Listed> {
    let [seq, destination, source, path, version, local_path, remote, stands, sha256, at, gone, state] = fields;
    let mut numbers = std::str::from_utf8(&version).ok()?.split(' ');
    let fingerprint = Fingerprint {
        inode: numbers.next()?.parse().ok()?,
        size: numbers.next()?.parse().ok()?,
        mtime_ns: numbers.next()?.parse().ok()?,
    };
    let destination = String::from_utf8(destination).ok()?.into();
    Some(Listed {
        seq: Cursor(number(&seq)?),
        key: FileKey { destination, source: String::from_utf8(source).ok()?.into(), path, fingerprint },
        local_path: OsString::from_vec(local_path).into(),
        remote: remote_of(&remote)?,
        record: if at.is_empty() { None } else { Some(record_of(&stands, &sha256, &at)?) },
        gone: tokens(&gone)?,
        is_failed: state == b"failed",
    })
}

fn info(fields: [Vec<u8>; 19]) -> Option<EntryInfo> {
    let [seq, destination, source, path, version, local_path, remote, stands, sha256, at, more @ ..] = fields;
    let [token, state, attempts, reason, queued, since, disposer, owner, holder] = more;
    let Listed { key, local_path, remote, record, .. } = listed([
        seq,
        destination,
        source,
        path,
        version,
        local_path,
        remote,
        stands,
        sha256,
        at,
        vec![],
        state.clone(),
    ])?;
    let since = number(&since).and_then(DateTime::from_timestamp_micros);
    let state = match (holder.is_empty(), &record) {
        (false, _) => EntryState::Held { holder: holder_of(&owner, &holder)?, since },
        // Also where a forced repetition was cut short.
        (true, Some(_)) => EntryState::Recorded,
        (true, None) if state == b"failed" => EntryState::Failed {
            reason: String::from_utf8_lossy(&reason).into_owned(),
            attempts: number(&attempts)?,
            since,
        },
        (true, None) => EntryState::Waiting { since },
    };
    Some(EntryInfo {
        key,
        local_path,
        remote,
        token: Token(number(&token)?),
        state,
        queued_at: number(&queued).and_then(DateTime::from_timestamp_micros),
        record,
        disposal: if disposer.is_empty() { Disposal::Settled } else { Disposal::Pending },
    })
}

/// What is left of the lease in milliseconds, host name, process id.
fn holder_of(owner: &[u8], holder: &[u8]) -> Option<Holder> {
    let text = std::str::from_utf8(holder).ok()?;
    let (left, who) = text.split_once(' ')?;
    let (hostname, pid) = who.rsplit_once(' ')?;
    Some(Holder {
        owner: owner_of(owner)?,
        hostname: hostname.to_owned(),
        pid: pid.parse().ok()?,
        lease_left: Duration::from_millis(left.parse().ok()?),
    })
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn owner_of(text: &[u8]) -> Option<OwnerId> {
    u128::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok().map(OwnerId)
}

fn remote_of(text: &[u8]) -> Option<RemotePath> {
    std::str::from_utf8(text).ok().map(RemotePath::new)
}

fn record_of(remote: &[u8], sha256: &[u8], at: &[u8]) -> Option<Record> {
    let mut digest = [0; 32];
    if sha256.len() != 64 {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(sha256.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(Record {
        remote: remote_of(remote)?,
        sha256: Sha256Digest(digest),
        recorded_at: DateTime::from_timestamp_micros(number(at)?)?,
    })
}

fn list(tokens: impl IntoIterator<Item = Token>) -> Vec<u8> {
    text(tokens.into_iter().map(|token| token.to_string()).collect::<Vec<_>>().join(","))
}

fn tokens(list: &[u8]) -> Option<Vec<Token>> {
    if list.is_empty() {
        return Some(vec![]);
    }
    list.split(|byte| *byte == b',').map(|token| number(token).map(Token)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_a_source_is_what_is_before_its_path() {
        for (local_path, below, root) in [
            ("/srv/reports/a/b.csv", "a/b.csv", "/srv/reports"),
            // Without a name, the path is the absolute one.
            ("/srv/reports/a/b.csv", "/srv/reports/a/b.csv", "/srv"),
            ("/b.csv", "/b.csv", "/b.csv"),
            ("/srv/x", "y", "/srv"),
        ] {
            assert_eq!(root_of(Path::new(local_path), below.as_bytes()), Path::new(root), "{local_path} {below}");
        }
    }
}
