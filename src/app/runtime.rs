//! What the process takes of its machine: threads, and memory that it keeps. Chosen by measurement.

use std::io;
use std::num::NonZero;
use std::thread;

use rustix::process::{Resource, getrlimit};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Threads for local file work. More would cost memory and gain nothing; those that wait for something (the reader of a
/// large file, a walk, a list) are far fewer, so the others never wait for them.
const BLOCKING_THREADS: usize = 32;

/// Threads that serve sessions at most: each encrypts a gigabyte a second or more.
const SESSION_THREADS: usize = 4;

/// Half of the processors serve sessions; reading, hashing and the ledger have threads of their own. More threads than
/// that mostly wake each other.
pub fn start() -> io::Result<Runtime> {
    enough_open_files()?;
    keep_memory();
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads((processors / 2).clamp(1, SESSION_THREADS))
        .max_blocking_threads(BLOCKING_THREADS)
        .on_thread_start(crate::signals::wait_in_thread)
        .enable_all()
        .build()?;
    live_with_limits(&runtime)?;
    Ok(runtime)
}

/// Files, directories and sockets that may be open at a time, at least: the ledger's, a connection's, a walk's.
const OPEN_FILES: u64 = 32;

/// With fewer, one part or another would fail at any time.
fn enough_open_files() -> io::Result<()> {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < OPEN_FILES => Err(io::Error::other(format!(
            "it may have {limit} files open at a time and needs {OPEN_FILES}; raise the limit (`ulimit -n`)"
        ))),
        _ => Ok(()),
    }
}

/// A write beyond the limit of file sizes (`ulimit -f`) fails, as one to a full disk does, and kills no more: SIGXFSZ has
/// a handler from now on. Programs that this one starts get the signal as ever.
fn live_with_limits(runtime: &Runtime) -> io::Result<()> {
    let _within = runtime.enter();
    // The handler stays when this goes.
    signal(SignalKind::from_raw(libc::SIGXFSZ)).map(drop)
}

/// Has glibc keep what little is freed and needed again at once, and share it between threads. As it comes, it has an
/// arena for each thread, and gives the end of each back to the kernel again and again.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_memory() {
    for (parameter, value) in
        [(libc::M_ARENA_MAX, 2), (libc::M_TRIM_THRESHOLD, 1 << 20), (libc::M_MMAP_THRESHOLD, 1 << 20)]
    {
        // SAFETY: mallopt(3) takes two integers and changes nothing but the allocator's settings.
        if unsafe { libc::mallopt(parameter, value) } == 0 {
            tracing::debug!(parameter, value, "the allocator does not take this setting");
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_memory() {}

/// Keeps passwords and keys out of core dumps, and out of the reach of other processes of the same user: those can
/// neither trace this one nor read its memory or environment (prctl(2), PR_SET_DUMPABLE). Programs that it starts are
/// not affected.
pub fn keep_secrets() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::debug!(%error, "this process stays traceable");
    }
}
