//! The command of `archiver run`: started, signalled and waited for. Where this process is the first one of a
//! container, the processes that others left behind are waited for too, so that they do not pile up as zombies.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
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

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        let path = Path::new(&self.command);
        if !self.command.as_bytes().contains(&b'/') {
            return "check the words after `--`: the first one is looked for in PATH";
        }
        match path.metadata() {
            Ok(found) if found.is_dir() => "the first word after `--` names a directory; name a program in it",
            Ok(_) if self.error.kind() == io::ErrorKind::NotFound => {
                "the file is there, but not its interpreter: check its first line (#!), or the libraries that it needs"
            }
            Ok(_) if self.error.kind() == io::ErrorKind::PermissionDenied => {
                "it may not be executed: `chmod +x` it, or see whether its filesystem is mounted with noexec"
            }
            Ok(_) => "the file is there, but this system cannot execute it: is it a program for this machine?",
            Err(_) => "check the first word after `--`: there is no such file, or it cannot be reached",
        }
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
            Err(error) => tracing::warn!(signal = name_of(signal), %error, "the command cannot be signalled"),
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

/// How a command ended, by the code that a shell would say.
pub fn ending(code: u8) -> String {
    match code.checked_sub(SIGNALLED).and_then(|number| Signal::from_named_raw(number.into())) {
        Some(signal) => format!("the command exited with {code} ({})", name_of(signal)),
        None => format!("the command exited with {code}"),
    }
}

/// As people write it.
pub fn name_of(signal: Signal) -> &'static str {
    match signal {
        Signal::HUP => "SIGHUP",
        Signal::INT => "SIGINT",
        Signal::QUIT => "SIGQUIT",
        Signal::ILL => "SIGILL",
        Signal::TRAP => "SIGTRAP",
        Signal::ABORT => "SIGABRT",
        Signal::BUS => "SIGBUS",
        Signal::FPE => "SIGFPE",
        Signal::KILL => "SIGKILL",
        Signal::USR1 => "SIGUSR1",
        Signal::SEGV => "SIGSEGV",
        Signal::USR2 => "SIGUSR2",
        Signal::PIPE => "SIGPIPE",
        Signal::ALARM => "SIGALRM",
        Signal::TERM => "SIGTERM",
        Signal::XCPU => "SIGXCPU",
        Signal::XFSZ => "SIGXFSZ",
        Signal::SYS => "SIGSYS",
        _ => "another signal",
    }
}

/// Whether a signal has to be passed on. Those that a terminal sends reach its whole process group, and SIGUSR1 asks this
/// program how far it is.
pub fn is_to_be_forwarded(signal: Signal, from_terminal: bool) -> bool {
    signal != Signal::USR1 && !(from_terminal && [Signal::INT, Signal::QUIT].contains(&signal))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

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
    async fn what_cannot_be_started_has_a_hint_that_fits() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        std::fs::write(&script, "#!/nowhere/at/all\n").unwrap();
        let hint = |program: &OsStr| Running::start(&[program.to_owned()], []).unwrap_err().hint();
        assert!(hint("no-such-program-anywhere".as_ref()).contains("PATH"));
        assert!(hint("/nowhere/at/all".as_ref()).contains("no such file"));
        assert!(hint(dir.path().as_ref()).contains("a directory"));
        assert!(hint(script.as_ref()).contains("chmod +x"));
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, executable).unwrap();
        assert!(hint(script.as_ref()).contains("interpreter"));
    }

    #[test]
    fn a_signal_that_ended_it_is_named() {
        assert_eq!(ending(7), "the command exited with 7");
        assert_eq!(ending(137), "the command exited with 137 (SIGKILL)");
        assert_eq!(ending(255), "the command exited with 255");
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
