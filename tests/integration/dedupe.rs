//! `ledger.dedupe = "content"`: bytes are archived once at a destination, whoever meets them when and under whatever
//! name, and whoever is killed or stopped meanwhile.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::support::env::{Entry, Finished, Running, files, noise, run, wait_until, write};
use crate::support::redis::Redis;
use crate::watch::{Site, Summary, names, stop, watching};

#[cfg(feature = "failpoints")]
#[path = "dedupe_stopped.rs"]
pub mod stopped;

/// A directory of its own for every nanosecond, as if each file had a day of its own.
const FINE: &str = "%s%f";

/// Archivers of one host, with one ledger, each of a directory of its own.
struct Place {
    site: Site,
    redis: Option<Redis>,
    lease: &'static str,
}

impl Place {
    fn sqlite() -> Self {
        Self { site: Site::new(), redis: None, lease: "1m" }
    }

    fn redis() -> Self {
        Self { redis: Some(Redis::start()), ..Self::sqlite() }
    }

    fn write(&self, name: &str, content: &[u8]) {
        write(&self.site.local(), name, content);
    }

    /// So many files below a directory, with so many different contents.
    fn write_all(&self, directory: &str, count: u64, contents: u64) {
        for number in 0..count {
            let content = number % contents;
            self.write(&format!("{directory}/{number}.bin"), &noise(100 + content as usize * 900, content));
        }
    }

    /// A push of these directories that deletes what it archived.
    fn push(&self, directories: &[&str], options: &[&str]) -> Command {
        self.push_with("content", directories, options)
    }

    fn push_with(&self, dedupe: &str, directories: &[&str], options: &[&str]) -> Command {
        let server = &self.site.server;
        let mut command =
            self.site.env.archiver(["push", "--ssh-config", "none", "--summary", "json", "--to", &server.url()]);
        command.arg("--identity").arg(server.client_key()).arg("--known-hosts").arg(server.known_hosts());
        command.args(["--layout", FINE, "--dedupe", dedupe]).args(options);
        if !options.contains(&"--after") {
            command.args(["--after", "delete"]);
        }
        command.args(directories.iter().map(|directory| self.site.local().join(directory)));
        command.env("ARCHIVER_LEDGER__LEASE", self.lease);
        command.env("ARCHIVER_RETRY__INITIAL_BACKOFF", "50ms").env("ARCHIVER_RETRY__MAX_BACKOFF", "300ms");
        if let Some(redis) = &self.redis {
            command.args(["--ledger", &redis.url()]);
        }
        command
    }

    /// Each content stands under one name, temporary ones included, and nothing is left here.
    #[track_caller]
    fn assert_each_content_once(&self, contents: u64) {
        let mut names: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for (path, entry) in files(&self.site.remote()) {
            let Entry::File { sha256, .. } = entry else { unreachable!("only files were asked for") };
            names.entry(sha256).or_default().push(path);
        }
        let several: Vec<_> = names.values().filter(|names| names.len() > 1).collect();
        assert!(several.is_empty(), "{several:?}");
        assert_eq!(names.len() as u64, contents, "{names:?}");
        let hidden = |name: &std::path::PathBuf| name.file_name().unwrap().as_encoded_bytes().starts_with(b".");
        assert!(!names.values().flatten().any(hidden), "{names:?}");
        let left = files(&self.site.local());
        assert!(left.is_empty(), "{left:?}");
    }
}

fn rows<'a>(summary: &'a Summary, status: &'a str) -> Vec<&'a Value> {
    summary.rows(status).collect()
}

#[test]
fn a_second_name_is_skipped_and_told_where_the_first_one_stands() {
    for place in [Place::sqlite(), Place::redis()] {
        place.write("in/a.csv", b"the same");
        place.write("in/b.csv", b"the same");
        place.write("in/c.csv", b"others");
        let finished = run(&mut place.push(&["in"], &[]));
        finished.assert_code(0);
        let summary = Summary::of(&finished);
        assert_eq!((summary.total("archived"), summary.total("skipped")), (2, 1));
        let duplicate = rows(&summary, "skipped")[0];
        let archived = rows(&summary, "archived");
        let first = archived.iter().find(|row| row["sha256"] == duplicate["sha256"]).expect("its first one");
        assert_eq!(duplicate["remote"], first["remote"]);
        assert_eq!(
            duplicate["reason"].as_str().unwrap(),
            format!("same content as {}", first["remote"].as_str().unwrap())
        );
        assert_eq!(duplicate["attempts"], 0);
        place.assert_each_content_once(2);
        // Another day, another source, another name; and it stays here this time.
        place.write("later/d.csv", b"the same");
        let later = ["--after", "keep"];
        let finished = run(&mut place.push(&["later"], &later));
        finished.assert_code(0);
        let summary = Summary::of(&finished);
        assert_eq!(rows(&summary, "skipped")[0]["reason"], duplicate["reason"]);
        // From now on it is on record itself.
        let finished = run(&mut place.push(&["later"], &later));
        let reason = format!("archived before as {}", first["remote"].as_str().unwrap());
        assert_eq!(rows(&Summary::of(&finished), "skipped")[0]["reason"], reason);
        run(&mut place.push(&["later"], &[])).assert_code(0);
        place.assert_each_content_once(2);
    }
}

#[test]
fn what_was_archived_before_anybody_asked_counts() {
    for place in [Place::sqlite(), Place::redis()] {
        place.write_all("before", 6, 6);
        run(&mut place.push_with("off", &["before"], &[])).assert_code(0);
        place.write_all("after", 12, 6);
        let finished = run(&mut place.push(&["after"], &[]));
        finished.assert_code(0);
        assert_eq!(Summary::of(&finished).total("skipped"), 12);
        place.assert_each_content_once(6);
    }
}

fn two_pushes_at_once(place: &Place) -> (Finished, Finished) {
    let running = ["one", "two"].map(|directory| Running::start(&mut place.push(&[directory], &["--jobs", "8"])));
    let [one, two] = running.map(Running::finish);
    (one, two)
}

#[test]
fn two_pushes_at_once_archive_each_content_once() {
    const FILES: u64 = 300;
    const CONTENTS: u64 = 40;
    for place in [Place::sqlite(), Place::redis()] {
        place.write_all("one", FILES, CONTENTS);
        place.write_all("two", FILES, CONTENTS);
        let (one, two) = two_pushes_at_once(&place);
        let summaries = [one.assert_code(0), two.assert_code(0)].map(Summary::of);
        let total = |name| summaries.iter().map(|summary| summary.total(name)).sum::<u64>();
        eprintln!("archived {:?}", summaries.each_ref().map(|summary| summary.total("archived")));
        assert_eq!((total("archived"), total("skipped")), (CONTENTS, 2 * FILES - CONTENTS));
        place.assert_each_content_once(CONTENTS);
    }
}

/// More than there are places for files that wait.
#[test]
fn thousands_of_files_with_one_content_come_to_an_end() {
    const FILES: u64 = 4_000;
    let place = Place::sqlite();
    place.write_all("in", FILES, 1);
    let finished = run(&mut place.push(&["in"], &[]));
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (1, FILES - 1, 0, 0));
    place.assert_each_content_once(1);
}

#[test]
fn watches_archive_what_comes_once() {
    let place = Place::redis();
    let watch = || {
        let mut command = place.site.command(["--dedupe", "content", "--after", "delete", "--layout", FINE]);
        watching(command.args(["--ledger", &place.redis.as_ref().expect("one of its own").url()]))
    };
    let watches = [watch(), watch()];
    for round in 0..4 {
        place.write_all(&format!("{round}"), 30, 10);
    }
    wait_until("all is archived or a duplicate", || names(&place.site.local()).is_empty());
    let finished = watches.map(stop);
    // What one left undone was another one's.
    assert!(finished.iter().all(|finished| matches!(finished.code(), Some(0 | 4))));
    let archived: u64 = finished.iter().map(|finished| Summary::of(finished).total("archived")).sum();
    assert_eq!(archived, 10);
    place.assert_each_content_once(10);
}

#[test]
fn empty_files_and_forced_ones_are_archived_as_ever() {
    let place = Place::sqlite();
    place.write("in/empty", b"");
    place.write("in/empty too", b"");
    place.write("in/full", b"full");
    run(&mut place.push(&["in"], &[])).assert_code(0);
    assert_eq!(files(&place.site.remote()).len(), 3);
    place.write("in/again", b"full");
    let finished = run(&mut place.push(&["in"], &["--force"]));
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).total("archived"), 1);
    assert_eq!(files(&place.site.remote()).len(), 4);
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let place = Place::sqlite();
    place.write("in/a", b"a");
    for (option, why) in [("--publish", "direct"), ("--on-conflict", "overwrite")] {
        let finished = run(&mut place.push(&["in"], &[option, why]));
        finished.assert_code(2);
        let said = &finished.stderr;
        assert!(said.contains("--dedupe: ") && said.contains(why), "{said}");
    }
}

#[test]
fn an_audit_looks_for_each_name_once_and_misses_no_duplicate() {
    let place = Place::sqlite();
    place.write_all("in", 12, 3);
    run(&mut place.push(&["in"], &[])).assert_code(0);
    let audit = |code: i32| {
        let server = &place.site.server;
        let mut asked =
            place.site.env.archiver(["verify", "--ssh-config", "none", "--format", "json", "--to", &server.url()]);
        asked.arg("--identity").arg(server.client_key()).arg("--known-hosts").arg(server.known_hosts());
        let finished = run(&mut asked);
        finished.assert_code(code);
        let told: Value = serde_json::from_str(&finished.stdout).unwrap();
        told["destinations"][0]["findings"].as_array().unwrap().len()
    };
    assert_eq!(audit(0), 0);
    // One that is gone is missing once, whatever the number of files that stand under its name.
    let gone = files(&place.site.remote()).into_keys().next().unwrap();
    std::fs::remove_file(place.site.remote().join(gone)).unwrap();
    assert_eq!(audit(1), 1);
}
