//! Moves finished files to an SFTP server, into dated folders, exactly once, and says what became of each.
//!
//! ```text
//! source ──▶ readiness ──▶ ledger ──▶ destination ──────────────────▶ ledger ──▶ dispose
//! discover   ready         claim      stage · verify · commit         record     keep, delete or move
//! ```
//!
//! # Layout
//!
//! - [`domain`]: the words as types and pure rules, no I/O
//! - [`config`]: settings in stages (typed in, merged, resolved); [`cli`]: what can be typed in
//! - [`source`], [`selection`], [`readiness`]: where candidates come from, which count, when they are finished
//! - [`localfs`]: the low layer below sources and disposal that never leaves a source
//! - [`ledger`]: who may move which file, and what was moved
//! - [`destination`]: SFTP sessions, and the way of the bytes to their final name
//! - [`dispose`]: what then happens to the local file
//! - [`pipeline`]: the workers; `pipeline::transfer` reads top to bottom as the safety argument
//! - [`report`]: progress, logs and the summary; [`monitor`]: metrics, health and the live state, over HTTP
//! - [`embedded`]: an SFTP server of our own, for the demo and for development; [`demo`]
//! - [`check`]: would it work? every step of an upload, tried one by one
//! - [`inspect`]: what the ledger knows, and whether the archive is what it says
//! - [`failpoint`]: where tests let the program die
//! - [`app`]: one function a command; [`exit`]: the exit codes; [`signals`], [`shutdown`]: when to stop;
//!   [`command`]: the process that `run` accompanies
//!
//! Imports go one way: `main → app → pipeline → components → domain`; components do not import each other.

pub mod app;
pub mod check;
pub mod cli;
pub mod command;
pub mod config;
pub mod demo;
pub mod destination;
pub mod dispose;
pub mod domain;
pub mod embedded;
pub mod exit;
pub mod failpoint;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod inspect;
pub mod ledger;
pub mod localfs;
pub mod monitor;
pub mod pipeline;
pub mod readiness;
pub mod report;
pub mod selection;
pub mod shutdown;
pub mod signals;
pub mod source;
