//! A directory of its own for each test, the real binary in a neutral environment, and processes that a test can
//! watch, signal and never leaves behind.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::freeze;

/// The longest that any step of a test may take. Far more than needed: it only turns a hang into a failure.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// `local/`, `remote/` and `home/` in a temporary directory that goes with it.
pub struct TestEnv {
    directory: TempDir,
}

impl TestEnv {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("archiver-test-").tempdir().unwrap();
        for name in ["local", "remote", "home/.ssh"] {
            std::fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        Self { directory }
    }

    /// All of it.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn local(&self) -> PathBuf {
        self.path().join("local")
    }

    pub fn remote(&self) -> PathBuf {
        self.path().join("remote")
    }

    pub fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// A program that finds only this directory for a home and nothing of the caller's environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear();
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        command.env("HOME", self.home());
        command.env("XDG_CONFIG_HOME", self.home().join(".config"));
        command.env("XDG_STATE_HOME", self.home().join(".local/state"));
        command.env("XDG_CACHE_HOME", self.home().join(".cache"));
        command.env("TZ", "UTC").env("LC_ALL", "C.UTF-8");
        command.current_dir(self.path()).stdin(Stdio::null());
        command
    }

    /// The binary under test.
    pub fn archiver<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_archiver"));
        command.args(arguments);
        command
    }
}

/// Writes a file and the directories above it.
pub fn write(root: &Path, relative: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
    let path = root.join(relative);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    path
}

/// So many bytes that do not compress and do not repeat, the same ones for the same seed.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    (0u64..).flat_map(|block| Sha256::digest([seed, block].map(u64::to_le_bytes).concat())).take(bytes).collect()
}

/// What stands at one path of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Directory,
    File { bytes: u64, sha256: String },
    Link(PathBuf),
    Other,
}

/// Everything below a directory by its relative path: two trees are the same, byte for byte, where these are equal.
pub fn tree(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
            let what = if kind.is_dir() {
                todo.push(path.clone());
                Entry::Directory
            } else if kind.is_symlink() {
                Entry::Link(std::fs::read_link(&path).unwrap())
            } else if kind.is_file() {
                let content = std::fs::read(&path).unwrap();
                let digest = Sha256::digest(&content);
                let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                Entry::File { bytes: content.len() as u64, sha256 }
            } else {
                Entry::Other
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), what);
        }
    }
    found
}

/// Only the files of a tree, as `tree` gives them.
pub fn files(root: &Path) -> BTreeMap<PathBuf, Entry> {
    tree(root).into_iter().filter(|(_, entry)| matches!(entry, Entry::File { .. })).collect()
}

/// Waits for what sends no event, by looking again and again.
#[track_caller]
pub fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain until {what}");
        #[expect(clippy::disallowed_methods, reason = "a poll loop with a deadline")]
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The pace of an application whose slowness is what is tested; never a wait for something to happen.
#[expect(clippy::disallowed_methods, reason = "a writer that takes its time")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// How a process ended and what it said.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// The exit code; `None` where a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.code(), Some(code), "\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }
}

/// Runs a command to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Finished {
    Running::start(command).finish()
}

/// A process that lives. Dropping it kills it, and all that it started.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    stderr: String,
    stdout: Option<JoinHandle<String>>,
}

impl Running {
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let (mut out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let stdout = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            out.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(err).split(b'\n').map_while(Result::ok) {
                // Nobody listens any more once the test is over.
                let _ = send.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Self { child, lines, stderr: String::new(), stdout: Some(stdout) }
    }

    /// Waits for the next line of standard error that contains `text`.
    #[track_caller]
    pub fn expect_line(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            match self.next_line(start) {
                Ok(line) if line.contains(text) => return line,
                Ok(_) => {}
                Err(why) => panic!("no line with {text:?} came ({why}); standard error was\n{}", self.stderr),
            }
        }
    }

    /// Waits for the next line of standard error that contains `text`; `None` where the process closes it without one.
    #[track_caller]
    pub fn line_or_end(&mut self, text: &str) -> Option<String> {
        let start = Instant::now();
        loop {
            match self.next_line(start) {
                Ok(line) if line.contains(text) => return Some(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("no line with {text:?} came:\n{}", self.stderr),
            }
        }
    }

    /// What it said on standard error, as far as it was waited for.
    pub fn said(&self) -> &str {
        &self.stderr
    }

    fn next_line(&mut self, start: Instant) -> Result<String, RecvTimeoutError> {
        let line = self.lines.recv_timeout(DEADLINE.saturating_sub(start.elapsed()))?;
        self.stderr.push_str(&line);
        self.stderr.push('\n');
        Ok(line)
    }

    /// Waits so long for a line of standard error that contains `text`, and tells whether it came.
    #[cfg_attr(not(feature = "failpoints"), allow(dead_code, reason = "for the kill test"))]
    pub fn says_within(&mut self, text: &str, limit: Duration) -> bool {
        let start = Instant::now();
        while let Ok(line) = self.lines.recv_timeout(limit.saturating_sub(start.elapsed())) {
            self.stderr.extend([line.as_str(), "\n"]);
            if line.contains(text) {
                return true;
            }
        }
        false
    }

    /// Waits so long for it to end by itself, and tells whether it did.
    pub fn ends_within(&mut self, limit: Duration) -> bool {
        let start = Instant::now();
        loop {
            match self.lines.recv_timeout(limit.saturating_sub(start.elapsed())) {
                Ok(line) => self.stderr.extend([line.as_str(), "\n"]),
                Err(why) => return why == RecvTimeoutError::Disconnected,
            }
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Whether SIGSTOP has taken effect.
    #[cfg_attr(not(feature = "failpoints"), allow(dead_code, reason = "for the kill test"))]
    pub fn is_stopped(&self) -> bool {
        freeze::rests(self.pid())
    }

    /// Stops it, and waits until it is stopped.
    #[track_caller]
    pub fn freeze(&self) {
        freeze::freeze(self.pid());
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits until it ends by itself, and for all it said.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        let start = Instant::now();
        loop {
            match self.next_line(start) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it did not end; standard error was\n{}", self.stderr),
            }
        }
        // Standard error is closed: the process ends, or did.
        let mut status = None;
        wait_until("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let stdout = self.stdout.take().unwrap().join().unwrap();
        Finished { status: status.unwrap(), stdout, stderr: std::mem::take(&mut self.stderr) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // The group has the process's own number; it fails only where all of it ended meanwhile.
            let _ = kill_process_group(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// The most memory that a process has had, in KiB, asked for until it ends.
pub fn peak_memory(pid: Pid) -> std::thread::JoinHandle<u64> {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    std::thread::spawn(move || {
        let mut peak = 0;
        while let Ok(status) = std::fs::read_to_string(&path) {
            // A process that has ended, and is not waited for, has no memory.
            let Some(line) = status.lines().find(|line| line.starts_with("VmHWM:")) else { break };
            peak = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            #[expect(clippy::disallowed_methods, reason = "nothing tells of growth; the process's end ends it")]
            std::thread::sleep(Duration::from_millis(2));
        }
        peak
    })
}

#[test]
fn the_binary_runs_without_the_callers_environment() {
    let env = TestEnv::new();
    let command = env.archiver(["--version"]);
    assert!(command.get_envs().all(|(name, _)| !name.to_string_lossy().starts_with("ARCHIVER_")));
    let finished = run(env.command("env").env("ONLY", "this"));
    let lines = finished.assert_code(0).stdout.lines().collect::<Vec<_>>();
    assert!(lines.contains(&"ONLY=this") && !lines.iter().any(|line| line.starts_with("SSH_")), "{lines:?}");
    run(&mut env.archiver(["--version"])).assert_code(0);
}

#[test]
fn a_process_is_watched_and_signalled() {
    let env = TestEnv::new();
    let script = "trap 'echo bye >&2; echo out; exit 7' TERM; echo up >&2; while :; do read -t 0.01 _; done";
    let mut running = Running::start(env.command("bash").args(["-c", script]));
    running.expect_line("up");
    running.signal(Signal::TERM);
    let finished = running.finish();
    assert_eq!((finished.code(), finished.stdout.as_str()), (Some(7), "out\n"));
    assert_eq!(finished.stderr, "up\nbye\n");
}

#[test]
fn a_process_dies_with_its_test() {
    let env = TestEnv::new();
    let mut running = Running::start(env.command("sh").args(["-c", "echo up >&2; exec sleep 600"]));
    running.expect_line("up");
    let pid = running.pid();
    drop(running);
    assert!(rustix::process::test_kill_process(pid).is_err());
}

#[test]
fn trees_are_told_apart_by_their_bytes() {
    let env = TestEnv::new();
    for root in [env.local(), env.remote()] {
        write(&root, "a/b", "same");
        std::os::unix::fs::symlink("b", root.join("a/link")).unwrap();
    }
    assert_eq!(tree(&env.local()), tree(&env.remote()));
    write(&env.remote(), "a/b", "Same");
    assert_ne!(files(&env.local()), files(&env.remote()));
    assert_eq!(noise(100, 1), noise(100, 1));
    assert_ne!(noise(100, 1), noise(100, 2));
}
