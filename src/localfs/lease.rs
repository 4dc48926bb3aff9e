//! Whether anybody has a file open for writing.
//!
//! Linux grants a read lease (`fcntl(2)`, `F_SETLEASE` with `F_RDLCK`) on a file only where nobody has it open for
//! writing, so a refusal is the sure sign of a writer. The lease is given back at once: while it stands, the next
//! writer's `open` would wait (or fail with `EWOULDBLOCK` where it must not wait).

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use rustix::io::Errno;

use crate::domain::WriterState;

/// How far to look where the kernel grants no leases to this user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thoroughness {
    /// Ask for a lease only: two system calls.
    Lease,
    /// Then look through the open files of all processes that this user may see: thousands of system calls, so for
    /// files that changed lately only.
    LeaseThenProc,
}

/// `F_SETSIG` of Linux's `include/uapi/asm-generic/fcntl.h`, which the libc crate lacks.
const F_SETSIG: libc::c_int = 10;

/// How many open files of other processes are looked at before the search is given up.
const PROC_LIMIT: usize = 65_536;

/// Asks the kernel. `file` must be open for reading only.
pub fn writer_of(file: &File, thoroughness: Thoroughness) -> WriterState {
    match take_and_return_lease(file) {
        Ok(()) => WriterState::None,
        Err(Errno::AGAIN) => WriterState::Open,
        // Neither the file's owner nor CAP_LEASE.
        Err(Errno::ACCESS | Errno::PERM) if thoroughness == Thoroughness::LeaseThenProc => {
            search_proc(file, PROC_LIMIT)
        }
        // No leases on this filesystem, or not allowed.
        Err(_) => WriterState::Unknown,
    }
}

fn take_and_return_lease(file: &File) -> Result<(), Errno> {
    let fd = file.as_raw_fd();
    let fcntl = |command, argument: libc::c_int| {
        // SAFETY: these three commands take an integer and touch no memory of ours; `fd` is open as long as `file`
        // is borrowed.
        match unsafe { libc::fcntl(fd, command, argument) } {
            -1 => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
            _ => Ok(()),
        }
    };
    // Somebody who opens the file while the lease stands makes the kernel signal us. The default, SIGIO, would end
    // the process; SIGURG is ignored by default.
    fcntl(F_SETSIG, libc::SIGURG)?;
    fcntl(libc::F_SETLEASE, libc::F_RDLCK)?;
    fcntl(libc::F_SETLEASE, libc::F_UNLCK)
}

/// Looks for the inode among the open files of all processes that can be seen.
fn search_proc(file: &File, limit: usize) -> WriterState {
    let Ok(wanted) = file.metadata() else { return WriterState::Unknown };
    let Ok(processes) = std::fs::read_dir("/proc") else { return WriterState::Unknown };
    let mut complete = true;
    // In a container of its own, /proc shows nobody else; then that nobody was found proves nothing.
    let mut owner_seen = shows_the_whole_machine();
    let mut looked_at = 0;
    for process in processes.flatten() {
        if !process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        owner_seen |= process.metadata().is_ok_and(|found| found.uid() == wanted.uid());
        // Other users' processes cannot be seen into.
        let Ok(open_files) = std::fs::read_dir(process.path().join("fd")) else {
            complete = false;
            continue;
        };
        for open_file in open_files.flatten() {
            looked_at += 1;
            if looked_at > limit {
                return WriterState::Unknown;
            }
            let same = std::fs::metadata(open_file.path())
                .is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()));
            if same && opened_for_writing(&process.path().join("fdinfo").join(open_file.file_name())) {
                return WriterState::Open;
            }
        }
    }
    if complete && owner_seen { WriterState::None } else { WriterState::Unknown }
}

/// Whether this is the first PID namespace, which holds all others (`PROC_PID_INIT_INO` of Linux's
/// `include/linux/proc_ns.h`).
fn shows_the_whole_machine() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == "pid:[4026531836]")
}

/// Reads the `flags:` line of proc_pid_fdinfo(5), in octal.
fn opened_for_writing(fdinfo: &std::path::Path) -> bool {
    let Ok(text) = std::fs::read_to_string(fdinfo) else { return false };
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|octal| libc::c_int::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0);
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_writer_is_seen_and_its_end_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        // Some filesystems grant no leases; then the answer must be that nobody knows.
        let seen = writer_of(&reader, Thoroughness::Lease);
        assert!(matches!(seen, WriterState::Open | WriterState::Unknown), "{seen:?}");
        assert_eq!(search_proc(&reader, usize::MAX), WriterState::Open);
        assert_eq!(search_proc(&reader, 0), WriterState::Unknown);
        drop(writer);
        assert_ne!(writer_of(&reader, Thoroughness::Lease), WriterState::Open);
        assert_ne!(search_proc(&reader, usize::MAX), WriterState::Open);
    }

    #[test]
    fn a_writer_that_opens_meanwhile_neither_hangs_nor_ends_us() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "x").unwrap();
        let reader = File::open(&path).unwrap();
        let opener = std::thread::spawn(move || {
            for _ in 0..20_000 {
                drop(File::options().append(true).open(&path).unwrap());
            }
        });
        let mut answers = 0;
        while !opener.is_finished() {
            writer_of(&reader, Thoroughness::Lease);
            answers += 1;
        }
        opener.join().unwrap();
        assert!(answers > 0);
    }
}
