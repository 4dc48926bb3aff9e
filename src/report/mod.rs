//! What people and programs get to see: progress and logs on standard error, the summary on standard output.
//!
//! The pipeline tells a [`Reporter`] what happens and knows nothing of how it is shown. Everything that reaches
//! standard error goes through one [`Console`], so that logs and progress never tear each other.

pub mod console;
pub mod error;
pub mod events;
mod human;
pub mod logging;
pub mod progress;
pub mod summary;
pub mod termination;

pub use console::{Colour, Console};
pub use events::{Phase, Reporter, Snapshot, Transfer};
pub use progress::Progress;
pub use summary::{RowSet, Summary, SummaryError, SummaryHeader, Surface};
