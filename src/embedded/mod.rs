//! A real SSH and SFTP server of our own, serving one directory: for `archiver demo`, for `archiver serve`, and for
//! the faults that OpenSSH cannot be made to show.
//!
//! ```text
//! server ──▶ ssh ─────────────▶ session ─────────────▶ disk ───▶ confined
//! accepts    who may log in     frames, in order,      requests  paths that cannot
//! and stops  sftp, nothing else faults on purpose      to calls  leave the root
//! ```
//!
//! The transport is `russh`; the packets are `russh_sftp::protocol`. The loop over the packets is ours rather than
//! `russh_sftp::server::run`: that one can neither withhold a reply nor cut a connection (which is what the faults are
//! for), and its task cannot be waited for.

mod attributes;
mod auth;
mod confined;
mod cut;
mod disk;
mod extended;
mod faults;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod host_key;
mod quirks;
mod quota;
pub mod serve;
mod server;
mod session;
mod ssh;
mod walk;

pub use auth::Authentication;
pub use faults::{Fault, Faults, Operation, Request};
pub use host_key::HostKey;
pub use quirks::{
    AnnouncedExtensions, HardlinkPolicy, Identification, Quirks, RenamePolicy, SetstatPolicy, UnknownQuirk,
};
pub use russh_sftp::protocol::StatusCode;
pub use server::{Server, ServerConfig, StartError};
