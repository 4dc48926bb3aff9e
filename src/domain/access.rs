//! Who may reach a file, for messages about files that cannot be reached.

use std::fmt;

/// A user and a group, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
}

/// What stands in the way: whose a file is and what it allows, beside who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    pub owner: Identity,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    pub process: Identity,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, mode, process } = self;
        write!(
            f,
            "it belongs to user {}, group {}, with mode {mode:04o}, and this process is user {}, group {}",
            owner.uid, owner.gid, process.uid, process.gid
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_are_named() {
        let (owner, process) = (Identity { uid: 0, gid: 0 }, Identity { uid: 10001, gid: 65534 });
        insta::assert_snapshot!(
            Access { owner, mode: 0o755, process },
            @"it belongs to user 0, group 0, with mode 0755, and this process is user 10001, group 65534"
        );
    }
}
