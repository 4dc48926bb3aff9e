//! What can go wrong with a destination, classified once, by consequence.

use std::time::Duration;

use crate::domain::{display, name};

/// SSH_FX_NO_SPACE_ON_FILESYSTEM and SSH_FX_QUOTA_EXCEEDED (draft-ietf-secsh-filexfer-13, section 9.1).
const NO_SPACE: u32 = 14;
const QUOTA_EXCEEDED: u32 = 15;

/// What an error means for the work around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// This file will not go through as it is: permission, name too long, not supported.
    File,
    /// The user's own rules turn this file away: trying again changes nothing.
    Policy,
    /// This session is of no more use; the file is tried again on another.
    Session,
    /// The destination does not answer or has no room: hold all work and try again later.
    Outage,
    /// The destination refuses us (host key, authentication) or our settings are wrong: trying again changes nothing.
    Refusal,
}

/// An error with all that a message needs: what failed, on what, why, and what to do next.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}: {why}")]
pub struct DestinationError {
    pub consequence: Consequence,
    /// What was attempted, on what: `connecting to host:22`, `MKDIR /upload/2026`.
    pub what: String,
    /// The cause, never with a secret in it.
    pub why: String,
    /// What to do next.
    pub hint: Option<String>,
    /// The SFTP status code (draft-ietf-secsh-filexfer-02, section 7), where the server sent one.
    pub status: Option<StatusCode>,
    /// Whether the server only wants fewer connections or sessions at a time.
    pub pressure: Pressure,
}

/// Whether a server turned a connection away because it has too many, which says nothing against the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pressure {
    #[default]
    None,
    /// Closed in front of its identification (`MaxStartups`), or no channel (`MaxSessions`).
    Throttled,
}

pub use russh_sftp::protocol::StatusCode;

impl DestinationError {
    pub fn new(consequence: Consequence, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { consequence, what: what.into(), why: why.into(), hint: None, status: None, pressure: Pressure::None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn outage(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Consequence::Outage, what, why)
    }

    pub fn refusal(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Consequence::Refusal, what, why)
    }

    pub fn session(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Consequence::Session, what, why)
    }

    /// A connection that the server turned away for now.
    pub fn throttled(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { pressure: Pressure::Throttled, ..Self::outage(what, why) }
    }

    /// What an SFTP status other than OK means; the one place that decides it. `code` is the number on the wire:
    /// 0 to 8 are version 3 (draft-ietf-secsh-filexfer-02, section 7), higher ones come from servers that send codes
    /// of later drafts all the same. The server's own text goes into the message and decides nothing.
    pub fn from_status(what: impl Into<String>, code: u32, message: &str) -> Self {
        let (status, name) = match code {
            0 => (StatusCode::Ok, "unexpected success"),
            1 => (StatusCode::Eof, "end of file"),
            2 => (StatusCode::NoSuchFile, "no such file"),
            3 | 12 => (StatusCode::PermissionDenied, "permission denied"),
            5 => (StatusCode::BadMessage, "bad message"),
            6 => (StatusCode::NoConnection, "no connection"),
            7 => (StatusCode::ConnectionLost, "connection lost"),
            8 => (StatusCode::OpUnsupported, "operation unsupported"),
            NO_SPACE => (StatusCode::Failure, "no space left on the server"),
            QUOTA_EXCEEDED => (StatusCode::Failure, "the quota on the server is used up"),
            _ => (StatusCode::Failure, "failure"),
        };
        let consequence = match code {
            6 | 7 => Consequence::Session,
            NO_SPACE | QUOTA_EXCEEDED => Consequence::Outage,
            _ => Consequence::File,
        };
        let shown = message.trim();
        let why = match shown.is_empty() || shown.eq_ignore_ascii_case(name) {
            true => name.to_owned(),
            false => format!("{name} (the server says `{}`)", display::escaped(name::truncated(shown, 200))),
        };
        Self { status: Some(status), ..Self::new(consequence, what, why) }
    }

    pub fn timeout(what: impl Into<String>, after: Duration) -> Self {
        Self::new(Consequence::Session, what, format!("no answer within {}", humantime::format_duration(after)))
    }

    pub fn is_status(&self, code: StatusCode) -> bool {
        self.status == Some(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_one_consequence_each() {
        let consequence = |code| DestinationError::from_status("OPEN /a", code, "").consequence;
        for code in [1, 2, 3, 4, 5, 8, 9, 31, 4711] {
            assert_eq!(consequence(code), Consequence::File, "{code}");
        }
        for code in [6, 7] {
            assert_eq!(consequence(code), Consequence::Session, "{code}");
        }
        for code in [14, 15] {
            assert_eq!(consequence(code), Consequence::Outage, "{code}");
        }
    }

    #[test]
    fn a_servers_text_is_quoted_and_harmless() {
        let text = |message| DestinationError::from_status("OPEN /a", 3, message).to_string();
        assert_eq!(text(""), "OPEN /a: permission denied");
        assert_eq!(text("Permission denied"), "OPEN /a: permission denied");
        assert_eq!(text("no\x1b[2J"), "OPEN /a: permission denied (the server says `no\\x1b[2J`)");
        assert!(text(&"x".repeat(9999)).len() < 300);
    }
}
