//! Requests and replies: the contract's words as the arguments of scripts, and back.

use std::ffi::OsString;
use std::fmt::Display;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use chrono::DateTime;
use redis::{FromRedisValue, Value};

use super::keys::{Hex, Keys, unhex};
use super::link::Request;
use super::scripts::Script;
use super::words::Words;
use super::{LISTING_PAGE, RETENTION_PAGE};
use crate::domain::{FileKey, Fingerprint, KeyId, OwnerId, RemotePath, Repeat, Sha256Digest, Token};
use crate::ledger::sqlite::is_gone;
use crate::ledger::{Claim, ClaimReply, ClaimRequest, Cursor, Intention, LedgerError, Record, Release, Staged};

/// Makes requests of one ledger and reads their replies.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) keys: Keys,
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

impl Calls {
    pub(super) fn new(prefix: &str) -> Self {
        Self { keys: Keys::new(prefix) }
    }

    pub(super) fn renew(&self) -> Request {
        Request { script: Script::Renew, keys: Words::default(), arguments: Words::default() }
    }

    pub(super) fn leave(&self) -> Request {
        let keys = Words::shown(&[&self.keys.peers()]);
        Request { script: Script::Leave, keys, arguments: Words::default() }
    }

    pub(super) fn peers(&self, scope: &str) -> Request {
        let keys = Words::shown(&[&self.keys.peers()]);
        Request { script: Script::Peers, keys, arguments: [scope].into() }
    }

    pub(super) fn found_peers(&self, location: &str, reply: Value) -> Result<Vec<OwnerId>, LedgerError> {
        let owners: Vec<Vec<u8>> = read(location, reply)?;
        owners.iter().map(|owner| owner_of(owner)).collect::<Option<_>>().ok_or_else(|| strange(location))
    }

    /// `numbers`: the id of each key, and the number of its call.
    pub(super) fn claim(&self, requests: &[ClaimRequest], numbers: &[(KeyId, u64)]) -> Request {
        let mut keys = Words::with_capacity(2 + 2 * requests.len(), 128 * requests.len());
        let mut arguments = Words::with_capacity(9 * requests.len(), 512 * requests.len());
        keys.show(self.keys.all());
        keys.show(self.keys.failed());
        for (ClaimRequest { key, local_path, remote, repeat }, (id, number)) in requests.iter().zip(numbers) {
            keys.show(self.keys.entry(*id));
            keys.show(self.keys.staged(&key.destination));
            arguments.show(Hex(*id));
            arguments.push(&*key.destination);
            arguments.push(&*key.source);
            arguments.push(&key.path);
            arguments.show(version(&key.fingerprint));
            arguments.push(local_path.as_os_str().as_bytes());
            arguments.push(remote.as_str());
            arguments.push(match repeat {
                Repeat::Skip => "skip",
                Repeat::Force => "force",
            });
            arguments.show(number);
        }
        Request { script: Script::Claim, keys, arguments }
    }

    /// The replies to these requests.
    pub(super) fn claimed(
        &self,
        location: &str,
        requests: Vec<ClaimRequest>,
        reply: Value,
    ) -> Result<Vec<ClaimReply>, LedgerError> {
        let replies: Vec<Vec<Vec<u8>>> = read(location, reply)?;
        if replies.len() != requests.len() {
            return Err(strange(location));
        }
        let replies = requests.into_iter().zip(replies).map(|(ClaimRequest { key, remote: asked, .. }, reply)| {
            let fields: Vec<_> = reply.iter().map(Vec::as_slice).collect();
            Some(match fields[..] {
                [b"held", owner] => ClaimReply::Held { owner: owner_of(owner)? },
                [b"recorded", remote, sha256, at] => ClaimReply::Recorded(record_of(remote, sha256, at)?),
                [b"new", token] => ClaimReply::Claimed(Claim {
                    key,
                    token: Token(number(token)?),
                    remote: asked,
                    predecessors: vec![],
                    attempts: 0,
                }),
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
        let keys = keys.iter().map(|key| self.keys.entry(key.id()).to_string()).collect();
        Request { script: Script::Look, keys, arguments: Words::default() }
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
        Request {
            script: Script::Confirm,
            keys: Words::shown(&[&self.keys.entry(claim.key.id())]),
            arguments: Words::shown(&[&claim.token]),
        }
    }

    pub(super) fn reissue(&self, claim: &Claim, number: u64) -> Request {
        let staged = claim.predecessors.iter().copied().chain([claim.token]);
        let arguments = Words::shown(&[&claim.token, &number, &list(staged)]);
        Request { script: Script::Reissue, keys: Words::shown(&[&self.keys.entry(claim.key.id())]), arguments }
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

    pub(super) fn record(
        &self,
        claim: &Claim,
        id: KeyId,
        number: u64,
        record: &Record,
        intention: Intention,
    ) -> Request {
        let destination = &claim.key.destination;
        let (staged, gone) = left(claim, Staged::Gone);
        let mut keys = Words::with_capacity(4, 256);
        keys.show(self.keys.recorded());
        keys.show(self.keys.entry(id));
        keys.show(self.keys.staged(destination));
        keys.show(self.keys.disposing(destination));
        let mut arguments = Words::with_capacity(9, 256);
        arguments.show(Hex(id));
        arguments.show(claim.token);
        arguments.show(number);
        arguments.push(record.remote.as_str());
        arguments.show(record.sha256);
        arguments.show(record.recorded_at.timestamp_micros());
        arguments.push(intended(intention));
        arguments.push(staged);
        arguments.push(gone);
        Request { script: Script::Record, keys, arguments }
    }

    pub(super) fn release(&self, claim: &Claim, id: KeyId, number: u64, release: &Release) -> Request {
        let destination = &claim.key.destination;
        let (how, staged, attempts, reason, intention) = match release {
            Release::Failed { reason, attempts, staged, intention } => {
                ("failed", *staged, *attempts, reason.as_str(), *intention)
            }
            Release::Unfinished { attempts, staged } => ("unfinished", *staged, *attempts, "", Intention::LeaveAlone),
            Release::Forget { staged } => ("forget", *staged, 0, "", Intention::LeaveAlone),
        };
        let (staged, gone) = left(claim, staged);
        Request {
            script: Script::Release,
            keys: Words::shown(&[
                &self.keys.entry(id),
                &self.keys.staged(destination),
                &self.keys.disposing(destination),
                &self.keys.all(),
                &self.keys.failed(),
            ]),
            arguments: Words::shown(&[
                &Hex(id),
                &claim.token,
                &number,
                &how,
                &attempts,
                &reason,
                &intended(intention),
                &staged,
                &gone,
            ]),
        }
    }

    pub(super) fn disposing(&self, key: &FileKey) -> Request {
        self.of_disposal(Script::Disposing, key)
    }

    pub(super) fn disposed(&self, key: &FileKey) -> Request {
        self.of_disposal(Script::Disposed, key)
    }

    pub(super) fn postponed(&self, key: &FileKey) -> Request {
        Request {
            script: Script::Postponed,
            keys: Words::shown(&[&self.keys.entry(key.id())]),
            arguments: Words::default(),
        }
    }

    fn of_disposal(&self, script: Script, key: &FileKey) -> Request {
        let id = key.id();
        let keys = Words::shown(&[&self.keys.entry(id), &self.keys.disposing(&key.destination)]);
        Request { script, keys, arguments: Words::shown(&[&Hex(id)]) }
    }

    pub(super) fn staged(&self, destination: &str, after: Cursor) -> Request {
        self.page(self.keys.staged(destination), after, "staged")
    }

    pub(super) fn undisposed(&self, destination: &str, after: Cursor) -> Request {
        self.page(self.keys.disposing(destination), after, "disposer")
    }

    fn page(&self, index: impl Display, after: Cursor, field: &str) -> Request {
        let arguments = Words::shown(&[&self.keys.entry_start(), &after.0, &LISTING_PAGE, &field]);
        Request { script: Script::Page, keys: Words::shown(&[&index]), arguments }
    }

    /// The position of the last entry that was looked at, how many there were, and those that nobody holds.
    pub(super) fn listed(&self, location: &str, reply: Value) -> Result<(Cursor, usize, Vec<Listed>), LedgerError> {
        let (last, looked_at, found): (i64, usize, Vec<[Vec<u8>; 12]>) = read(location, reply)?;
        let found = found.into_iter().map(listed).collect::<Option<_>>().ok_or_else(|| strange(location))?;
        Ok((Cursor(last), looked_at, found))
    }

    pub(super) fn rivals(&self, claim: &Claim, local_path: &Path, after: Cursor) -> Request {
        let mut arguments = Words::shown(&[
            &self.keys.entry_start(),
            &after.0,
            &LISTING_PAGE,
            &Hex(claim.key.id()),
            &claim.remote.as_str(),
        ]);
        arguments.push(local_path.as_os_str().as_bytes());
        let keys = Words::shown(&[&self.keys.staged(&claim.key.destination)]);
        Request { script: Script::Rivals, keys, arguments }
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
        let arguments = Words::shown(&[
            &self.keys.entry_start(),
            &retention.as_micros(),
            &from.unwrap_or_default(),
            &passed,
            &RETENTION_PAGE,
        ]);
        Request { script: Script::Expired, keys: Words::shown(&[&self.keys.recorded()]), arguments }
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
        let mut keys = Words::shown(&[&self.keys.recorded(), &self.keys.all()]);
        let mut arguments = Words::from([next]);
        for Expired { id, recorded_at, .. } in gone {
            keys.show(self.keys.entry_of(id));
            arguments.push(id);
            arguments.push(recorded_at);
        }
        Request { script: Script::Forget, keys, arguments }
    }

    pub(super) fn retry(&self, keys: &[FileKey]) -> Request {
        let (mut entries, mut ids) = (Words::shown(&[&self.keys.failed()]), Words::default());
        for id in keys.iter().map(FileKey::id) {
            entries.show(self.keys.entry(id));
            ids.show(Hex(id));
        }
        Request { script: Script::Retry, keys: entries, arguments: ids }
    }

    pub(super) fn retried(&self, location: &str, reply: Value) -> Result<Vec<bool>, LedgerError> {
        let put_back: Vec<i64> = read(location, reply)?;
        Ok(put_back.into_iter().map(|was_failed| was_failed == 1).collect())
    }

    pub(super) fn retries(&self) -> Request {
        Request { script: Script::Retries, keys: Words::default(), arguments: Words::default() }
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

pub(super) fn read<T: FromRedisValue>(location: &str, reply: Value) -> Result<T, LedgerError> {
    redis::from_redis_value(reply).map_err(|_| strange(location))
}

/// Something between us and the server may have mixed replies up: nothing is guessed.
pub(super) fn strange(location: &str) -> LedgerError {
    LedgerError::Unavailable { location: location.to_owned(), reason: "its reply cannot be read".into() }
}

pub(super) fn version(fingerprint: &Fingerprint) -> impl Display {
    let Fingerprint { inode, size, mtime_ns } = fingerprint;
    format!("{inode} {size} {mtime_ns}")
}

fn intended(intention: Intention) -> &'static str {
    match intention {
        Intention::Dispose => "dispose",
        Intention::LeaveAlone => "leave",
    }
}

/// The tokens that stay staged when a claim ends, and whether they are gone.
fn left(claim: &Claim, staged: Staged) -> (String, &'static str) {
    let predecessors = claim.predecessors.iter().copied();
    match staged {
        Staged::Nothing => (String::new(), ""),
        Staged::Gone => (list(predecessors), "gone"),
        Staged::Theirs => (list(predecessors), ""),
        Staged::Maybe => (list(predecessors.chain([claim.token])), ""),
    }
}

pub(super) fn listed(fields: [Vec<u8>; 12]) -> Option<Listed> {
    let [seq, destination, source, path, version, local_path, remote, stands, sha256, at, gone, state] = fields;
    Some(Listed {
        seq: Cursor(number(&seq)?),
        key: key_of(&destination, &source, &path, &version)?,
        local_path: OsString::from_vec(local_path).into(),
        remote: remote_of(&remote)?,
        record: if at.is_empty() { None } else { Some(record_of(&stands, &sha256, &at)?) },
        gone: tokens(&gone)?,
        is_failed: state == b"failed",
    })
}

pub(super) fn key_of(destination: &[u8], source: &[u8], path: &[u8], version: &[u8]) -> Option<FileKey> {
    let mut numbers = std::str::from_utf8(version).ok()?.split(' ');
    let fingerprint = Fingerprint {
        inode: numbers.next()?.parse().ok()?,
        size: numbers.next()?.parse().ok()?,
        mtime_ns: numbers.next()?.parse().ok()?,
    };
    let [destination, source] = [destination, source].map(std::str::from_utf8);
    Some(FileKey {
        destination: destination.ok()?.into(),
        source: source.ok()?.into(),
        path: path.to_vec(),
        fingerprint,
    })
}

pub(super) fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

pub(super) fn owner_of(text: &[u8]) -> Option<OwnerId> {
    u128::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok().map(OwnerId)
}

pub(super) fn remote_of(text: &[u8]) -> Option<RemotePath> {
    std::str::from_utf8(text).ok().map(RemotePath::new)
}

pub(super) fn digest_of(sha256: &[u8]) -> Option<Sha256Digest> {
    let mut digest = [0; 32];
    if sha256.len() != 64 {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(sha256.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(Sha256Digest(digest))
}

fn record_of(remote: &[u8], sha256: &[u8], at: &[u8]) -> Option<Record> {
    Some(Record {
        remote: remote_of(remote)?,
        sha256: digest_of(sha256)?,
        recorded_at: DateTime::from_timestamp_micros(number(at)?)?,
    })
}

pub(super) fn list(tokens: impl IntoIterator<Item = Token>) -> String {
    tokens.into_iter().map(|token| token.to_string()).collect::<Vec<_>>().join(",")
}

pub(super) fn tokens(list: &[u8]) -> Option<Vec<Token>> {
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
