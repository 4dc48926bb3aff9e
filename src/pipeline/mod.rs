//! The workers. Components meet here and nowhere else.

pub mod build;
pub mod desk;
pub mod engine;
pub mod intake;
pub mod janitor;
mod kept;
pub mod lease;
pub mod names;
mod outages;
mod place;
pub mod push;
pub mod read;
pub mod run;
mod scans;
pub mod transfer;
mod turns;
pub mod vitals;
pub mod watch;
mod workers;
