//! A program in a user and mount namespace of its own, where limits and filesystems can be what a test needs, on this
//! machine and without rights on it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::env::Running;

/// Whether this kernel lets us; a test that it does not let says so and is skipped.
pub fn possible() -> bool {
    let mut trial = Command::new("unshare");
    trial.args(["--user", "--map-root-user", "--mount", "true"]).stderr(Stdio::null());
    let possible = trial.status().is_ok_and(|status| status.success());
    if !possible {
        eprintln!("SKIPPED: this kernel gives no user namespaces, or there is no unshare(1)");
    }
    possible
}

/// The same command with the same environment, in namespaces of its own, after the shell commands of `setup`. It has the
/// process id of what is started.
pub fn within(setup: &str, command: &Command) -> Command {
    let mut wrapped = Command::new("unshare");
    wrapped.args(["--user", "--map-root-user", "--mount", "sh", "-ec"]).arg(format!("{setup}\nexec \"$@\"")).arg("sh");
    wrapped.arg(command.get_program()).args(command.get_args());
    wrapped.env_clear().stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            wrapped.env(name, value);
        }
    }
    if let Some(directory) = command.get_current_dir() {
        wrapped.current_dir(directory);
    }
    wrapped
}

/// For `setup`: a filesystem that hangs is mounted there. Nobody answers for it, until the process that is started ends.
pub fn hangs_at(path: &Path) -> String {
    let options = "fd=9,rootmode=40000,user_id=0,group_id=0";
    format!("exec 9<>/dev/fuse\nmount -i -t fuse -o {options} hung '{}'", path.display())
}

/// Whether this kernel lets us have such a filesystem; a test that it does not let says so and is skipped.
pub fn can_hang(at: &Path) -> bool {
    let possible = possible() && {
        let trial = within(&hangs_at(at), &Command::new("true")).stderr(Stdio::null()).status();
        trial.is_ok_and(|status| status.success())
    };
    if !possible {
        eprintln!("SKIPPED: this kernel mounts no FUSE in a user namespace");
    }
    possible
}

/// A path as a process in its own namespace sees it.
pub fn seen_by(running: &Running, path: &Path) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", running.pid().as_raw_nonzero()));
    root.join(path.strip_prefix("/").unwrap())
}

/// Runs shell commands in the namespaces of a process.
pub fn enter(running: &Running, script: &str) {
    let pid = running.pid().as_raw_nonzero().to_string();
    let mut command = Command::new("nsenter");
    super::openssh::run(command.args(["--preserve-credentials", "-U", "-m", "-t", &pid, "sh", "-ec", script]));
}
