//! What can go wrong with a destination, classified once, by consequence.

use std::time::Duration;

/// What an error means for the work around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// This file will not go through as it is: permission, name too long, not supported.
    File,
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
}

pub use russh_sftp::protocol::StatusCode;

impl DestinationError {
    pub fn new(consequence: Consequence, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { consequence, what: what.into(), why: why.into(), hint: None, status: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn timeout(what: impl Into<String>, after: Duration) -> Self {
        Self::new(Consequence::Session, what, format!("no answer within {}", humantime::format_duration(after)))
    }

    pub fn is_status(&self, code: StatusCode) -> bool {
        self.status == Some(code)
    }
}
