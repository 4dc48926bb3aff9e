//! What a remote file keeps of its local one, as far as the server lets us.

use crate::destination::sftp::stage::Kept;

pub fn kept(mtime_secs: i64, mode: u32) -> Kept {
    Kept { mtime: mtime_v3(mtime_secs), mode: remote_mode(mode) }
}

/// SFTP version 3 has 32 bits for seconds: times before 1970 become 1970, times from 2106 on stay at the last second.
fn mtime_v3(seconds: i64) -> u32 {
    u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
}

/// Permission bits without set-ID and sticky bits, which mean something else to another machine's users, and with
/// read permission for the owner, without which nobody could verify the file.
fn remote_mode(mode: u32) -> u32 {
    mode & 0o777 | 0o400
}
