//! Stopping a process for real: SIGSTOP takes effect once one of its threads has had the processor, which on a busy
//! machine takes a while.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Stops a process, and waits until none of its threads runs any more. One that has ended is at rest, too.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "nothing tells of it")]
pub fn freeze(pid: Pid) {
    let _ = kill_process(pid, Signal::STOP);
    let start = Instant::now();
    while !rests(pid) {
        assert!(start.elapsed() < Duration::from_secs(60), "{pid:?} does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether no thread of it runs, or will before somebody continues it: all are stopped, or have ended.
pub fn rests(pid: Pid) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())) else { return true };
    threads.flatten().all(|thread| {
        // One that has ended meanwhile has no status.
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let state = status.lines().find_map(|line| line.strip_prefix("State:\t"));
        state.is_none_or(|state| state.starts_with(['T', 'Z', 'X']))
    })
}
