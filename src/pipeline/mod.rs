//! The workers. Components meet here and nowhere else.

mod attempt;
pub mod build;
mod content;
pub mod desk;
mod direct;
mod disposal;
pub mod engine;
pub mod intake;
pub mod janitor;
pub mod lease;
pub mod names;
mod outages;
mod peers;
mod place;
pub mod push;
pub mod read;
mod replace;
pub mod run;
mod scans;
pub mod shared;
mod taken_over;
#[cfg(test)]
mod testing;
pub mod transfer;
mod turns;
pub mod vitals;
pub mod watch;
mod workers;
