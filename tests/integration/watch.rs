//! `archiver watch` through the real binary: what its tests share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::embedded::Embedded;
use crate::support::env::{Entry, Finished, Running, TestEnv, files, wait_until};
use crate::support::openssh::OpenSsh;

/// The settle time of the tests: long enough to be real, short enough to be waited for often.
pub const SETTLE: &str = "100ms";

/// A machine with an application's files, and a real sshd to archive them to.
pub struct Site {
    pub env: TestEnv,
    pub server: OpenSsh,
}

impl Site {
    pub fn new() -> Self {
        Self { env: TestEnv::new(), server: OpenSsh::plain() }
    }

    pub fn local(&self) -> PathBuf {
        self.env.local()
    }

    /// The directory that files are archived to, on this machine.
    pub fn remote(&self) -> PathBuf {
        self.server.local(&self.server.base())
    }

    /// `archiver watch` with no source yet, with this server's key and host key, and a JSON summary.
    pub fn bare<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = self.env.archiver(["watch", "--ssh-config", "none", "--to", &self.server.url()]);
        command.arg("--identity").arg(self.server.client_key());
        command.arg("--known-hosts").arg(self.server.known_hosts());
        common(&mut command, arguments);
        command
    }

    /// The same for `local/`.
    pub fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = self.bare(arguments);
        command.arg(self.local());
        command
    }

    /// Watches `local/`; its watches stand when this returns.
    #[track_caller]
    pub fn watch<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Running {
        watching(&mut self.command(arguments))
    }

    pub fn archived(&self) -> BTreeMap<PathBuf, Entry> {
        archived(&self.remote())
    }

    /// Waits until the archive shows so many files under final names.
    #[track_caller]
    pub fn wait_for(&self, count: usize) {
        let remote = self.remote();
        wait_until(&format!("{count} files are archived, of {:?}", names(&remote)), || names(&remote).len() >= count);
    }
}

/// `archiver watch` of `local/` to the embedded server, whose key and host key are in the home directory.
pub fn embedded_command<'a>(env: &TestEnv, server: &Embedded, arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = env.archiver(["watch", "--to", &server.url("/")]);
    common(&mut command, arguments);
    command.arg(env.local());
    command
}

fn common<'a>(command: &mut Command, arguments: impl IntoIterator<Item = &'a str>) {
    command.args(["--summary", "json"]).args(arguments).env("ARCHIVER_SETTLE", SETTLE);
    // Outages of tests are short.
    command.env("ARCHIVER_RETRY__INITIAL_BACKOFF", "50ms").env("ARCHIVER_RETRY__MAX_BACKOFF", "300ms");
}

/// Starts a watch and waits until it says that it watches.
#[track_caller]
pub fn watching(command: &mut Command) -> Running {
    let mut running = Running::start(command);
    running.expect_line("watching");
    running
}

/// Asks it to drain, and waits for its end.
#[track_caller]
pub fn stop(running: Running) -> Finished {
    running.signal(Signal::TERM);
    running.finish()
}

/// The archive's files below their date directories; fails where a temporary name is left.
#[track_caller]
pub fn archived(remote: &Path) -> BTreeMap<PathBuf, Entry> {
    let below_date = |(path, entry): (PathBuf, Entry)| (path.components().skip(3).collect::<PathBuf>(), entry);
    let found: BTreeMap<_, _> = files(remote).into_iter().map(below_date).collect();
    let temporary: Vec<_> = found.keys().filter(|path| is_temporary(path)).collect();
    assert!(temporary.is_empty(), "temporary names were left: {temporary:?}");
    found
}

fn is_temporary(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "part")
}

/// Final names in an archive in use, by their whole paths, with their sizes, without reading them.
pub fn names(remote: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = sizes(remote);
    found.retain(|path, _| !is_temporary(path));
    found
}

/// Temporary names, in the same way.
pub fn temporary(remote: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = sizes(remote);
    found.retain(|path, _| is_temporary(path));
    found
}

/// The files of a tree that others change meanwhile.
fn sizes(root: &Path) -> BTreeMap<PathBuf, u64> {
    let (mut found, mut todo) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = todo.pop() {
        // What went away meanwhile is not there.
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => todo.push(entry.path()),
                Ok(metadata) => drop(found.insert(entry.path(), metadata.len())),
                Err(_) => {}
            }
        }
    }
    found
}

/// The summary on standard output, whose totals agree with its rows.
pub struct Summary(Value);

impl Summary {
    #[track_caller]
    pub fn of(finished: &Finished) -> Self {
        let json: Value = serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|error| panic!("standard output is no summary: {error}\n{}", finished.stdout));
        let summary = Self(json);
        for status in ["archived", "skipped", "deferred", "failed"] {
            let counted = summary.rows(status).count() as u64;
            assert_eq!(summary.total(status), counted, "rows and totals differ for {status}: {}", summary.0);
        }
        let bytes: u64 = summary.rows("archived").map(|row| row["bytes"].as_u64().unwrap()).sum();
        assert_eq!(summary.total("bytes"), bytes);
        summary
    }

    pub fn total(&self, what: &str) -> u64 {
        self.0["totals"][what].as_u64().unwrap()
    }

    /// (archived, skipped, deferred, failed)
    pub fn totals(&self) -> (u64, u64, u64, u64) {
        (self.total("archived"), self.total("skipped"), self.total("deferred"), self.total("failed"))
    }

    pub fn rows(&self, status: &str) -> impl Iterator<Item = &Value> {
        let rows = self.0["files"].as_array().unwrap().iter();
        rows.filter(move |row| row["status"] == status)
    }

    /// The reasons of all rows of a status by the names of their files.
    pub fn reasons(&self, status: &str) -> BTreeMap<String, String> {
        let name = |row: &Value| row["path"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        self.rows(status).map(|row| (name(row), row["reason"].as_str().unwrap_or_default().to_owned())).collect()
    }
}

/// Lists the archive without a pause while it lives, and notes every size a final name was ever seen with.
pub struct Lister {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeMap<PathBuf, Vec<u64>>>,
}

impl Lister {
    pub fn start(remote: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut seen: BTreeMap<PathBuf, Vec<u64>> = BTreeMap::new();
            while !stopped.load(Ordering::Relaxed) {
                for (path, size) in names(&remote) {
                    let sizes = seen.entry(path).or_default();
                    if sizes.last() != Some(&size) {
                        sizes.push(size);
                    }
                }
                std::thread::yield_now();
            }
            seen
        });
        Self { stop, thread }
    }

    /// What was seen.
    pub fn finish(self) -> BTreeMap<PathBuf, Vec<u64>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
