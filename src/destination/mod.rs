//! Where files go. SFTP is the one kind there is; a second kind would stand beside it.

pub mod error;
pub mod sftp;

pub use error::{Consequence, DestinationError};
