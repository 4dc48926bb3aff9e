//! A program as the first process of a container: in a PID namespace of its own, where the kernel drops every signal
//! that it has no handler for.

use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::env::{Running, wait_until};

/// The namespaces that it takes, and its own /proc.
const UNSHARE: [&str; 4] = ["--map-root-user", "--pid", "--fork", "--mount-proc"];

/// Whether this kernel lets us; a test that it does not let says so and is skipped.
pub fn possible() -> bool {
    let mut trial = Command::new("unshare");
    trial.args(UNSHARE).arg("true").stderr(Stdio::null());
    let possible = trial.status().is_ok_and(|status| status.success());
    if !possible {
        eprintln!("SKIPPED: this kernel gives no PID namespaces, or there is no unshare(1)");
    }
    possible
}

/// The same command with the same environment as the first process of a namespace, whose end has its exit code.
pub fn wrapped(command: &Command) -> Command {
    let mut outer = Command::new("unshare");
    outer.args(UNSHARE).arg(command.get_program()).args(command.get_args());
    outer.env_clear().stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            outer.env(name, value);
        }
    }
    if let Some(directory) = command.get_current_dir() {
        outer.current_dir(directory);
    }
    outer
}

/// The number by which that first process is known outside, from the moment that it is there.
#[track_caller]
pub fn pid(outer: &Running) -> Pid {
    let own = outer.pid().as_raw_nonzero();
    let children = format!("/proc/{own}/task/{own}/children");
    let mut found = None;
    wait_until("there is a first process", || {
        let text = std::fs::read_to_string(&children).unwrap_or_default();
        found = text.split_whitespace().next().and_then(|pid| Pid::from_raw(pid.parse().ok()?));
        found.is_some()
    });
    found.unwrap()
}

/// Whether it is the archiver by now, not what becomes it, and blocks a signal or has a handler for it; before that, the
/// signal would be dropped.
pub fn takes(pid: Pid, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    let is_archiver = status.lines().next() == Some("Name:\tarchiver");
    is_archiver && (mask("SigBlk:") | mask("SigCgt:")) & (1 << (signal.as_raw() - 1)) != 0
}

/// One that ended meanwhile needs none.
pub fn send(pid: Pid, signal: Signal) {
    let _ = kill_process(pid, signal);
}
