//! The names of the keys. All of one ledger have the same hash tag, so that a cluster keeps them on one node, where a
//! script can see them all.

use std::fmt::{self, Display};

use crate::domain::KeyId;

#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// `{prefix}:`
    start: String,
}

/// The ledger's start, the kind, and what is behind it.
struct Name<'a, D>(&'a str, &'static str, D);

impl<D: Display> Display for Name<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)?;
        f.write_str(self.1)?;
        self.2.fmt(f)
    }
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { start: format!("{{{prefix}}}:") }
    }

    pub(super) fn ledger(&self) -> impl Display {
        Name(&self.start, "ledger", "")
    }

    pub(super) fn owners(&self) -> impl Display {
        Name(&self.start, "owners", "")
    }

    pub(super) fn all(&self) -> impl Display {
        Name(&self.start, "entries", "")
    }

    pub(super) fn peers(&self) -> impl Display {
        Name(&self.start, "peers", "")
    }

    pub(super) fn failed(&self) -> impl Display {
        Name(&self.start, "failed", "")
    }

    pub(super) fn recorded(&self) -> impl Display {
        Name(&self.start, "recorded", "")
    }

    pub(super) fn staged(&self, destination: &str) -> impl Display {
        Name(&self.start, "staged:", destination)
    }

    pub(super) fn disposing(&self, destination: &str) -> impl Display {
        Name(&self.start, "disposing:", destination)
    }

    pub(super) fn content(&self, destination: &str) -> impl Display {
        Name(&self.start, "content:", destination)
    }

    /// What the keys of entries begin with.
    pub(super) fn entry_start(&self) -> impl Display {
        self.entry_of("")
    }

    pub(super) fn entry(&self, id: KeyId) -> impl Display {
        Name(&self.start, "entry:", Hex(id))
    }

    pub(super) fn entry_of(&self, id: &str) -> impl Display {
        Name(&self.start, "entry:", id)
    }
}

/// All of the id; its own `Display` is a part of it.
pub(super) struct Hex(pub(super) KeyId);

impl Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0.0))
    }
}

pub(super) fn unhex(text: &[u8]) -> Option<KeyId> {
    u128::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok().map(|id| KeyId(id.to_be_bytes()))
}
