//! Files that change at a chosen moment of their upload: nothing partial, mixed or outdated is published (G1, G6), and
//! no version is lost (G2).

use std::fs;
use std::io::Write;
use std::path::Path;

use archiver::embedded::{Operation, Request};

use super::stop::{Gate, gate, is_commit};
use super::{Bench, Pushed};
use crate::support::embedded::Embedded;
use crate::support::env::{Running, TestEnv, files, noise, write};

/// Larger than all that is read ahead.
const LARGE: usize = 12 << 20;
const SMALL: usize = 50_000;

type Change = fn(&Path);

fn grow(path: &Path) {
    fs::File::options().append(true).open(path).unwrap().write_all(b"more").unwrap();
}

fn shrink(path: &Path) {
    fs::File::options().write(true).open(path).unwrap().set_len(1000).unwrap();
}

/// Other bytes, as many of them.
fn rewrite(path: &Path) {
    let len = fs::metadata(path).unwrap().len() as usize;
    fs::write(path, noise(len, 77)).unwrap();
}

fn replace(path: &Path) {
    let len = fs::metadata(path).unwrap().len() as usize;
    let other = path.with_file_name(".new");
    fs::write(&other, noise(len, 78)).unwrap();
    fs::rename(other, path).unwrap();
}

fn vanish(path: &Path) {
    fs::remove_file(path).unwrap();
}

fn a_link(path: &Path) {
    fs::remove_file(path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
}

/// Pushes one file of this size, changes it while the first such request is held, and gives the outcome.
fn change_at(operation: Operation, size: usize, change: Change) -> (Bench, Embedded, Pushed) {
    let env = TestEnv::new();
    let (faults, held): (_, Gate) = gate(1, move |request: &Request| request.operation == operation);
    let server = Embedded::with_faults(&env, faults);
    let bench = Bench::embedded(env, &server);
    let path = write(&bench.env.local(), "victim", noise(size, 1));
    write(&bench.env.local(), "bystander", "b");
    let mut command = bench.push([path.clone(), bench.env.local().join("bystander")]);
    let running = Running::start(command.args(["--after", "delete"]));
    held.wait();
    change(&path);
    held.open();
    let pushed = Pushed::of(running.finish());
    (bench, server, pushed)
}

#[test]
fn a_version_that_changed_while_it_was_sent_is_deferred_and_the_next_one_is_archived() {
    let changes: [(&str, Change); 4] = [("grow", grow), ("shrink", shrink), ("rewrite", rewrite), ("replace", replace)];
    std::thread::scope(|scope| {
        for (name, change) in changes {
            for size in [SMALL, LARGE] {
                scope.spawn(move || {
                    // The bystander's WRITE may come first; it is as good a moment as any.
                    let (bench, _server, pushed) = change_at(Operation::Write, size, change);
                    let row = pushed.row("/victim").clone();
                    if row["status"] == "archived" {
                        // It was changed before it was looked at: what is archived is the new version, whole.
                        panic!("{name} {size}: archived {row}");
                    }
                    assert_eq!((pushed.finished.code(), &row["status"]), (Some(4), &"deferred".into()), "{name} {row}");
                    assert!(row["reason"].as_str().unwrap().contains("changed while it was read"), "{name} {row}");
                    assert!(!bench.base.join("in/victim").exists(), "{name} {size}");
                    bench.assert_no_part();

                    let now = fs::read(bench.env.local().join("victim")).unwrap();
                    bench.push_local().assert_counts([1, 0, 0, 0]);
                    assert!(fs::read(bench.base.join("in/victim")).unwrap() == now, "{name} {size}");
                });
            }
        }
    });
}

#[test]
fn a_file_that_vanished_while_it_was_sent_is_skipped_and_nothing_of_it_stays() {
    for size in [SMALL, LARGE] {
        let (bench, _server, pushed) = change_at(Operation::Write, size, vanish);
        let pushed = pushed.expect(0);
        pushed.assert_counts([1, 1, 0, 0]);
        assert!(pushed.reason("/victim").contains("went away"), "{}", pushed.finished.stdout);
        assert_eq!(files(&bench.base).len(), 1, "only the bystander: {:?}", files(&bench.base));
    }
}

#[test]
fn a_link_planted_in_the_place_of_a_file_leads_nowhere() {
    for operation in [Operation::Open, Operation::Write] {
        let (bench, _server, pushed) = change_at(operation, LARGE, a_link);
        assert_ne!(pushed.row("/victim")["status"], "archived", "{}", pushed.finished.stdout);
        assert!(!bench.base.join("in/victim").exists());
        assert!(bench.env.local().join("victim").is_symlink());
        bench.assert_no_part();
    }
}

#[test]
fn a_version_that_came_during_the_commit_is_not_deleted() {
    let changes: [(&str, Change); 3] = [("grow", grow), ("rewrite", rewrite), ("replace", replace)];
    for (name, change) in changes {
        let env = TestEnv::new();
        let (faults, held) = gate(1, |request: &Request| is_commit(request) && request.path.contains("victim"));
        let server = Embedded::with_faults(&env, faults);
        let bench = Bench::embedded(env, &server);
        let first = noise(SMALL, 1);
        let path = write(&bench.env.local(), "victim", &first);
        let mut command = bench.push([bench.env.local()]);
        let running = Running::start(command.args(["--after", "delete"]));
        held.wait();
        change(&path);
        let second = fs::read(&path).unwrap();
        held.open();
        let pushed = Pushed::of(running.finish()).expect(0);
        pushed.assert_counts([1, 0, 0, 0]);
        assert!(pushed.reason("/victim").contains("the local file stays"), "{name}: {}", pushed.finished.stdout);
        assert!(fs::read(bench.base.join("in/victim")).unwrap() == first, "{name}");
        assert!(fs::read(&path).unwrap() == second, "{name}: the new version is gone");

        Pushed::run(bench.push([bench.env.local()]).args(["--after", "delete"])).expect(0).assert_counts([1, 0, 0, 0]);
        assert!(!path.exists());
        let archived: Vec<_> = files(&bench.base.join("in")).into_keys().collect();
        assert_eq!(archived.len(), 2, "{name}: {archived:?}");
        assert!(archived.iter().any(|file| fs::read(bench.base.join("in").join(file)).unwrap() == second));
    }
}

#[test]
fn a_directory_that_is_removed_while_it_is_pushed_loses_nothing_that_was_sent() {
    let env = TestEnv::new();
    let (faults, held) = gate(5, |request: &Request| is_commit(request));
    let server = Embedded::with_faults(&env, faults);
    let bench = Bench::embedded(env, &server);
    for number in 0..50 {
        write(&bench.env.local(), format!("d/{number}"), noise(500, number));
    }
    let wanted = files(&bench.env.local());
    let mut command = bench.push([bench.env.local()]);
    let running = Running::start(command.args(["--connections", "1", "-j", "2"]));
    held.wait();
    fs::remove_dir_all(bench.env.local().join("d")).unwrap();
    held.open();
    let pushed = Pushed::of(running.finish());
    let [archived, _, _, failed] = pushed.counts();
    assert_eq!(failed, 0, "{}", pushed.finished.stdout);
    let stands = bench.archived();
    assert_eq!(stands.len() as u64, archived);
    assert!(stands.iter().all(|(path, entry)| wanted[path] == *entry));
    bench.assert_no_part();
}
