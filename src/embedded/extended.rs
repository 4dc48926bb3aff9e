//! The extended requests of OpenSSH that this server answers (OpenSSH's `PROTOCOL` file, section 4), and how they are
//! announced.

use std::collections::HashMap;

use russh_sftp::extensions::{LimitsExtension, Statvfs};

use super::quirks::{AnnouncedExtensions, Identification, Quirks};

/// Largest SFTP packet, in bytes without its length field; OpenSSH's `SFTP_MAX_MSG_LENGTH`.
pub(super) const MAX_PACKET_BYTES: u32 = 256 * 1024;
/// Largest READ and WRITE: what OpenSSH allows, the packet less 1 KiB for its other fields.
pub(super) const MAX_DATA_BYTES: u32 = MAX_PACKET_BYTES - 1024;
/// Handles one session may hold open at the same time.
pub(super) const MAX_HANDLES: usize = 256;

const POSIX_RENAME: &str = "posix-rename@openssh.com";
const HARDLINK: &str = "hardlink@openssh.com";
const FSYNC: &str = "fsync@openssh.com";
const STATVFS: &str = "statvfs@openssh.com";
const FSTATVFS: &str = "fstatvfs@openssh.com";
const LIMITS: &str = "limits@openssh.com";

/// One extended request, decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Call {
    PosixRename { old: String, new: String },
    Hardlink { old: String, new: String },
    Fsync { handle: String },
    Statvfs { path: String },
    Limits,
}

impl Call {
    /// `None` for a request that is unknown or malformed.
    pub(super) fn decode(name: &str, mut data: &[u8]) -> Option<Self> {
        let mut string = || take_string(&mut data);
        Some(match name {
            POSIX_RENAME => Self::PosixRename { old: string()?, new: string()? },
            HARDLINK => Self::Hardlink { old: string()?, new: string()? },
            FSYNC => Self::Fsync { handle: string()? },
            STATVFS => Self::Statvfs { path: string()? },
            LIMITS => Self::Limits,
            _ => return None,
        })
    }
}

/// An SSH `string` (RFC 4251, section 5) off the front of `data`; `None` where it is cut short or not UTF-8.
pub(super) fn take_string(data: &mut &[u8]) -> Option<String> {
    let (length, rest) = data.split_first_chunk::<4>()?;
    let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *data = rest;
    String::from_utf8(text.to_vec()).ok()
}

/// Name and version of each extension, for the VERSION packet.
pub(super) fn announced(quirks: &Quirks) -> HashMap<String, String> {
    let all = [(POSIX_RENAME, "1"), (STATVFS, "2"), (HARDLINK, "1"), (FSYNC, "1"), (LIMITS, "1")];
    // Clients know OpenSSH's own server by it. No request of that name is understood.
    let pretended = (quirks.identification == Identification::OpenSsh).then_some((FSTATVFS, "2"));
    all.into_iter()
        .chain(pretended)
        .filter(|(name, _)| match quirks.extensions {
            AnnouncedExtensions::All => true,
            AnnouncedExtensions::WithoutLimits => *name != LIMITS,
            AnnouncedExtensions::None => false,
        })
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect()
}

/// The body of the reply to `limits@openssh.com`.
pub(super) fn limits() -> LimitsExtension {
    LimitsExtension {
        max_packet_len: MAX_PACKET_BYTES.into(),
        max_read_len: MAX_DATA_BYTES.into(),
        max_write_len: MAX_DATA_BYTES.into(),
        max_open_handles: MAX_HANDLES as u64,
    }
}

/// The body of the reply to `statvfs@openssh.com`. `left` is what remains of a quota, in bytes.
pub(super) fn statvfs(found: &rustix::fs::StatVfs, left: Option<u64>) -> Statvfs {
    let cap = |blocks: u64| left.map_or(blocks, |left| blocks.min(left / found.f_frsize.max(1)));
    // The flags as OpenSSH defines them: SSH2_FXE_STATVFS_ST_RDONLY and SSH2_FXE_STATVFS_ST_NOSUID.
    let flag = |flag, bit| if found.f_flag.contains(flag) { bit } else { 0 };
    Statvfs {
        block_size: found.f_bsize,
        fragment_size: found.f_frsize,
        blocks: found.f_blocks,
        blocks_free: cap(found.f_bfree),
        blocks_avail: cap(found.f_bavail),
        inodes: found.f_files,
        inodes_free: found.f_ffree,
        inodes_avail: found.f_favail,
        fs_id: found.f_fsid,
        flags: flag(rustix::fs::StatVfsMountFlags::RDONLY, 1) | flag(rustix::fs::StatVfsMountFlags::NOSUID, 2),
        name_max: found.f_namemax,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_short_and_unknown_requests_are_no_calls() {
        let mut data = vec![0, 0, 0, 1, b'a', 0, 0, 0, 1, b'b'];
        assert_eq!(Call::decode(POSIX_RENAME, &data), Some(Call::PosixRename { old: "a".into(), new: "b".into() }));
        data.pop();
        assert_eq!(Call::decode(POSIX_RENAME, &data), None);
        assert_eq!(Call::decode(STATVFS, &[0xff, 0xff, 0xff, 0xff, b'a']), None);
        assert_eq!(Call::decode(STATVFS, &[0, 0, 0, 1, 0xff]), None, "not UTF-8");
        assert_eq!(Call::decode("space-available", &[]), None);
    }
}
