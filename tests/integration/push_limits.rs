//! Limits of this process: of the length of its files, and of how many it may have open.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use super::{Bench, Pushed};
use crate::support::embedded::Embedded;
use crate::support::env::{Entry, TestEnv, files, noise, write};

/// The same command in a shell that sets a limit first: `-f` of its files in units of 512 bytes, `-n` of open ones.
fn limited(limit: &str, command: &Command) -> Command {
    let mut wrapped = Command::new("sh");
    wrapped.arg("-ec").arg(format!("ulimit {limit}; exec \"$@\"")).arg("sh");
    wrapped.arg(command.get_program()).args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            wrapped.env(name, value);
        }
    }
    wrapped
}

struct Rig {
    bench: Bench,
    _server: Embedded,
    model: BTreeMap<PathBuf, Entry>,
}

impl Rig {
    fn new(count: u64) -> Self {
        let env = TestEnv::new();
        let server = Embedded::start(&env);
        let bench = Bench::embedded(env, &server);
        for number in 0..count {
            let name = format!("{}/b/c/d/a file with a rather long name, as reports have them, {number}", number % 9);
            write(&bench.env.local(), name, noise(50, number));
        }
        write(&bench.env.local(), "large", noise(400_000, 1));
        let model = files(&bench.env.local());
        Self { bench, _server: server, model }
    }

    fn push(&self, limit: &str) -> Pushed {
        let mut command = self.bench.push([self.bench.env.local()]);
        command.args(["--after", "delete"]);
        Pushed::run(&mut limited(limit, &command))
    }

    /// Every file stands here or there, byte for byte.
    #[track_caller]
    fn assert_nothing_lost(&self, limit: &str) {
        let (left, archived) = (files(&self.bench.env.local()), self.bench.archived());
        for (path, entry) in &self.model {
            let stands = left.get(path) == Some(entry) || archived.get(path) == Some(entry);
            assert!(stands, "{limit}: {} is lost", path.display());
        }
    }

    #[track_caller]
    fn assert_ends_well(&self) {
        Pushed::run(self.bench.push([self.bench.env.local()]).args(["--after", "delete"])).expect(0);
        assert!(files(&self.bench.env.local()).is_empty());
        let mut archived = self.bench.archived();
        archived.retain(|path, _| !super::is_part(path));
        assert_eq!(archived, self.model);
    }
}

/// A ledger that cannot grow is as one on a full disk; the signal that comes with it (SIGXFSZ) does not kill.
#[test]
fn a_limit_of_file_sizes_ends_a_push_with_a_reason_and_loses_nothing() {
    for limit in ["-f 8", "-f 100", "-f 600"] {
        let rig = Rig::new(800);
        let pushed = rig.push(limit);
        eprintln!(
            "{limit}: {:?}, {} left\n{}",
            pushed.finished.code(),
            files(&rig.bench.env.local()).len(),
            pushed.finished.stderr
        );
        // Where all of it has room within the limit, all is well.
        assert!(matches!(pushed.finished.code(), Some(0..=2)), "{limit}: {:?}", pushed.finished);
        if pushed.finished.code() != Some(0) {
            pushed.says(&["error: ", "ledger.db", "ulimit -f"]);
        }
        rig.assert_nothing_lost(limit);
        rig.assert_ends_well();
    }
}

#[test]
fn a_limit_of_open_files_ends_a_push_with_a_reason_and_loses_nothing() {
    let rig = Rig::new(200);
    let push = |limit: &str| {
        let mut command = rig.bench.push([rig.bench.env.local()]);
        command.args(["--after", "delete", "--retries", "2", "--connections", "16"]);
        Pushed::run(&mut limited(limit, &command))
    };
    for few in [8, 16, 24, 31] {
        let limit = format!("-n {few}");
        push(&limit).expect(2).says(&["error: the program cannot start", "ulimit -n", &few.to_string()]);
        assert_eq!(files(&rig.bench.env.local()), rig.model, "{limit}");
    }
    for open in [32, 34, 40] {
        let limit = format!("-n {open}");
        let pushed = push(&limit);
        eprintln!("{limit}: {:?}\n{}", pushed.finished.code(), pushed.finished.stderr);
        match pushed.finished.code() {
            Some(0) if files(&rig.bench.env.local()).is_empty() => {}
            // What is archived and could not be deleted is no failure; the next run sees to it.
            Some(0) => drop(pushed.says(&["cannot be deleted", "oo many"])),
            Some(1..=3) => {
                let said = format!("{}{}", pushed.finished.stderr, pushed.finished.stdout).to_lowercase();
                assert!(said.contains("too many") || said.contains("ulimit -n"), "{limit}: {said}");
            }
            code => panic!("{limit}: {code:?}\n{}", pushed.finished.stderr),
        }
        rig.assert_nothing_lost(&limit);
        rig.assert_ends_well();
        // The same files again.
        for path in rig.model.keys() {
            std::fs::rename(rig.bench.base.join("in").join(path), rig.bench.env.local().join(path)).unwrap();
        }
    }
}
