//! Requests and replies about bytes that are archived once.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use redis::Value;

use super::LISTING_PAGE;
use super::call::{Calls, digest_of, key_of, owner_of, read, remote_of, strange};
use super::keys::Hex;
use super::link::Request;
use super::scripts::Script;
use super::words::Words;
use crate::domain::{Repeat, Sha256Digest};
use crate::ledger::{Claim, ClaimRequest, Cursor, LedgerError, Left, Reservation};

impl Calls {
    pub(super) fn contents(&self, after: Cursor) -> Request {
        let arguments = Words::shown(&[&self.keys.entry_start(), &after.0, &LISTING_PAGE]);
        Request { script: Script::Contents, keys: Words::shown(&[&self.keys.all()]), arguments }
    }

    /// The number of the last entry that was looked at, and how many there were.
    pub(super) fn indexed(&self, location: &str, reply: Value) -> Result<(Cursor, usize), LedgerError> {
        let (last, looked_at): (i64, usize) = read(location, reply)?;
        Ok((Cursor(last), looked_at))
    }

    pub(super) fn reserve(&self, claim: &Claim, sha256: &Sha256Digest) -> Request {
        let id = claim.key.id();
        let inherits = u8::from(!claim.predecessors.is_empty());
        let arguments = Words::shown(&[&Hex(id), &claim.token, sha256, &self.keys.entry_start(), &inherits]);
        let keys = Words::shown(&[&self.keys.entry(id), &self.keys.content(&claim.key.destination)]);
        Request { script: Script::Reserve, keys, arguments }
    }

    pub(super) fn content(&self, claim: &Claim) -> Request {
        let keys = Words::shown(&[&self.keys.entry(claim.key.id())]);
        Request { script: Script::Content, keys, arguments: Words::default() }
    }

    pub(super) fn content_was(&self, location: &str, reply: Value) -> Result<Option<Sha256Digest>, LedgerError> {
        match read::<Vec<u8>>(location, reply)? {
            none if none.is_empty() => Ok(None),
            sha256 => digest_of(&sha256).map(Some).ok_or_else(|| strange(location)),
        }
    }

    /// `None` where records cannot be found by their bytes.
    pub(super) fn reserved(&self, location: &str, reply: Value) -> Result<Option<Reservation>, LedgerError> {
        let fields: Vec<Vec<u8>> = read(location, reply)?;
        let fields: Vec<_> = fields.iter().map(Vec::as_slice).collect();
        let reservation = match fields[..] {
            [b"unindexed"] => return Ok(None),
            [b"lost"] => return Err(LedgerError::LeaseLost),
            [b"ours"] => Some(Reservation::Ours),
            [b"stands", remote] => remote_of(remote).map(Reservation::Stands),
            [b"held", owner] => owner_of(owner).map(Reservation::InHand),
            [b"left", destination, source, path, version, local_path, remote, state, reason] => (|| {
                let request = ClaimRequest {
                    key: key_of(destination, source, path, version)?,
                    local_path: OsString::from_vec(local_path.to_vec()).into(),
                    remote: remote_of(remote)?,
                    repeat: Repeat::Skip,
                };
                let failed = (state == b"failed").then(|| String::from_utf8_lossy(reason).into_owned());
                Some(Reservation::Left(Box::new(Left { request, failed })))
            })(),
            _ => None,
        };
        reservation.map(Some).ok_or_else(|| strange(location))
    }
}
