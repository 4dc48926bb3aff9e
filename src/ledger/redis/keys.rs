//! The names of the keys. All of one ledger have the same hash tag, so that a cluster keeps them on one node, where a
//! script can see them all.

use crate::domain::{FileKey, KeyId};

#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// `{prefix}:`
    start: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { start: format!("{{{prefix}}}:") }
    }

    pub(super) fn ledger(&self) -> String {
        format!("{}ledger", self.start)
    }

    pub(super) fn owners(&self) -> String {
        format!("{}owners", self.start)
    }

    pub(super) fn peers(&self) -> String {
        format!("{}peers", self.start)
    }

    pub(super) fn all(&self) -> String {
        format!("{}entries", self.start)
    }

    pub(super) fn failed(&self) -> String {
        format!("{}failed", self.start)
    }

    pub(super) fn recorded(&self) -> String {
        format!("{}recorded", self.start)
    }

    pub(super) fn staged(&self, destination: &str) -> String {
        format!("{}staged:{destination}", self.start)
    }

    pub(super) fn disposing(&self, destination: &str) -> String {
        format!("{}disposing:{destination}", self.start)
    }

    /// What the keys of entries begin with.
    pub(super) fn entry_start(&self) -> String {
        format!("{}entry:", self.start)
    }

    pub(super) fn entry(&self, key: &FileKey) -> String {
        self.entry_of(&hex(key.id()))
    }

    pub(super) fn entry_of(&self, id: &str) -> String {
        format!("{}entry:{id}", self.start)
    }
}

/// All of the id; its `Display` is a part of it.
pub(super) fn hex(id: KeyId) -> String {
    format!("{:032x}", u128::from_be_bytes(id.0))
}

pub(super) fn unhex(text: &[u8]) -> Option<KeyId> {
    u128::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok().map(|id| KeyId(id.to_be_bytes()))
}
