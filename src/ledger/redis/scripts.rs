//! The Lua scripts, each one check followed by one change, run by the server as a whole. They are loaded at each
//! connection and called by their SHA-1.

use std::fmt::Write;
use std::sync::LazyLock;

use sha1::{Digest, Sha1};

macro_rules! scripts {
    ($($name:ident, $file:literal, $effect:ident;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Script { $($name,)* }

        static LOADED: LazyLock<Vec<Loaded>> = LazyLock::new(|| {
            vec![$(Loaded::new(include_str!(concat!("scripts/", $file, ".lua")), Effect::$effect),)*]
        });
    };
}

scripts! {
    Join, "join", Joins;
    Renew, "renew", Changes;
    Leave, "leave", Changes;
    Peers, "peers", Changes;
    Claim, "claim", Changes;
    Confirm, "confirm", Changes;
    Reissue, "reissue", Changes;
    Contents, "contents", Changes;
    Reserve, "reserve", Changes;
    Record, "record", Changes;
    Release, "release", Changes;
    Disposing, "disposing", Changes;
    Disposed, "disposed", Changes;
    Postponed, "postponed", Changes;
    Forget, "forget", Changes;
    Retry, "retry", Changes;
    Retries, "retries", Reads;
    Import, "import", Changes;
    View, "view", Reads;
    Outline, "outline", Reads;
    Look, "look", Reads;
    Content, "content", Reads;
    Page, "page", Reads;
    Rivals, "rivals", Reads;
    Expired, "expired", Reads;
}

/// What a script does to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Reads,
    Changes,
    /// Makes it where there is none.
    Joins,
}

struct Loaded {
    source: String,
    sha1: String,
    effect: Effect,
}

impl Loaded {
    fn new(body: &str, effect: Effect) -> Self {
        let guard = if effect == Effect::Changes { include_str!("scripts/guard.lua") } else { "" };
        let source = [&prelude(), guard, body].concat();
        let sha1 = Sha1::digest(&source).iter().fold(String::with_capacity(40), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        Self { source, sha1, effect }
    }
}

fn prelude() -> String {
    let prelude = include_str!("scripts/prelude.lua");
    // Unit tests have a clock of their own, which stands still until they move it.
    #[cfg(test)]
    let prelude = {
        let (real, still) =
            ("redis.call('TIME')", "{0, redis.call('GET', (string.gsub(ledger, 'ledger$', 'clock'))) * 1000}");
        assert!(prelude.contains(real));
        prelude.replace(real, still)
    };
    prelude.to_owned()
}

impl Script {
    pub(super) fn all_sources() -> impl Iterator<Item = &'static str> {
        LOADED.iter().map(|script| script.source.as_str())
    }

    pub(super) fn sha1(self) -> &'static str {
        &self.loaded().sha1
    }

    pub(super) fn effect(self) -> Effect {
        self.loaded().effect
    }

    /// Of a script that does many calls in one go: how many of a call's own keys are the same in all calls of a ledger,
    /// and come once, in front of those of each call. It gives a list with one reply for each.
    pub(super) fn shared_keys(self) -> Option<usize> {
        match self {
            Self::Confirm | Self::Disposed => Some(0),
            Self::Record => Some(1),
            _ => None,
        }
    }

    fn loaded(self) -> &'static Loaded {
        &LOADED[self as usize]
    }
}
