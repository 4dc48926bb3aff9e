//! The command of `archiver run`: started, signalled and waited for. Where this process is the first one of a
//! container, the processes that others left behind are waited for too, so that they do not pile up as zombies.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// The process number of an init process.
const INIT: u32 = 1;

/// What shells exit with where a command cannot be run, and where there is none of the name.
const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// What shells add to the number of the signal that ended a command.
const SIGNALLED: u8 = 128;

/// A command that was started. It goes on when this is dropped.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    reaping: Reaping,
    children: Stream,
}

/// Whose ends are taken note of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reaping {
    /// Only the command's.
    Command,
    /// Everybody's: this is the init process, and whoever loses its parent becomes its child.
    All,
}

/// The command could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", command.display())]
pub struct StartError {
    command: OsString,
    error: io::Error,
}

impl StartError {
    /// What a shell would exit with.
    pub fn code(&self) -> u8 {
        if self.error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE }
    }
}

impl Running {
    /// Starts it with this process's standard streams and environment, but for the variables named, in the same process
    /// group: what a terminal sends reaches both.
    pub fn start(command: &[OsString], without: impl IntoIterator<Item = String>) -> Result<Self, StartError> {
        let (program, arguments) = command.split_first().expect("the command line asks for at least one word");
        let failed = |error| StartError { command: program.clone(), error };
        // Before there is a child that could end.
        let children = signal(SignalKind::child()).map_err(failed)?;
        let mut starting = Command::new(program);
        starting.args(arguments).arg0(program);
        for variable in without {
            starting.env_remove(variable);
        }
        let child = starting.spawn().map_err(failed)?;
        let reaping = if std::process::id() == INIT { Reaping::All } else { Reaping::Command };
        Ok(Self { pid: Pid::from_child(&child), reaping, children })
    }

    /// Sends a signal. A command that ended already needs none.
    pub fn signal(&self, signal: Signal) {
        match kill_process(self.pid, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => tracing::warn!(?signal, %error, "the command cannot be signalled"),
        }
    }

    /// Waits for its end, and says the exit code that a shell would. Cancel-safe; to be asked again until it has ended,
    /// and not after.
    pub async fn ended(&mut self) -> u8 {
        loop {
            if let Some(code) = self.reap() {
                return code;
            }
            if self.children.recv().await.is_none() {
                // The runtime is going away, and this task with it.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Takes note of all that have ended by now.
    fn reap(&self) -> Option<u8> {
        let mut ended = None;
        let whom = match self.reaping {
            Reaping::Command => Some(self.pid),
            Reaping::All => None,
        };
        // Several ends may come as one signal.
        loop {
            let waited = match whom {
                Some(pid) => rustix::process::waitpid(Some(pid), WaitOptions::NOHANG),
                None => rustix::process::wait(WaitOptions::NOHANG),
            };
            match waited {
                Ok(Some((pid, status))) if pid == self.pid => ended = Some(code(status)),
                Ok(Some((pid, _))) => tracing::debug!(pid = pid.as_raw_nonzero().get(), "an orphan ended"),
                Err(Errno::INTR) => continue,
                // None has ended, or there is none.
                Ok(None) | Err(_) => return ended,
            }
            if ended.is_some() && self.reaping == Reaping::Command {
                return ended;
            }
        }
    }
}

/// The exit code that a shell makes of a status.
fn code(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => u8::try_from(code & 0xff),
        (None, Some(signal)) => u8::try_from(i32::from(SIGNALLED) + signal),
        (None, None) => Ok(SIGNALLED),
    };
    code.unwrap_or(u8::MAX)
}

/// Whether a signal has to be passed on. Those that a terminal sends reach its whole process group, and SIGUSR1 asks this
/// program how far it is.
pub fn is_to_be_forwarded(signal: Signal, from_terminal: bool) -> bool {
    signal != Signal::USR1 && !(from_terminal && [Signal::INT, Signal::QUIT].contains(&signal))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<const N: usize>(words: [&str; N]) -> [OsString; N] {
        words.map(OsString::from)
    }

    async fn ended(script: &str) -> u8 {
        Running::start(&words(["sh", "-c", script]), []).unwrap().ended().await
    }

    #[tokio::test]
    async fn the_code_is_the_one_a_shell_says() {
        assert_eq!(ended("exit 0").await, 0);
        assert_eq!(ended("exit 7").await, 7);
        assert_eq!(ended("exit 255").await, 255);
        assert_eq!(ended("kill -TERM $$").await, 128 + 15);
        assert_eq!(ended("kill -KILL $$").await, 128 + 9);
    }

    #[tokio::test]
    async fn what_cannot_be_started_has_the_codes_of_a_shell() {
        let code = |program: &str| Running::start(&words([program]), []).unwrap_err().code();
        assert_eq!(code("/nowhere/at/all"), 127);
        assert_eq!(code("/dev/null"), 126);
    }

    #[tokio::test]
    async fn a_signal_reaches_it() {
        let mut running = Running::start(&words(["sleep", "1000"]), []).unwrap();
        running.signal(Signal::TERM);
        assert_eq!(running.ended().await, 128 + 15);
        // It has ended; nobody else is hit.
        running.signal(Signal::TERM);
    }

    #[tokio::test]
    async fn the_variables_named_stay_here() {
        // Cargo sets this one for every test.
        let script = r#"test -z "$CARGO_PKG_NAME""#;
        let without = ["CARGO_PKG_NAME".to_owned()];
        assert_eq!(Running::start(&words(["sh", "-c", script]), without).unwrap().ended().await, 0);
        assert_eq!(ended(script).await, 1);
    }

    #[test]
    fn a_terminal_forwards_by_itself() {
        assert!(is_to_be_forwarded(Signal::INT, false));
        assert!(!is_to_be_forwarded(Signal::INT, true));
        assert!(is_to_be_forwarded(Signal::TERM, true));
    }
}
