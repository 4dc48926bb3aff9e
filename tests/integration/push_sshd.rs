//! What OpenSSH's own server does to its clients: too many connections, idleness, new keys, full disks, permissions.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use archiver::embedded::{AnnouncedExtensions, Fault, Operation, Quirks, RenamePolicy, Request};

use super::{Bench, Pushed, is_part, many_bytes};
use crate::support::embedded::Embedded;
use crate::support::env::{Entry, Running, TestEnv, files, noise, wait_until, write};
use crate::support::openssh::OpenSsh;

#[test]
fn a_server_that_has_room_for_one_login_at_a_time_gets_all_files() {
    let server = OpenSsh::builder().option("MaxStartups 1").option("MaxSessions 1").start();
    let bench = Bench::openssh(&server);
    for number in 0..300 {
        write(&bench.env.local(), number.to_string(), noise(9_000, number));
    }
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(["--connections", "6", "--retries", "2"])).expect(0);
    pushed.assert_counts([300, 0, 0, 0]);
    bench.assert_same_files();
}

#[test]
fn while_somebody_else_takes_the_only_login_it_waits() {
    let server = OpenSsh::builder().option("MaxStartups 1").start();
    let bench = Bench::openssh(&server);
    write(&bench.env.local(), "a", "a");
    let stranger = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    server.wait_for_log("Connection from");
    let mut command = bench.push([bench.env.local()]);
    let mut running = Running::start(command.args(["--retries", "1000"]));
    let line = running.expect_line("is out");
    // Before 9.0 it closes without a word.
    let meant =
        ["too many connections that are logging in (MaxStartups)", "closed the connection before it introduced"];
    assert!(meant.iter().any(|meant| line.contains(meant)), "{line}");
    drop(stranger);
    Pushed::of(running.finish()).expect(0).assert_counts([1, 0, 0, 0]);
}

#[test]
fn a_server_without_sessions_is_named_with_its_setting() {
    let server = OpenSsh::builder().option("MaxSessions 0").start();
    let bench = Bench::openssh(&server);
    write(&bench.env.local(), "a", "a");
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(["--retries", "3", "--after", "delete"])).expect(3);
    pushed.says(&["MaxSessions"]).assert_counts([0, 0, 0, 1]);
    assert!(bench.env.local().join("a").exists());
    let logins = server.log().matches("Accepted publickey").count();
    assert!((1..=4).contains(&logins), "{logins} logins");
}

#[test]
fn keys_are_exchanged_anew_in_the_middle_of_a_file() {
    let server = OpenSsh::builder().option("RekeyLimit 256K").option("LogLevel DEBUG1").start();
    let bench = Bench::openssh(&server);
    write(&bench.env.local(), "large", many_bytes(20));
    let options = ["--verify", "readback", "--retries", "1", "--after", "delete"];
    let wanted = files(&bench.env.local());
    Pushed::run(bench.push([bench.env.local()]).args(options)).expect(0);
    assert_eq!(bench.archived(), wanted);
    let exchanges = server.log().matches("SSH2_MSG_NEWKEYS received").count();
    println!("{exchanges} key exchanges");
    assert!(exchanges > 20, "{exchanges} key exchanges");

    let env = TestEnv::new();
    let server = Embedded::with_quirks(&env, Quirks { rekey_bytes: Some(256 << 10), ..Quirks::default() });
    let bench = Bench::embedded(env, &server);
    write(&bench.env.local(), "large", many_bytes(20));
    Pushed::run(bench.push([bench.env.local()]).args(options)).expect(0);
    assert_eq!(bench.archived(), wanted);
}

/// The session is closed by the server whenever nothing happens for a second.
#[test]
fn a_session_that_was_closed_for_idleness_is_made_again() {
    let server = OpenSsh::builder().option("ChannelTimeout *=1s").option("LogLevel DEBUG2").start();
    let bench = Bench::openssh(&server);
    let mut command = bench.env.archiver(["watch", "--settle", "0s", "--layout", "in", "--to", bench.to()]);
    command.args(&bench.login).arg(bench.env.local()).arg("--ledger").arg(bench.ledger());
    let running = Running::start(&mut command);
    for round in 0..2 {
        write(&bench.env.local(), round.to_string(), noise(100, round));
        wait_until("it is archived", || bench.archived().len() as u64 == round + 1);
        let closed = || server.log().matches("seconds of inactivity").count() as u64 > round;
        wait_until("the server closes the session", closed);
    }
    write(&bench.env.local(), "last", "last");
    wait_until("the last one is archived", || bench.base.join("in/last").exists());
    drop(running);
    bench.assert_same_files();
}

#[test]
fn a_disk_that_is_really_full_holds_the_work_until_there_is_room() {
    let Some(builder) = OpenSsh::builder().on_small_disk("1m") else { return };
    let server = builder.start();
    let bench = Bench::openssh(&server);
    let filler = write(&bench.base, "filler", vec![7; 990 << 10]);
    for number in 0..6 {
        write(&bench.env.local(), number.to_string(), noise(60_000, number));
    }
    let wanted = files(&bench.env.local());
    let ended = Pushed::run(bench.push([bench.env.local()]).args(["--after", "delete", "--retries", "3"])).expect(3);
    ended.says(&["no space left", "make room on the server"]);
    assert_eq!(bench.archived().len() + files(&bench.env.local()).len(), 6);
    bench.assert_no_part();
    let mut command = bench.push([bench.env.local()]);
    let mut running = Running::start(command.args(["--after", "delete", "--retries", "100000"]));
    running.expect_line("is out");
    fs::remove_file(filler).unwrap();
    Pushed::of(running.finish()).expect(0);
    assert_eq!(bench.archived(), wanted);
    bench.assert_no_part();
}

#[test]
fn a_permission_that_is_taken_away_fails_each_file_and_given_back_lets_all_through() {
    let Some(builder) = OpenSsh::builder().chrooted() else { return };
    let server = builder.start();
    let bench = Bench::openssh(&server);
    let push = || Pushed::run(bench.push([bench.env.local()]).args(["--after", "delete", "--retries", "3"]));
    write(&bench.env.local(), "first", "first");
    push().expect(0);
    let mode = |mode| fs::set_permissions(bench.base.join("in"), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o555);
    for number in 0..5 {
        write(&bench.env.local(), number.to_string(), noise(100, number));
    }
    let refused = push().expect(1);
    refused.assert_counts([0, 0, 0, 5]);
    for number in 0..5 {
        assert!(refused.reason(&format!("/{number}")).contains("permission denied"), "{}", refused.finished.stdout);
        assert_eq!(refused.row(&format!("/{number}"))["attempts"], 1);
    }
    assert_eq!(files(&bench.env.local()).len(), 5);
    mode(0o755);
    push().expect(0).assert_counts([5, 0, 0, 0]);
    assert_eq!(bench.archived().len(), 6);
    bench.assert_no_part();
}

#[test]
fn a_server_that_renames_over_files_replaces_none() {
    for extensions in [AnnouncedExtensions::All, AnnouncedExtensions::WithoutLimits, AnnouncedExtensions::None] {
        let env = TestEnv::new();
        let quirks = Quirks { rename: RenamePolicy::Overwrites, extensions, ..Quirks::default() };
        let server = Embedded::with_quirks(&env, quirks);
        let bench = Bench::embedded(env, &server);
        write(&bench.base, "in/report.csv", "theirs");
        write(&bench.env.local(), "report.csv", "ours");
        bench.push_local().assert_counts([1, 0, 0, 0]);
        assert_eq!(fs::read(bench.base.join("in/report.csv")).unwrap(), b"theirs");
        assert_eq!(bench.archived().len(), 2, "{extensions:?}");
    }
}

/// Takes every final name away as soon as it appears, as the next program in a chain does.
struct Mover {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Mover {
    fn start(from: &Path, to: &Path) -> Self {
        let (from, to, stop) = (from.join("in"), to.to_owned(), Arc::<AtomicBool>::default());
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut moved = 0;
            loop {
                let last = stopped.load(Ordering::SeqCst);
                for entry in fs::read_dir(&from).into_iter().flatten().flatten() {
                    if !is_part(&entry.path()) {
                        // A file that comes again is the same one.
                        fs::rename(entry.path(), to.join(entry.file_name())).unwrap();
                        moved += 1;
                    }
                }
                if last {
                    return moved;
                }
                std::thread::yield_now();
            }
        });
        Self { stop, thread: Some(thread) }
    }

    fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// Fills a bench, pushes while a mover works, and gives what it moved, and how often.
fn push_and_move(bench: &Bench, after: &str) -> (BTreeMap<std::path::PathBuf, Entry>, u64) {
    let elsewhere = bench.base.parent().unwrap().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for number in 0..150 {
        write(&bench.env.local(), number.to_string(), noise(4_000, number));
    }
    write(&bench.env.local(), "large", noise(2 << 20, 999));
    let wanted = files(&bench.env.local());
    let mover = Mover::start(&bench.base, &elsewhere);
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(["--after", after, "--verify", "readback"]));
    let moved = mover.finish();
    pushed.expect(0).assert_counts([151, 0, 0, 0]);
    assert_eq!(files(&bench.env.local()).len(), if after == "keep" { 151 } else { 0 });
    assert_eq!(files(&elsewhere), wanted);
    bench.assert_no_part();
    (wanted, moved)
}

#[test]
fn files_that_are_moved_away_as_soon_as_they_appear_are_archived_once() {
    for after in ["keep", "delete"] {
        let (bench, _server) = Bench::plain();
        assert_eq!(push_and_move(&bench, after).1, 151);
        let env = TestEnv::new();
        let server = Embedded::start(&env);
        assert_eq!(push_and_move(&Bench::embedded(env, &server), after).1, 151);
    }
}

/// A commit whose reply was lost, and whose file is gone from both names: nobody can tell it from one that did not
/// happen, so the file is sent again rather than lost.
#[test]
fn a_file_that_was_moved_away_before_its_commit_was_known_is_sent_again_rather_than_lost() {
    let env = TestEnv::new();
    let commits = std::sync::atomic::AtomicUsize::new(0);
    let server = Embedded::with_faults(&env, move |request: &Request| {
        match request.operation == Operation::Hardlink && commits.fetch_add(1, Ordering::SeqCst) % 50 == 10 {
            true => Fault::DropAfter,
            false => Fault::None,
        }
    });
    let (_, moved) = push_and_move(&Bench::embedded(env, &server), "delete");
    println!("{moved} moved");
    assert!((151..=400).contains(&moved), "{moved}");
}
