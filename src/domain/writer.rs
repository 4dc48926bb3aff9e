//! Whether somebody is writing to a file, as far as the kernel will say.

/// What could be found out about open writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriterState {
    /// Nobody has it open for writing.
    None,
    /// Somebody has.
    Open,
    /// This system or filesystem does not tell; never an error.
    Unknown,
}
