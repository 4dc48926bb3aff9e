//! Where the database may stand: on a local filesystem, in a file that is ours or not there yet. Everything here only
//! looks.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::{system, unusable};
use super::schema;
use crate::domain::display;
use crate::ledger::LedgerError;

/// Refuses a place where the database could not be shared safely, and a file that is not ours. Touches nothing. No
/// other thread may be opening the same database.
pub(super) fn inspect(path: &Path) -> Result<Presence, LedgerError> {
    refuse_network_filesystem(path)?;
    refuse_strangers(path)?;
    let length = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => {
            return Err(unusable(path, "it is no regular file; name a file, such as ledger.db in that directory"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Presence::Missing),
        Err(error) => return Err(system(path, "looking for it", &error)),
    };
    // A journal left by a crash while the database was being made: only SQLite can tell what the file will be.
    if length == 0 || fs::metadata(suffixed(path, "-journal")).is_ok_and(|journal| journal.len() > 0) {
        return Ok(Presence::Exists);
    }
    match log(path) {
        Presence::Missing => inspect_header(path)?,
        Presence::Exists => {
            schema::refuse_foreign_connection(path, &schema::connect_read_only(path, Presence::Exists)?)?;
        }
    }
    Ok(Presence::Exists)
}

/// Refuses a ledger, a link to one, or a directory of locks that another user made: who writes the ledger decides what
/// counts as archived, and so what is deleted.
fn refuse_strangers(path: &Path) -> Result<(), LedgerError> {
    let trusted = [0, rustix::process::geteuid().as_raw()];
    for own in [path.to_owned(), suffixed(path, "-wal"), suffixed(path, ".owners")] {
        // The link itself and what it leads to.
        for found in [fs::symlink_metadata(&own), fs::metadata(&own)].into_iter().flatten() {
            if !trusted.contains(&found.uid()) {
                return Err(unusable(
                    path,
                    format!(
                        "{} belongs to another user (number {}), who could decide what counts as archived; \
                         name another file with --ledger, or give it to this user with chown",
                        display::path(&own),
                        found.uid()
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Says so where others may put another ledger in place of this one. Not refused: the volumes of a pod are made like that.
pub(super) fn warn_of_open_directory(path: &Path) {
    let Some(parent) = path.parent() else { return };
    let open = |found: &fs::Metadata| found.mode() & 0o002 != 0 && found.mode() & 0o1000 == 0;
    if fs::metadata(parent).is_ok_and(|found| open(&found)) {
        tracing::warn!(
            "everybody may write to {}, and so decide what counts as archived: put the ledger into a directory of its own below it",
            display::path(parent)
        );
    }
}

/// Whether there is a write-ahead log: that is so while anybody, this process included, has the database open.
pub(super) fn log(path: &Path) -> Presence {
    if suffixed(path, "-wal").exists() { Presence::Exists } else { Presence::Missing }
}

/// Reads the file itself, because SQLite would make the log's files to look into it. Only while nobody in this process
/// has it open, for closing a file drops all POSIX locks that the process has on it
/// (<https://www.sqlite.org/howtocorrupt.html>, section 2.2).
fn inspect_header(path: &Path) -> Result<(), LedgerError> {
    let mut header = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(100).read_to_end(&mut header))
        .map_err(|error| system(path, "reading it", &error))?;
    if header.len() < 100 || !header.starts_with(b"SQLite format 3\0") {
        return Err(unusable(path, "it is no SQLite database; nothing was changed; name another file with --ledger"));
    }
    // Offsets: <https://www.sqlite.org/fileformat2.html#the_database_header>.
    let field = |at: usize| i32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    schema::refuse_foreign(path, field(68), field(60))
}

/// Whether a file stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Missing,
    Exists,
}

/// `path` with `suffix` appended to its last component.
pub(super) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn refuse_network_filesystem(path: &Path) -> Result<(), LedgerError> {
    let Some(standing) = path.ancestors().find(|ancestor| ancestor.exists()) else {
        return Ok(());
    };
    let magic =
        rustix::fs::statfs(standing).map_err(|error| system(path, "asking for its filesystem", &error.into()))?;
    #[allow(clippy::unnecessary_cast, reason = "the type of f_type differs between architectures")]
    let magic = magic.f_type as u32;
    let kind = if magic == FUSE { mount_type(standing) } else { None };
    match network_filesystem(magic, kind.as_deref()) {
        Some(name) => Err(unusable(
            path,
            format!(
                "{} is on a network filesystem ({name}), where an SQLite database cannot be shared safely; \
                 name a file on a local disk with --ledger, or use a shared (Redis) ledger for several hosts",
                display::path(standing)
            ),
        )),
        None => Ok(()),
    }
}

/// `FUSE_SUPER_MAGIC`.
const FUSE: u32 = 0x6573_5546;

/// The name of a filesystem that other hosts may mount at the same time, by `statfs(2)`'s `f_type` and, for FUSE, the
/// mount's type. SQLite's write-ahead log needs memory shared by all processes (<https://www.sqlite.org/wal.html>,
/// "Disadvantages", 2). Numbers: `linux/magic.h` and `statfs(2)`; GPFS, Lustre and GFS2 from their own headers, as
/// listed by coreutils' `stat.c`.
fn network_filesystem(magic: u32, fuse_type: Option<&str>) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517b => "SMB",
        0xff53_4d42 => "CIFS",
        0xfe53_4d42 => "SMB2",
        0x0102_1997 => "9p",
        0x7375_7245 => "Coda",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x00c3_6400 => "Ceph",
        0x564c => "NCP",
        0x0bd0_0bd0 => "Lustre",
        0x4750_4653 => "GPFS",
        0x7461_636f => "OCFS2",
        0x0116_1970 => "GFS2",
        0x786f_4256 => "VirtualBox shared folder",
        FUSE => {
            // FUSE also carries local filesystems (fuse-overlayfs, ntfs-3g, virtiofs), so only known remote ones count.
            const REMOTE: [&str; 18] = [
                "sshfs",
                "rclone",
                "s3fs",
                "gcsfuse",
                "goofys",
                "mountpoint-s3",
                "s3ql",
                "glusterfs",
                "ceph",
                "ceph-fuse",
                "juicefs",
                "davfs",
                "davfs2",
                "curlftpfs",
                "smbnetfs",
                "moosefs",
                "mfs",
                "blobfuse2",
            ];
            let name = fuse_type?.strip_prefix("fuse.")?;
            return REMOTE.into_iter().find(|remote| *remote == name);
        }
        _ => return None,
    })
}

/// The type of the mount that holds `path`, from `/proc/self/mountinfo` (`proc(5)`: field 3 is the device, the type
/// follows a lone `-`).
fn mount_type(path: &Path) -> Option<String> {
    let device = fs::metadata(path).ok()?.dev();
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        (mount.split(' ').nth(2)? == device).then(|| filesystem.split(' ').next().unwrap_or_default().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_filesystems_are_known_by_their_numbers() {
        assert_eq!(network_filesystem(0x6969, None), Some("NFS"));
        assert_eq!(network_filesystem(0xff53_4d42, None), Some("CIFS"));
        assert_eq!(network_filesystem(0x0102_1997, None), Some("9p"));
        assert_eq!(network_filesystem(FUSE, Some("fuse.sshfs")), Some("sshfs"));
        for local in [Some("fuse.fuse-overlayfs"), Some("fuseblk"), Some("virtiofs"), None] {
            assert_eq!(network_filesystem(FUSE, local), None);
        }
        // ext4, XFS, Btrfs, overlayfs, tmpfs.
        for local in [0xef53, 0x5846_5342, 0x9123_683e, 0x794c_7630, 0x0102_1994] {
            assert_eq!(network_filesystem(local, None), None);
        }
    }

    #[test]
    fn the_mount_of_a_path_is_found() {
        assert_eq!(mount_type(Path::new("/proc")).as_deref(), Some("proc"));
    }
}
