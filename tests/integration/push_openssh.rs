//! OpenSSH's own server, watched, killed around, frozen: the same promises where nothing is made to order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

use super::{Bench, Pushed, is_part, many_bytes};
use crate::support::env::{DEADLINE, Entry, Running, TestEnv, files, noise, wait_until, write};
use crate::support::openssh::OpenSsh;

/// Final names that stand now, with their bytes; a file that goes away while it is looked at is left out.
fn finals(bench: &Bench) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![bench.base.clone()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                todo.push(path);
            } else if !is_part(&path)
                && let Ok(bytes) = std::fs::read(&path)
            {
                found.insert(path.strip_prefix(bench.base.join("in")).unwrap().to_owned(), bytes);
            }
        }
    }
    found
}

#[test]
fn killed_again_and_again_no_reader_ever_sees_a_part() {
    let (bench, _server) = Bench::plain();
    for number in 0..300 {
        write(&bench.env.local(), format!("{}/{number}", number % 7), noise(2000 + 100 * number as usize, number));
    }
    for number in 0..4 {
        write(&bench.env.local(), format!("large/{number}"), noise(4 << 20, 1000 + number));
    }
    write(&bench.base, "in/.theirs.0123456789ab-7.part", "somebody else's");
    let wanted = files(&bench.env.local());
    let content: BTreeMap<_, _> =
        wanted.keys().map(|path| (path.clone(), std::fs::read(bench.env.local().join(path)).unwrap())).collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0;
            while !over.load(Ordering::SeqCst) {
                for (path, bytes) in finals(&bench) {
                    assert!(content[&path] == bytes, "{path:?} showed {} bytes", bytes.len());
                }
                looks += 1;
            }
            looks
        });
        for _ in 0..6 {
            let before = files(&bench.base).len();
            let mut command = bench.push([bench.env.local()]);
            command.args(["--after", "delete", "--connections", "2", "--jobs", "8"]);
            let running = Running::start(&mut command);
            wait_until("some files arrived", || files_now(&bench) >= before + 20);
            running.signal(Signal::KILL);
            running.finish();
        }
        Pushed::run(bench.push([bench.env.local()]).args(["--after", "delete"])).expect(0);
        over.store(true, Ordering::SeqCst);
        assert!(reader.join().unwrap() > 0);
    });
    let mut stands = bench.archived();
    let theirs = stands.remove(&PathBuf::from(".theirs.0123456789ab-7.part"));
    assert!(matches!(theirs, Some(Entry::File { bytes: 15, .. })), "what is not ours stays");
    assert_eq!(stands, wanted);
    assert!(files(&bench.env.local()).is_empty());
}

/// How many files there are, temporary ones included.
fn files_now(bench: &Bench) -> usize {
    let mut count = 0;
    let mut todo = vec![bench.base.clone()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => todo.push(entry.path()),
                _ => count += 1,
            }
        }
    }
    count
}

#[test]
fn a_server_that_hangs_is_noticed_and_used_again_when_it_answers() {
    let server = OpenSsh::plain();
    let bench = Bench::openssh(&server);
    write(&bench.env.local(), "large", many_bytes(24));
    let mut command = bench.push([bench.env.local()]);
    command.args(["--limit-rate", "12MiB", "--retries", "1000", "-v"]);
    command.env("ARCHIVER_POOL__REQUEST_TIMEOUT", "500ms").env("ARCHIVER_POOL__CONNECT_TIMEOUT", "500ms");
    let mut running = Running::start(&mut command);
    wait_until("something is being uploaded", || files_now(&bench) > 0);
    server.freeze();
    running.expect_line("no answer from the server for 500ms");
    server.thaw();
    Pushed::of(running.finish()).expect(0).assert_counts([1, 0, 0, 0]);
    bench.assert_same_files();
    bench.assert_no_part();
}

#[test]
fn two_machines_with_one_tree_and_two_ledgers_make_one_copy_of_each_file() {
    let (bench, _server) = Bench::plain();
    for number in 0..200 {
        write(&bench.env.local(), format!("{}/{number}", number % 5), noise(3000, number));
    }
    let other = bench.env.home().join("other.db");
    let here = Running::start(&mut bench.push([bench.env.local()]));
    let there = Running::start(bench.push([bench.env.local()]).env("ARCHIVER_LEDGER", &other));
    for running in [here, there] {
        Pushed::of(running.finish()).expect(0).assert_counts([200, 0, 0, 0]);
    }
    bench.assert_same_files();
    bench.assert_no_part();
}

#[test]
fn a_directory_that_the_server_loses_in_the_middle_is_made_again() {
    let (bench, _server) = Bench::plain();
    for number in 0..400 {
        write(&bench.env.local(), format!("d/{number}"), noise(3000, number));
    }
    let mut command = bench.push([bench.env.local()]);
    let running = Running::start(command.args(["--connections", "1", "--jobs", "4", "--limit-rate", "1MiB"]));
    wait_until("some files arrived", || files_now(&bench) > 20);
    let aside = bench.env.path().join("aside");
    std::fs::rename(bench.base.join("in/d"), &aside).unwrap();
    let pushed = Pushed::of(running.finish()).expect(0);
    pushed.assert_counts([400, 0, 0, 0]);
    let mut stands = files(&bench.base.join("in/d"));
    stands.extend(files(&aside).into_iter().filter(|(path, _)| !is_part(path)));
    assert_eq!(stands, files(&bench.env.local().join("d")));
}

#[test]
fn nobody_waits_for_ever_for_a_server_that_never_logs_anyone_in() {
    let server = OpenSsh::plain();
    let bench = Bench::openssh_in(TestEnv::new(), &server);
    write(&bench.env.local(), "a", "a");
    server.freeze();
    let mut command = bench.push([bench.env.local()]);
    command.args(["--retries", "3"]).env("ARCHIVER_POOL__CONNECT_TIMEOUT", "200ms");
    let begin = std::time::Instant::now();
    Pushed::run(&mut command).expect(3).assert_counts([0, 0, 0, 1]);
    assert!(begin.elapsed() < DEADLINE / 2);
}
