//! SFTP over SSH.
//!
//! - [`target`], `ssh_config`: from settings to a host; [`connect`]: from a host to a connection, step by step
//! - [`host_key`], `known_hosts`: is this the server we mean; `auth`, `identity`: who we are
//! - [`session`], [`features`]: what can be done there; `exchange`, `wire`: requests and replies as bytes
//! - [`pool`], [`ramp`], [`breaker`]: connections shared by all jobs, as many as gain something, and patience while the
//!   destination is out
//! - [`archive`]: one destination as the pipeline sees it, made of [`directories`], [`mod@stage`], [`mod@compare`],
//!   [`publish`], `aside`, [`direct`] and [`pace`]

pub mod archive;
mod aside;
mod auth;
pub mod breaker;
pub mod compare;
pub mod connect;
pub mod direct;
pub mod directories;
mod exchange;
pub mod features;
mod guard;
pub mod host_key;
mod identity;
pub(crate) mod known_hosts;
pub mod pace;
pub(crate) mod pattern;
pub mod pool;
pub mod publish;
pub mod ramp;
pub mod session;
pub(crate) mod ssh_config;
pub mod stage;
mod stream;
pub mod target;
pub(crate) mod wire;

#[cfg(test)]
mod oracle_tests;

pub use connect::{Connection, Connector};
pub use features::{Features, Links, RenameBehaviour, ReplyOrder};
pub use pool::{Load, OutagePolicy, Pool, PoolConfig, PoolState, Slot};
pub use session::{Attributes, DirectoryEntry, FreeSpace, Kind, OpenHow, RemoteFile, Session};
pub use target::Timeouts;
