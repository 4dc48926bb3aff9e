//! What people and programs get to see: progress and logs on standard error, the summary on standard output.
//!
//! The pipeline tells a [`Reporter`] what happens and knows nothing of how it is shown. Everything that reaches
//! standard error goes through one [`Console`], so that logs and progress never tear each other.

mod claimed;
pub mod console;
pub mod distribution;
pub mod error;
pub mod events;
pub mod human;
pub mod logging;
pub mod progress;
pub mod summary;
pub mod table;
pub mod termination;
pub mod vitals;

pub use claimed::{Claimed, LargeTransfer, Pending, Transfer};
pub use console::{Colour, Console};
pub use distribution::Distributed;
pub use events::{ClaimOutcome, Failed, Phase, Reporter, RetryClass, Snapshot};
pub use progress::Progress;
pub use summary::{RowSet, Summary, SummaryError, SummaryHeader, Surface};
pub use vitals::{DestinationVitals, Sessions, Vitals, WaitingFile, WaitingFiles};
