//! File attributes: `stat(2)` as the ATTRS of SFTP version 3, and back.

use std::os::fd::{AsFd, AsRawFd};

use russh_sftp::protocol::{File, FileAttributes};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, chmodat, chownat, ftruncate, utimensat,
};
use rustix::io::Result;

/// Version 3 counts seconds in 32 bits: times outside of 1970 to 2106 become the nearest one inside.
fn seconds(time: i64) -> u32 {
    time.clamp(0, u32::MAX.into()) as u32
}

pub(super) fn of(stat: &Stat) -> FileAttributes {
    FileAttributes {
        size: Some(stat.st_size as u64),
        uid: Some(stat.st_uid),
        gid: Some(stat.st_gid),
        permissions: Some(stat.st_mode),
        atime: Some(seconds(stat.st_atime)),
        mtime: Some(seconds(stat.st_mtime)),
        user: None,
        group: None,
    }
}

/// One entry of a listing, with the line that `ls -l` shows.
pub(super) fn entry(name: String, stat: &Stat) -> File {
    let mut file = File::new(name, of(stat));
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        // The crate knows directories and all the rest.
        file.longname.replace_range(..1, "l");
    }
    file
}

/// The permission bits of an OPEN or MKDIR, or what a shell would ask for.
pub(super) fn creation_mode(attributes: &FileAttributes, default: u32) -> Mode {
    Mode::from_raw_mode(attributes.permissions.unwrap_or(default) & 0o7777)
}

/// Sets what is given: size, mode, times, owner, in OpenSSH's order; the first failure ends it. `file` needs to be
/// writable where the size is given; for all else a handle for looking (`O_PATH`) is enough.
pub(super) fn apply(file: impl AsFd, attributes: &FileAttributes) -> Result<()> {
    if let Some(size) = attributes.size {
        ftruncate(&file, size)?;
    }
    // By way of /proc because fchmod(2) and its kin take no O_PATH handle, and opening for reading would need a right
    // that setting attributes does not.
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    if let Some(mode) = attributes.permissions {
        chmodat(CWD, &path, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?;
    }
    if let (Some(atime), Some(mtime)) = (attributes.atime, attributes.mtime) {
        let time = |seconds: u32| Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
        let times = Timestamps { last_access: time(atime), last_modification: time(mtime) };
        utimensat(CWD, &path, &times, AtFlags::empty())?;
    }
    if let (Some(uid), Some(gid)) = (attributes.uid, attributes.gid) {
        chownat(CWD, &path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::empty())?;
    }
    Ok(())
}
