//! Told to stop in the middle, by signals sent at a chosen request, and several at once on one tree.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use archiver::embedded::{Fault, Faults, Operation, Request};
use rustix::process::Signal;
use tokio::sync::Notify;

use super::{Bench, Pushed, is_part};
use crate::support::embedded::Embedded;
use crate::support::env::{DEADLINE, Running, TestEnv, files, noise, write};

/// What makes a final name appear: a rename, or a hard link where a server's renames are not known to refuse.
pub fn is_commit(request: &Request) -> bool {
    matches!(request.operation, Operation::Rename | Operation::Hardlink) && !is_question(request)
}

/// The question whether the server makes hard links at all: one that cannot be made.
pub fn is_question(request: &Request) -> bool {
    request.operation == Operation::Hardlink && request.path == request.target
}

/// The test's end of a [`gate`].
pub struct Gate {
    reached: Mutex<Receiver<()>>,
    release: Arc<Notify>,
}

impl Gate {
    /// Until the request is there.
    #[track_caller]
    pub fn wait(&self) {
        self.reached.lock().unwrap().recv_timeout(DEADLINE).expect("the request never came");
    }

    /// Lets it be carried out.
    pub fn open(&self) {
        self.release.notify_one();
    }
}

/// Holds the `nth` request (from 1) for which this is true.
pub fn gate(nth: usize, matches: impl Fn(&Request) -> bool + Send + Sync + 'static) -> (impl Faults, Gate) {
    let (send, reached) = channel();
    let release = Arc::new(Notify::new());
    let gate = Gate { reached: Mutex::new(reached), release: release.clone() };
    let seen = AtomicUsize::new(0);
    let faults = move |request: &Request| {
        if matches(request) && seen.fetch_add(1, Ordering::SeqCst) + 1 == nth {
            // The test may be over.
            let _ = send.send(());
            return Fault::Hold(release.clone());
        }
        Fault::None
    };
    (faults, gate)
}

/// `count` files, and a server that holds the tenth rename.
fn held_in_the_middle(count: u64) -> (Bench, Embedded, Gate) {
    let env = TestEnv::new();
    let (faults, gate) = gate(10, is_commit);
    let server = Embedded::with_faults(&env, faults);
    let bench = Bench::embedded(env, &server);
    for number in 0..count {
        write(&bench.env.local(), format!("{}/{number}", number % 5), noise(2000, number));
    }
    (bench, server, gate)
}

/// Few at a time, so that the middle is the middle.
const SLOWLY: [&str; 7] = ["--connections", "1", "--jobs", "8", "--fsync", "never", "-v"];

/// Everything ends under one name, and nothing else is there.
#[track_caller]
fn finish_and_compare(
    bench: &Bench,
    wanted: &std::collections::BTreeMap<std::path::PathBuf, crate::support::env::Entry>,
) {
    Pushed::run(bench.push([bench.env.local()]).args(["--after", "delete", "--fsync", "never"])).expect(0);
    assert_eq!(&bench.archived(), wanted);
    assert!(files(&bench.env.local()).is_empty());
    bench.assert_no_part();
}

#[test]
fn an_interrupt_finishes_what_is_under_way_and_says_that_work_is_left() {
    for signal in [Signal::INT, Signal::TERM] {
        let (bench, _server, gate) = held_in_the_middle(700);
        let wanted = files(&bench.env.local());
        let mut command = bench.push([bench.env.local()]);
        let mut running = Running::start(command.args(SLOWLY).args(["--after", "delete"]));
        gate.wait();
        running.signal(signal);
        running.expect_line("finishing what is under way");
        gate.open();
        let pushed = Pushed::of(running.finish()).expect(4);
        let [archived, skipped, _, failed] = pushed.counts();
        assert_eq!((skipped, failed), (0, 0), "{}", pushed.finished.stdout);
        assert!((10..700).contains(&archived), "{archived} archived");
        bench.assert_no_part();
        let stands = bench.archived();
        assert_eq!(stands.len() as u64, archived);
        assert!(stands.iter().all(|(path, entry)| wanted[path] == *entry));
        finish_and_compare(&bench, &wanted);
    }
}

#[test]
fn a_grace_that_is_over_leaves_the_rest_for_the_next_run() {
    let (bench, _server, gate) = held_in_the_middle(100);
    let wanted = files(&bench.env.local());
    let mut command = bench.push([bench.env.local()]);
    command.args(SLOWLY).env("ARCHIVER_SHUTDOWN__GRACE", "50ms").env("ARCHIVER_POOL__REQUEST_TIMEOUT", "60s");
    let mut running = Running::start(&mut command);
    gate.wait();
    running.signal(Signal::TERM);
    running.expect_line("the grace is over");
    let pushed = Pushed::of(running.finish()).expect(4);
    assert!(pushed.counts()[2] > 0, "{}", pushed.finished.stdout);
    gate.open();
    finish_and_compare(&bench, &wanted);
}

#[test]
fn a_second_interrupt_stops_at_once() {
    let (bench, _server, gate) = held_in_the_middle(100);
    let wanted = files(&bench.env.local());
    let mut command = bench.push([bench.env.local()]);
    command.args(SLOWLY).env("ARCHIVER_POOL__REQUEST_TIMEOUT", "60s");
    let mut running = Running::start(&mut command);
    gate.wait();
    running.signal(Signal::INT);
    running.expect_line("interrupt again");
    running.signal(Signal::INT);
    Pushed::of(running.finish()).expect(130);
    let stands = bench.archived();
    let whole = stands.iter().filter(|(path, _)| !is_part(path));
    assert!(whole.clone().count() >= 8);
    assert!(whole.into_iter().all(|(path, entry)| wanted[path] == *entry));
    gate.open();
    finish_and_compare(&bench, &wanted);
}

#[test]
fn an_interrupt_while_the_destination_is_out_ends_soon() {
    let env = TestEnv::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let base = env.remote();
    let bench = Bench::of(env, format!("sftp://u@{closed}/x"), base);
    for number in 0..10 {
        write(&bench.env.local(), number.to_string(), "x");
    }
    let mut command = bench.push([bench.env.local()]);
    command.args(["--retries", "1000", "-v"]).env("ARCHIVER_SHUTDOWN__GRACE", "50ms");
    command.env("ARCHIVER_RETRY__MAX_BACKOFF", "60s");
    let mut running = Running::start(&mut command);
    running.expect_line("refused");
    running.signal(Signal::INT);
    Pushed::of(running.finish()).expect(4).assert_counts([0, 0, 10, 0]);
}

#[test]
fn two_at_once_on_one_tree_send_each_file_once() {
    let env = TestEnv::new();
    let renames = Arc::new(AtomicUsize::new(0));
    let counter = renames.clone();
    let server = Embedded::with_faults(&env, move |request: &Request| {
        counter.fetch_add(usize::from(is_commit(request)), Ordering::SeqCst);
        Fault::None
    });
    let bench = Bench::embedded(env, &server);
    for number in 0..400 {
        write(&bench.env.local(), format!("{}/{number}", number % 9), noise(3000, number));
    }
    let both = [(); 3].map(|()| Running::start(&mut bench.push([bench.env.local()])));
    let both = both.map(|running| Pushed::of(running.finish()).expect(0));
    let archived: u64 = both.iter().map(|pushed| pushed.counts()[0]).sum();
    assert_eq!(archived, 400, "{:?}", both.each_ref().map(Pushed::counts));
    assert!(both.iter().all(|pushed| pushed.rows().len() == 400));
    assert_eq!(renames.load(Ordering::SeqCst), 400);
    bench.assert_same_files();
    bench.assert_no_part();
}

#[test]
fn two_at_once_that_delete_lose_nothing() {
    let (bench, _server) = Bench::plain();
    for number in 0..300 {
        write(&bench.env.local(), format!("{}/{number}", number % 9), noise(3000, number));
    }
    let wanted = files(&bench.env.local());
    let both = [(); 2].map(|()| Running::start(bench.push([bench.env.local()]).args(["--after", "delete"])));
    let both = both.map(|running| Pushed::of(running.finish()).expect(0));
    let archived: u64 = both.iter().map(|pushed| pushed.counts()[0]).sum();
    assert_eq!(archived, 300, "{:?}", both.each_ref().map(Pushed::counts));
    assert_eq!(bench.archived(), wanted);
    assert!(files(&bench.env.local()).is_empty());
    bench.assert_no_part();
}
