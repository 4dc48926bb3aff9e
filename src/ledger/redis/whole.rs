//! Requests and replies about whole entries, for those who look and those who move a ledger.

use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use redis::Value;

use super::call::{Calls, Listed, list, listed, number, owner_of, read, strange, tokens, version};
use super::keys::Hex;
use super::link::Request;
use super::scripts::Script;
use super::words::Words;
use crate::domain::Token;
use crate::ledger::{
    Cursor, Disposal, EntryFilter, EntryInfo, EntryState, Holder, Imported, LedgerError, Life, Member, Outline,
    largest_token,
};

impl Calls {
    pub(super) fn view(&self, filter: EntryFilter, after: Cursor, limit: usize) -> Request {
        let index = match filter {
            EntryFilter::All => self.keys.all().to_string(),
            EntryFilter::Failed => self.keys.failed().to_string(),
        };
        let arguments = Words::shown(&[&self.keys.entry_start(), &after.0, &limit]);
        Request { script: Script::View, keys: [index].into(), arguments }
    }

    /// As [`Calls::listed`].
    pub(super) fn viewed(&self, location: &str, reply: Value) -> Result<(Cursor, usize, Vec<EntryInfo>), LedgerError> {
        let (last, looked_at, found): (i64, usize, Vec<[Vec<u8>; 21]>) = read(location, reply)?;
        let found = found.into_iter().map(info).collect::<Option<_>>().ok_or_else(|| strange(location))?;
        Ok((Cursor(last), looked_at, found))
    }

    pub(super) fn outline(&self) -> Request {
        Request { script: Script::Outline, keys: Words::default(), arguments: Words::default() }
    }

    pub(super) fn outlined(&self, location: &str, reply: Value) -> Result<Outline, LedgerError> {
        let (token, retries, members): (u64, u64, Vec<[Vec<u8>; 2]>) = read(location, reply)?;
        let members = members.into_iter().map(member_of).collect::<Option<_>>().ok_or_else(|| strange(location))?;
        Ok(Outline { last_token: Token(token), retries, members })
    }

    pub(super) fn import(&self, entries: &[EntryInfo], issued: Token) -> Request {
        let mut keys = Words::shown(&[&self.keys.all(), &self.keys.failed(), &self.keys.recorded()]);
        let mut arguments = Words::shown(&[&largest_token(entries, issued)]);
        for entry in entries {
            let EntryInfo { key, record, .. } = entry;
            let id = key.id();
            keys.show(self.keys.entry(id));
            keys.show(self.keys.staged(&key.destination));
            keys.show(self.keys.disposing(&key.destination));
            let or_empty = Option::<String>::unwrap_or_default;
            let micros = |time: Option<DateTime<Utc>>| or_empty(time.map(|time| time.timestamp_micros().to_string()));
            let (state, reason, since) = entry.kept_as();
            arguments.show(Hex(id));
            arguments.push(&*key.destination);
            arguments.push(&*key.source);
            arguments.push(&key.path);
            arguments.show(version(&key.fingerprint));
            arguments.push(entry.local_path.as_os_str().as_bytes());
            arguments.push(entry.remote.as_str());
            arguments.show(entry.token);
            arguments.push(state);
            arguments.show(entry.attempts);
            arguments.push(reason.unwrap_or_default());
            arguments.push(micros(entry.queued_at));
            arguments.push(micros(since));
            arguments.push(or_empty(record.as_ref().map(|record| record.remote.to_string())));
            arguments.push(or_empty(record.as_ref().map(|record| record.sha256.to_string())));
            arguments.push(micros(record.as_ref().map(|record| record.recorded_at)));
            arguments.push(list(entry.staged.iter().copied()));
            arguments.push(or_empty(entry.gone_at.map(|time| time.timestamp_millis().to_string())));
            arguments.push(if entry.disposal == Disposal::Pending { "pending" } else { "settled" });
        }
        Request { script: Script::Import, keys, arguments }
    }

    pub(super) fn imported(&self, location: &str, reply: Value) -> Result<Vec<Imported>, LedgerError> {
        let replies: Vec<String> = read(location, reply)?;
        let imported = replies.iter().map(|reply| match reply.as_str() {
            "added" => Some(Imported::Added),
            "completed" => Some(Imported::Completed),
            "known" => Some(Imported::Known),
            "kept" => Some(Imported::Kept),
            _ => None,
        });
        imported.collect::<Option<_>>().ok_or_else(|| strange(location))
    }
}

fn info(fields: [Vec<u8>; 21]) -> Option<EntryInfo> {
    let [seq, destination, source, path, version, local_path, remote, stands, sha256, at, more @ ..] = fields;
    let [token, state, attempts, reason, queued, since, disposer, owner, holder, staged, gone] = more;
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
    let begun = number(&attempts)?;
    let state = match (holder.is_empty(), &record) {
        (false, _) => EntryState::Held { holder: holder_of(&owner, &holder)?, since },
        // Also where a forced repetition was cut short.
        (true, Some(_)) => EntryState::Recorded,
        (true, None) if state == b"failed" => {
            EntryState::Failed { reason: String::from_utf8_lossy(&reason).into_owned(), attempts: begun, since }
        }
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
        attempts: begun,
        staged: tokens(&staged)?,
        gone_at: number(&gone).and_then(DateTime::from_timestamp_millis),
    })
}

/// What is left of the lease in milliseconds, host name, process id.
fn who_of(text: &[u8]) -> Option<(i64, String, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (left, who) = text.split_once(' ')?;
    let (hostname, pid) = who.rsplit_once(' ')?;
    Some((left.parse().ok()?, hostname.to_owned(), pid.parse().ok()?))
}

fn holder_of(owner: &[u8], holder: &[u8]) -> Option<Holder> {
    let (left, hostname, pid) = who_of(holder)?;
    let lease_left = Duration::from_millis(left.try_into().ok()?);
    Some(Holder { owner: owner_of(owner)?, hostname, pid, lease_left })
}

fn member_of([owner, lease]: [Vec<u8>; 2]) -> Option<Member> {
    let (left, hostname, pid) = who_of(&lease)?;
    let time = Duration::from_millis(left.unsigned_abs());
    let life = if left > 0 { Life::Live { lease_left: time } } else { Life::Lapsed { for_so_long: time } };
    Some(Member { owner: owner_of(&owner)?, hostname, pid, life })
}
