//! The time of day jumps under a running `archiver watch`, forward and back, by libfaketime: dates stay with their files,
//! and what counts seconds does not notice.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use archiver::embedded::{Fault, Operation, Request};

use super::watch::{Lister, Site, Summary, embedded_command, names, stop, watching};
use crate::support::embedded::Embedded;
use crate::support::env::{Running, TestEnv, files, noise, pause, wait_until, write};

/// The clock of the commands that were given it.
struct Clock(PathBuf);

impl Clock {
    /// `None` where there is no libfaketime, which it says.
    fn for_commands<'a>(env: &TestEnv, commands: impl IntoIterator<Item = &'a mut Command>) -> Option<Self> {
        let Some(library) = library() else {
            eprintln!("SKIPPED: there is no libfaketime; scripts/test installs it");
            return None;
        };
        let clock = Self(env.path().join("clock"));
        clock.set("+0");
        for command in commands {
            command.env("LD_PRELOAD", &library).env("FAKETIME_TIMESTAMP_FILE", &clock.0).env("FAKETIME_NO_CACHE", "1");
            // The kernel keeps the times of files, and the monotonic clock never jumps.
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
        }
        Some(clock)
    }

    /// `+1d`: from now on, so much beside the true time.
    fn set(&self, offset: &str) {
        let new = self.0.with_extension("new");
        std::fs::write(&new, offset).unwrap();
        std::fs::rename(new, &self.0).unwrap();
    }
}

/// Where distributions put it.
fn library() -> Option<PathBuf> {
    let below = ["/usr/lib", "/usr/lib64"].into_iter().flat_map(|lib| {
        let inner = std::fs::read_dir(lib).into_iter().flatten().flatten().map(|entry| entry.path());
        std::iter::once(PathBuf::from(lib)).chain(inner).collect::<Vec<_>>()
    });
    below.map(|lib| lib.join("faketime/libfaketimeMT.so.1")).find(|library| library.exists())
}

/// The date directory of an archived file.
fn date_of(site: &Site, name: &str) -> String {
    let found = names(&site.remote()).into_keys().find(|path| path.ends_with(name)).unwrap();
    let date: PathBuf = found.strip_prefix(site.remote()).unwrap().components().take(3).collect();
    date.display().to_string()
}

#[test]
fn a_file_keeps_the_date_of_its_claim_whatever_the_clock_says_later() {
    let mut site = Site::new();
    let mut command = site.command(["--after", "delete"]);
    let Some(clock) = Clock::for_commands(&site.env, [&mut command]) else { return };
    let mut running = watching(&mut command);
    write(&site.local(), "first.csv", "first");
    site.wait_for(1);
    site.server.kill();
    write(&site.local(), "claimed.csv", "claimed today, sent tomorrow");
    running.expect_line("is out");
    clock.set("+1d");
    site.server.restart();
    site.wait_for(2);
    write(&site.local(), "tomorrow.csv", "tomorrow");
    site.wait_for(3);
    clock.set("-1d");
    write(&site.local(), "yesterday.csv", "yesterday");
    site.wait_for(4);
    clock.set("+0");
    write(&site.local(), "again.csv", "today again");
    site.wait_for(5);
    wait_until("all are deleted", || names(&site.local()).is_empty());
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (5, 0, 0, 0));
    let dates =
        ["yesterday.csv", "first.csv", "claimed.csv", "again.csv", "tomorrow.csv"].map(|name| date_of(&site, name));
    eprintln!("{dates:?}");
    assert!(dates[0] < dates[1] && dates[3] < dates[4], "{dates:?}");
    assert_eq!(dates[1], dates[2], "the date moved");
}

/// Quiet time is counted by a clock that never jumps: neither does a jump forward finish a file, nor one back hold it.
#[test]
fn settling_does_not_notice_a_jump() {
    let site = Site::new();
    let mut command = site.command(["--settle", "1s"]);
    let Some(clock) = Clock::for_commands(&site.env, [&mut command]) else { return };
    let running = watching(&mut command);
    let lister = Lister::start(site.remote());
    let path = site.local().join("lines.log");
    for (line, offset) in ["+0", "+1d", "+1d", "-1d", "-1d", "+400d", "+0", "+0"].iter().enumerate() {
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        writeln!(file, "line {line}").unwrap();
        drop(file);
        clock.set(offset);
        pause(Duration::from_millis(250));
    }
    clock.set("-1d");
    site.wait_for(1);
    stop(running).assert_code(0);
    let sizes: Vec<_> = lister.finish().into_values().collect();
    assert_eq!(sizes, [vec![8 * 7]], "it was archived before it was finished");
}

/// An application that holds its log open for an hour and writes a line every three minutes. What is simulated is the hour:
/// the time of day jumps by three minutes between two lines. In each of these pauses the file is quiet for longer than the
/// settle time by a clock that does not jump, for another file that came later is finished and archived meanwhile.
fn a_writer_of_an_hour(arguments: &[&str]) {
    const LINES: usize = 20;
    let site = Site::new();
    let all = ["--after", "delete"].iter().chain(arguments).copied();
    let mut command = site.command(all);
    let Some(clock) = Clock::for_commands(&site.env, [&mut command]) else { return };
    let running = watching(&mut command);
    let lister = Lister::start(site.remote());
    let is_log = |path: &PathBuf| path.ends_with("long.log");
    let path = site.local().join("long.log");
    let mut file = OpenOptions::new().create_new(true).append(true).open(&path).unwrap();
    let mut wanted = String::new();
    for line in 0..LINES {
        let text = format!("line {line}\n");
        file.write_all(text.as_bytes()).unwrap();
        wanted.push_str(&text);
        clock.set(&format!("+{}", line * 180));
        // Two, one after the other: the second one's settling began when the first one's was over.
        for half in 0..2 {
            write(&site.local(), format!("{line}-{half}.csv"), "another file");
            site.wait_for(2 * line + half + 1);
        }
        assert!(
            path.exists() && !names(&site.remote()).keys().any(is_log),
            "taken from under its writer at line {line}"
        );
    }
    drop(file);
    site.wait_for(2 * LINES + 1);
    wait_until("all are deleted", || names(&site.local()).is_empty());
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (2 * LINES as u64 + 1, 0, 0, 0));
    let logs: Vec<_> = names(&site.remote()).into_keys().filter(is_log).collect();
    assert_eq!(logs.len(), 1, "{logs:?}");
    assert_eq!(std::fs::read_to_string(&logs[0]).unwrap(), wanted);
    let seen: Vec<_> = lister.finish().into_iter().filter(|(path, _)| is_log(path)).map(|(_, sizes)| sizes).collect();
    assert_eq!(seen, [vec![wanted.len() as u64]], "a part of it was shown");
}

#[test]
fn a_file_that_is_open_for_an_hour_waits_for_its_writer() {
    a_writer_of_an_hour(&[]);
}

#[test]
fn a_file_that_is_open_for_an_hour_waits_for_its_writer_without_settling() {
    a_writer_of_an_hour(&["--settle", "0s"]);
}

#[test]
fn a_file_that_is_open_for_an_hour_waits_for_its_writer_when_polled() {
    a_writer_of_an_hour(&["--watcher", "poll", "--scan-interval", "200ms"]);
}

/// Two watchers with one ledger: a jump makes each believe for a moment that the other's lease is over.
#[test]
fn leases_survive_jumps_and_each_file_goes_once() {
    let site = Site::new();
    let model = TestEnv::new();
    let mut commands: [Command; 2] =
        std::array::from_fn(|_| site.command(["--after", "delete", "--scan-interval", "500ms", "--layout", "%Y"]));
    let Some(clock) = Clock::for_commands(&site.env, &mut commands) else { return };
    let watchers: [Running; 2] = commands.each_mut().map(watching);
    for number in 0..300 {
        for root in [model.local(), site.local()] {
            write(&root, format!("{}/{number}.csv", number % 9), noise(number * 30, number as u64));
        }
        if number % 30 == 29 {
            clock.set(["+2h", "-2h", "+0", "+1d", "-1d"][number / 30 % 5]);
            site.wait_for(number / 2);
        }
    }
    site.wait_for(300);
    wait_until("all are deleted", || names(&site.local()).is_empty());
    let archived: u64 = watchers
        .map(|running| {
            let summary = Summary::of(&stop(running));
            assert_eq!(summary.total("failed"), 0);
            summary.total("archived")
        })
        .iter()
        .sum();
    let below_year = |path: PathBuf| path.components().skip(1).collect::<PathBuf>();
    let stands: Vec<_> = files(&site.remote()).into_iter().map(|(path, entry)| (below_year(path), entry)).collect();
    eprintln!("{} files, {archived} rows say archived", stands.len());
    assert_eq!(stands.len(), 300, "a file went twice, or left something behind");
    assert_eq!(stands.into_iter().collect::<std::collections::BTreeMap<_, _>>(), files(&model.local()));
}

/// What this run recorded counts as recorded by this run, also where the clock went back before its start.
#[test]
fn force_archives_once_when_the_clock_goes_back() {
    let env = TestEnv::new();
    let uploads = Arc::new(AtomicUsize::new(0));
    let counter = uploads.clone();
    let server = Embedded::with_faults(&env, move |request: &Request| {
        counter.fetch_add(usize::from(request.operation == Operation::Write), Ordering::SeqCst);
        Fault::None
    });
    let mut command = embedded_command(&env, &server, ["--force", "--scan-interval", "200ms", "-vv"]);
    let Some(clock) = Clock::for_commands(&env, [&mut command]) else { return };
    let mut running = watching(&mut command);
    clock.set("-1d");
    write(&env.local(), "a.csv", "a");
    wait_until("it is archived", || names(&env.remote()).len() == 1);
    for _ in 0..6 {
        running.expect_line("scanning");
    }
    stop(running).assert_code(0);
    assert_eq!((uploads.load(Ordering::SeqCst), names(&env.remote()).len()), (1, 1));
}
