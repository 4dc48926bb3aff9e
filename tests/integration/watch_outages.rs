//! Servers that go away, hang, fill up or refuse for a while: `archiver watch` goes on by itself.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use archiver::embedded::{Fault, Operation, Quirks, Request};
use tokio::sync::Notify;

use super::watch::{Lister, Site, Summary, archived, embedded_command, names, stop, temporary, watching};
use crate::support::embedded::Embedded;
use crate::support::env::{Running, TestEnv, files, noise, wait_until, write};
use crate::support::openssh::OpenSsh;

#[test]
fn a_server_that_is_down_at_the_start_is_waited_for_without_burning_attempts() {
    let mut site = Site::new();
    site.server.kill();
    write(&site.local(), "a.csv", "a");
    let mut running = Running::start(&mut site.command(["--retries", "1"]));
    running.expect_line("is out");
    write(&site.local(), "b.csv", "b");
    site.server.restart();
    running.expect_line("is back");
    site.wait_for(2);
    let finished = stop(running);
    finished.assert_code(0);
    let summary = Summary::of(&finished);
    assert_eq!(summary.totals(), (2, 0, 0, 0));
    assert!(summary.rows("archived").all(|row| row["attempts"] == 1));
}

#[test]
fn a_server_that_is_restarted_while_files_arrive_gets_them_all() {
    let mut site = Site::new();
    let mut command = site.command(["--after", "delete"]);
    // A session that outlives its server by a moment is silent, as a cut cable is.
    command.env("ARCHIVER_POOL__REQUEST_TIMEOUT", "3s").env("ARCHIVER_POOL__CONNECT_TIMEOUT", "3s");
    let running = watching(&mut command);
    let expected = TestEnv::new();
    for round in 0..4 {
        for number in 0..150 {
            let name = format!("{round}/{}/{number}.csv", number % 5);
            write(&expected.local(), &name, noise(number * 40, round));
            write(&site.local(), &name, noise(number * 40, round));
            if number == 75 && round < 3 {
                site.server.kill();
            }
        }
        if round < 3 {
            site.server.restart();
        }
    }
    site.wait_for(600);
    wait_until("all are deleted", || names(&site.local()).is_empty());
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(site.archived(), files(&expected.local()));
    assert_eq!(Summary::of(&finished).totals(), (600, 0, 0, 0));
}

#[test]
fn a_server_killed_in_the_middle_of_a_large_file_shows_no_part_of_it() {
    let mut site = Site::new();
    let content = noise(50 << 20, 3);
    let running = site.watch(["--limit-rate", "60MiB"]);
    let lister = Lister::start(site.remote());
    write(&site.local(), "large.bin", &content);
    for _ in 0..2 {
        wait_until("some of it is there", || temporary(&site.remote()).values().sum::<u64>() > 4 << 20);
        site.server.kill();
        // So that the next round waits for bytes of its own; a server may lose what was not flushed.
        for path in temporary(&site.remote()).into_keys() {
            fs::remove_file(path).unwrap();
        }
        site.server.restart();
    }
    site.wait_for(1);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(lister.finish().into_values().collect::<Vec<_>>(), [vec![50 << 20]]);
    assert_eq!(site.archived(), files(&site.local()));
}

/// Connections stay open and nothing answers, as when a cable is pulled.
#[test]
fn a_server_that_hangs_is_noticed_and_used_again() {
    let site = Site::new();
    let mut command = site.command([]);
    command.env("ARCHIVER_POOL__REQUEST_TIMEOUT", "1s").env("ARCHIVER_POOL__CONNECT_TIMEOUT", "1s");
    let mut running = watching(&mut command);
    write(&site.local(), "before.csv", "before");
    site.wait_for(1);
    site.server.freeze();
    for number in 0..50 {
        write(&site.local(), format!("{number}.csv"), format!("{number}"));
    }
    running.expect_line("is out");
    assert_eq!(names(&site.remote()).len(), 1);
    site.server.thaw();
    site.wait_for(51);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(site.archived(), files(&site.local()));
    assert_eq!(Summary::of(&finished).totals(), (51, 0, 0, 0));
}

#[test]
fn a_full_disk_holds_the_work_until_there_is_room() {
    let env = TestEnv::new();
    write(&env.remote(), "ballast", noise(90_000, 4));
    let server = Embedded::with_quirks(&env, Quirks { quota: Some(100_000), ..Quirks::default() });
    let mut running = watching(&mut embedded_command(&env, &server, ["--retries", "2"]));
    for number in 0..4 {
        write(&env.local(), format!("{number}.bin"), noise(20_000, number));
    }
    running.expect_line("is out");
    assert_eq!(names(&env.remote()).len(), 1);
    fs::remove_file(env.remote().join("ballast")).unwrap();
    wait_until("all are archived", || names(&env.remote()).len() == 4);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(archived(&env.remote()), files(&env.local()));
    assert_eq!(Summary::of(&finished).totals(), (4, 0, 0, 0));
}

/// Files come while it is full, and are deleted once they are archived.
#[test]
fn a_disk_that_fills_up_and_empties_again_and_again_loses_nothing() {
    let Some(builder) = OpenSsh::builder().on_small_disk("4m") else { return };
    let site = Site { env: TestEnv::new(), server: builder.start() };
    let expected = TestEnv::new();
    let put = |name: String, content: Vec<u8>| {
        write(&expected.local(), &name, &content);
        write(&site.local(), &name, &content);
    };
    let mut running = site.watch(["--after", "delete", "--retries", "2"]);
    put("first".into(), noise(100, 1));
    site.wait_for(1);
    for round in 0..12 {
        let filler = site.remote().join("filler");
        let mut file = fs::File::create(&filler).unwrap();
        while file.write_all(&[7; 4096]).is_ok() {}
        for number in 0..5 {
            put(format!("{round}-{number}"), noise(20_000, round * 5 + number));
        }
        running.expect_line("is out");
        fs::remove_file(filler).unwrap();
        drop(file);
        running.expect_line("is back");
        wait_until("all are archived", || names(&site.remote()).len() as u64 == round * 5 + 6);
        wait_until("all are deleted", || names(&site.local()).is_empty());
    }
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(site.archived(), files(&expected.local()));
    assert_eq!(Summary::of(&finished).totals(), (61, 0, 0, 0));
}

#[test]
fn a_base_that_is_not_writable_for_a_while_is_used_again() {
    use std::os::unix::fs::PermissionsExt;
    let Some(builder) = OpenSsh::builder().chrooted() else { return };
    let site = Site { env: TestEnv::new(), server: builder.start() };
    let base = site.remote();
    fs::set_permissions(&base, fs::Permissions::from_mode(0o555)).unwrap();
    let mut running = site.watch(["--scan-interval", "300ms", "--retries", "2"]);
    write(&site.local(), "a.csv", "a");
    let line = running.expect_line("ermission denied");
    assert!(line.contains("a.csv"), "{line}");
    fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).unwrap();
    site.wait_for(1);
    write(&site.local(), "b.csv", "b");
    site.wait_for(2);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (2, 0, 0, 0));
}

/// G6: what was read is not what stands there any more, so it is not published.
#[test]
fn a_file_that_changes_while_it_is_uploaded_is_archived_once_as_it_is_then() {
    let env = TestEnv::new();
    let (held, go) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let faults = {
        let (held, go) = (held.clone(), go.clone());
        move |request: &Request| match request.operation {
            Operation::Close if request.path.ends_with(".part") && !held.swap(true, Ordering::SeqCst) => {
                Fault::Hold(go.clone())
            }
            _ => Fault::None,
        }
    };
    let server = Embedded::with_faults(&env, faults);
    let running = watching(&mut embedded_command(&env, &server, []));
    let path = write(&env.local(), "a.csv", "old");
    wait_until("it is staged", || held.load(Ordering::SeqCst));
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b", and new").unwrap();
    go.notify_one();
    wait_until("it is archived", || names(&env.remote()).len() == 1);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(archived(&env.remote()), files(&env.local()));
    assert_eq!(Summary::of(&finished).totals(), (1, 0, 0, 0));
}
