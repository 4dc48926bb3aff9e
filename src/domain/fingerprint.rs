//! The identity of one version of a local file.

/// Inode, size and modification time. The device number is left out on purpose: it differs between the hosts
/// that mount one shared volume, and a fingerprint has to mean the same to all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
}
