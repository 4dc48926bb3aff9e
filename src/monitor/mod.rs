//! What a running archiver tells those who look after it.

pub mod history;
