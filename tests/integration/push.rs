//! `archiver push` through the real binary: a bench with a ledger, a destination and a summary that is read back.
//!
//! Against OpenSSH's own server wherever it can show the case; against the embedded one for the faults it cannot.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::embedded::Embedded;
use crate::support::env::{Finished, Running, TestEnv, files, tree, write};
use crate::support::openssh::OpenSsh;
use crate::support::relay::Relay;

#[path = "push_again.rs"]
mod again;
#[path = "push_broken_link.rs"]
mod broken_link;
#[path = "push_changing.rs"]
mod changing;
#[path = "push_conflict.rs"]
mod conflict;
#[path = "push_crash.rs"]
mod crash;
#[path = "push_direct.rs"]
mod direct;
#[path = "push_faults.rs"]
mod faults;
#[path = "push_floods.rs"]
mod floods;
#[path = "push_hostile_login.rs"]
mod hostile_login;
#[path = "push_inspect.rs"]
mod inspect;
#[path = "push_killed_server.rs"]
mod killed_server;
#[path = "push_ledger.rs"]
mod ledger;
#[path = "push_limits.rs"]
mod limits;
#[path = "push_list.rs"]
mod list;
#[path = "push_login.rs"]
mod login;
#[path = "push_moved.rs"]
mod moved;
#[path = "push_names.rs"]
mod names;
#[path = "push_nonsense.rs"]
mod nonsense;
#[path = "push_openssh.rs"]
mod openssh;
#[path = "push_options.rs"]
mod options;
#[path = "push_outage.rs"]
mod outage;
#[path = "push_real.rs"]
mod real;
#[path = "push_refused.rs"]
mod refused;
#[path = "push_regressions.rs"]
mod regressions;
#[path = "push_resume.rs"]
mod resume;
#[path = "push_select.rs"]
mod select;
#[path = "push_slow_link.rs"]
mod slow_link;
#[path = "push_sshd.rs"]
mod sshd;
#[path = "push_statuses.rs"]
mod statuses;
#[path = "push_stop.rs"]
pub mod stop;
#[path = "push_summary.rs"]
mod summary;
#[path = "push_tree.rs"]
mod tree;

/// A destination: where the binary sends to, and where that lies on this machine.
pub struct Bench {
    pub env: TestEnv,
    to: String,
    /// Options that let the binary in.
    login: Vec<OsString>,
    /// The destination's base on this machine.
    pub base: PathBuf,
    /// How long a reply is waited for: short only where one never comes, for a busy machine is no broken one.
    pub request_timeout: &'static str,
}

const PATIENT: &str = "60s";

impl Bench {
    /// For a server of its own.
    pub fn openssh(server: &OpenSsh) -> Self {
        Self::openssh_in(TestEnv::new(), server)
    }

    pub fn openssh_in(env: TestEnv, server: &OpenSsh) -> Self {
        let login =
            vec!["--identity".into(), server.client_key().into(), "--known-hosts".into(), server.known_hosts().into()];
        Self::with_login(env, server.url(), login, server.local(&server.base()))
    }

    /// For a server of its own, through a relay.
    pub fn relayed(server: &OpenSsh, relay: &Relay) -> Self {
        let mut bench = Self::openssh(server);
        let line = format!("[127.0.0.1]:{} {}\n", relay.address().port(), server.host_key("ed25519"));
        let known_hosts = write(&bench.env.home(), ".ssh/known_hosts", line);
        bench.to = format!("sftp://{}@{}{}", server.user(), relay.address(), server.base());
        bench.login = vec!["--identity".into(), server.client_key().into(), "--known-hosts".into(), known_hosts.into()];
        bench
    }

    pub fn plain() -> (Self, OpenSsh) {
        let server = OpenSsh::plain();
        (Self::openssh(&server), server)
    }

    /// For an embedded server of `env.remote()`, whose keys are where the binary looks for them by itself.
    pub fn embedded(env: TestEnv, server: &Embedded) -> Self {
        let (to, base) = (server.url("/"), env.remote());
        Self::of(env, to, base)
    }

    /// For a server that holds `base`, whose keys are where the binary looks for them by itself.
    pub fn of(env: TestEnv, to: String, base: PathBuf) -> Self {
        Self::with_login(env, to, Vec::new(), base)
    }

    fn with_login(env: TestEnv, to: String, login: Vec<OsString>, base: PathBuf) -> Self {
        Self { env, to, login, base, request_timeout: PATIENT }
    }

    /// `archiver push` to the destination, into the directory `in`, with short pauses and a JSON summary.
    /// Later options win over earlier ones only where clap lets them, so none of those that tests vary is here.
    pub fn push<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        self.push_to(&self.to, arguments)
    }

    pub fn push_to<A: AsRef<OsStr>>(&self, to: &str, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.bare_push(arguments);
        command.args(["--to", to]).args(&self.login);
        command
    }

    /// The same without a destination.
    pub fn bare_push<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        self.bare("push", arguments)
    }

    /// `archiver watch`, as [`Bench::push`].
    pub fn watch<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.bare("watch", arguments);
        command.args(["--to", &self.to]).args(&self.login);
        command
    }

    fn bare<A: AsRef<OsStr>>(&self, subcommand: &str, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.env.archiver([subcommand]);
        command.args(arguments);
        command.env("ARCHIVER_SUMMARY", "json").env("ARCHIVER_LAYOUT", "in");
        command.env("ARCHIVER_LEDGER", self.ledger());
        command.env("ARCHIVER_RETRY__INITIAL_BACKOFF", "1ms").env("ARCHIVER_RETRY__MAX_BACKOFF", "20ms");
        command.env("ARCHIVER_POOL__REQUEST_TIMEOUT", self.request_timeout);
        command
    }

    /// `archiver check` of the destination, as JSON.
    pub fn check(&self) -> Command {
        let mut command = self.env.archiver(["check", "--summary", "json", "--to", &self.to]);
        command.args(&self.login).env("ARCHIVER_LEDGER", self.ledger());
        command
    }

    pub fn ledger(&self) -> PathBuf {
        self.env.home().join("ledger.db")
    }

    /// Pushes `local/` and must succeed.
    #[track_caller]
    pub fn push_local(&self) -> Pushed {
        Pushed::run(&mut self.push([self.env.local()])).expect(0)
    }

    pub fn to(&self) -> &str {
        &self.to
    }

    /// What stands below `in` on the server.
    pub fn archived(&self) -> BTreeMap<PathBuf, crate::support::env::Entry> {
        let directory = self.base.join("in");
        if directory.exists() { files(&directory) } else { BTreeMap::new() }
    }

    /// Every file of `local/` stands below `in`, byte for byte, and nothing else does.
    #[track_caller]
    pub fn assert_same_files(&self) {
        assert_eq!(self.archived(), files(&self.env.local()));
    }

    /// No temporary name of ours is left anywhere.
    #[track_caller]
    pub fn assert_no_part(&self) {
        let left: Vec<_> = tree(&self.base).into_keys().filter(|path| is_part(path)).collect();
        assert!(left.is_empty(), "temporary names are left: {left:?}");
    }
}

/// Runs all cases, six at a time.
pub fn each<T: Send + Sync>(cases: &[T], run: impl Fn(&T) + Sync) {
    let next = std::sync::Mutex::new(cases.iter());
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(case) = { next.lock().unwrap().next() } {
                    run(case);
                }
            });
        }
    });
}

pub fn is_part(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.starts_with('.') && name.ends_with(".part")
}

/// A run of `archiver push` that ended, and its JSON summary (`Null` where there is none).
#[derive(Debug)]
pub struct Pushed {
    pub finished: Finished,
    pub json: Value,
}

impl Pushed {
    #[track_caller]
    pub fn run(command: &mut Command) -> Self {
        Self::of(Running::start(command).finish())
    }

    #[track_caller]
    pub fn of(finished: Finished) -> Self {
        let json = serde_json::from_str(&finished.stdout).unwrap_or(Value::Null);
        let pushed = Self { finished, json };
        if !pushed.json.is_null() {
            pushed.assert_totals_add_up();
        }
        pushed
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        self.finished.assert_code(code);
        self
    }

    pub fn rows(&self) -> &[Value] {
        self.json["files"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// The one row whose path ends so.
    #[track_caller]
    pub fn row(&self, path: &str) -> &Value {
        let mut found = self.rows().iter().filter(|row| row["path"].as_str().unwrap().ends_with(path));
        let row = found.next().unwrap_or_else(|| panic!("no row for {path}: {}", self.finished.stdout));
        assert!(found.next().is_none(), "two rows for {path}: {}", self.finished.stdout);
        row
    }

    pub fn reason(&self, path: &str) -> &str {
        self.row(path)["reason"].as_str().unwrap_or_default()
    }

    /// Archived, skipped, deferred, failed.
    pub fn counts(&self) -> [u64; 4] {
        ["archived", "skipped", "deferred", "failed"].map(|status| self.json["totals"][status].as_u64().unwrap())
    }

    #[track_caller]
    pub fn assert_counts(&self, counts: [u64; 4]) -> &Self {
        assert_eq!(self.counts(), counts, "\n{}\n{}", self.finished.stdout, self.finished.stderr);
        self
    }

    /// G7: each row is counted once, under its status; the bytes are those of the archived rows.
    #[track_caller]
    fn assert_totals_add_up(&self) {
        let mut counts = BTreeMap::<&str, u64>::new();
        let mut bytes = 0;
        for row in self.rows() {
            let status = row["status"].as_str().unwrap();
            *counts.entry(status).or_default() += 1;
            if status == "archived" {
                bytes += row["bytes"].as_u64().unwrap();
            }
        }
        for status in ["archived", "skipped", "deferred", "failed"] {
            let counted = counts.get(status).copied().unwrap_or_default();
            assert_eq!(self.json["totals"][status], counted, "{status}: {}", self.finished.stdout);
        }
        assert_eq!(self.json["totals"]["bytes"], bytes, "{}", self.finished.stdout);
    }

    /// Standard error holds all of these.
    #[track_caller]
    pub fn says(&self, texts: &[&str]) -> &Self {
        for text in texts {
            assert!(self.finished.stderr.contains(text), "no {text:?} in\n{}", self.finished.stderr);
        }
        self
    }
}

/// Permission bits and modification time (seconds) of every file by its relative path.
pub fn stamps(root: &Path) -> BTreeMap<PathBuf, (u32, i64)> {
    let stamp = |path: PathBuf| {
        let found = std::fs::symlink_metadata(root.join(&path)).unwrap();
        (path, (found.permissions().mode() & 0o7777, found.mtime()))
    };
    files(root).into_keys().map(stamp).collect()
}

/// Sets a file's permission bits and modification time.
pub fn set_stamp(path: &Path, mode: u32, mtime: u64) {
    let file = std::fs::File::options().append(true).open(path).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(mtime)).unwrap();
    drop(file);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// So many bytes of which no two megabytes are the same; made faster than noise.
pub fn many_bytes(megabytes: u32) -> Vec<u8> {
    let mut all = Vec::with_capacity((megabytes as usize) << 20);
    let block = crate::support::env::noise(1 << 20, 7);
    for number in 0..megabytes {
        let start = all.len();
        all.extend_from_slice(&block);
        all[start..start + 4].copy_from_slice(&number.to_le_bytes());
    }
    all
}
