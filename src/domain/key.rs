//! What the ledger files an entry under, and the short forms of it that reach the server.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::Fingerprint;

/// One version of one file of one source, bound for one destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// The destination's canonical URL ([`super::DestinationUrl`]'s `Display`).
    pub destination: Arc<str>,
    /// The source's name; empty for paths given on a command line.
    pub source: Arc<str>,
    /// Raw bytes: the path below the source, or the absolute path where the source has no name.
    pub path: Vec<u8>,
    pub fingerprint: Fingerprint,
}

impl FileKey {
    /// The first 128 bits of the SHA-256 of all fields, each preceded by its length.
    pub fn id(&self) -> KeyId {
        let mut hash = Sha256::new();
        for part in [self.destination.as_bytes(), self.source.as_bytes(), &self.path] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.update(self.fingerprint.inode.to_be_bytes());
        hash.update(self.fingerprint.size.to_be_bytes());
        hash.update(self.fingerprint.mtime_ns.to_be_bytes());
        let digest = hash.finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        KeyId(id)
    }

    /// Whether its path is that of another file with the id of that file's key behind it: the name that a file gets which was
    /// to be disposed of and whose own name is taken by then.
    pub fn is_beside(&self) -> bool {
        const DIGITS: usize = 12;
        let Some(end) = self.path.len().checked_sub(DIGITS + 1) else { return false };
        let (path, suffix) = self.path.split_at(end);
        suffix[0] == b'.'
            && suffix[1..].iter().all(u8::is_ascii_hexdigit)
            && Self { path: path.to_vec(), ..self.clone() }.id().to_string().as_bytes() == &suffix[1..]
    }
}

/// A [`FileKey`] in 128 bits. `Display` gives the 12 hexadecimal digits that appear in temporary names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 16]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A fencing token: it grows with every claim of a ledger, so of two owners of one key the later has the larger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One running archiver: 128 random bits, new for every process. Also names a run's rows in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnerId(pub u128);

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
