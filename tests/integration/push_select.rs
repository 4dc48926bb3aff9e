//! Which files go, when they are finished, and where each source sends them.

use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::{Bench, Pushed};
use crate::support::env::{Entry, files, write};
use crate::support::openssh::OpenSsh;

fn names(bench: &Bench) -> Vec<PathBuf> {
    bench.archived().into_keys().collect()
}

#[test]
fn hidden_files_and_names_in_flight_stay() {
    let (bench, _server) = Bench::plain();
    for name in ["a", ".hidden", ".d/x", "b.tmp", "c.part", "d.partial", "e.filepart", "f.crdownload", "g.swp", "h~"] {
        write(&bench.env.local(), name, name);
    }
    bench.push_local().assert_counts([1, 0, 0, 0]);
    assert_eq!(names(&bench), [PathBuf::from("a")]);
}

#[test]
fn includes_and_excludes_choose() {
    let (bench, _server) = Bench::plain();
    for name in ["a.csv", "deep/b.csv", "deep/c.txt", "scratch/d.csv", ".h.csv", "e.txt"] {
        write(&bench.env.local(), name, name);
    }
    let arguments = ["--include", "*.csv", "--include", "deep/*.txt", "--exclude", "scratch/**"];
    Pushed::run(bench.push([bench.env.local()]).args(arguments)).expect(0).assert_counts([4, 0, 0, 0]);
    assert_eq!(names(&bench), [".h.csv", "a.csv", "deep/b.csv", "deep/c.txt"].map(PathBuf::from));
}

#[test]
fn a_file_without_its_marker_waits_and_a_marker_goes_with_its_file() {
    let (bench, _server) = Bench::plain();
    let local = bench.env.local();
    write(&local, "ready", "r");
    write(&local, "ready.done", "");
    write(&local, "waits", "w");
    let arguments = ["--marker", "{name}.done", "--after", "delete"];
    let pushed = Pushed::run(bench.push([&local]).args(arguments)).expect(4);
    pushed.assert_counts([1, 0, 1, 0]);
    assert!(pushed.reason("/waits").contains("waiting for its marker waits.done"), "{}", pushed.finished.stdout);
    assert_eq!(names(&bench), [PathBuf::from("ready")]);
    assert_eq!(files(&local).into_keys().collect::<Vec<_>>(), [PathBuf::from("waits")]);

    write(&local, "waits.done", "");
    Pushed::run(bench.push([&local]).args(arguments)).expect(0).assert_counts([1, 0, 0, 0]);
    assert!(files(&local).is_empty());
    assert_eq!(names(&bench), ["ready", "waits"].map(PathBuf::from));
}

#[test]
fn a_marker_for_a_whole_directory_goes_with_the_last_file() {
    let (bench, _server) = Bench::plain();
    let local = bench.env.local();
    for name in ["one/a", "one/b", "one/_SUCCESS", "two/c"] {
        write(&local, name, name);
    }
    let arguments = ["--marker", "_SUCCESS", "--after", "delete"];
    Pushed::run(bench.push([&local]).args(arguments)).expect(4).assert_counts([2, 0, 1, 0]);
    assert_eq!(names(&bench), ["one/a", "one/b"].map(PathBuf::from));
    assert_eq!(files(&local).into_keys().collect::<Vec<_>>(), [PathBuf::from("two/c")]);
}

#[test]
fn a_file_that_somebody_writes_waits() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), "finished", "f");
    let path = write(&bench.env.local(), "growing", "g");
    let writer = std::fs::File::options().append(true).mode(0o600).open(&path).unwrap();
    let pushed = Pushed::run(&mut bench.push([bench.env.local()])).expect(4);
    pushed.assert_counts([1, 0, 1, 0]);
    assert!(pushed.reason("/growing").contains("open for writing"), "{}", pushed.finished.stdout);
    drop(writer);
    bench.push_local().assert_counts([1, 1, 0, 0]);
    bench.assert_same_files();
}

#[test]
fn a_settle_time_is_waited_for() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), "a", "a");
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(["--settle", "300ms"])).expect(0);
    pushed.assert_counts([1, 0, 0, 0]);
    assert!(pushed.json["totals"]["seconds"].as_f64().unwrap() >= 0.3, "{}", pushed.finished.stdout);
}

#[test]
fn every_source_goes_to_its_own_destination() {
    let servers = [OpenSsh::plain(), OpenSsh::plain()];
    let bench = Bench::openssh(&servers[0]);
    for (name, file) in [("reports", "a.csv"), ("images", "deep/b.png")] {
        write(&bench.env.local(), format!("{name}/{file}"), file);
    }
    // One known_hosts and one key for both servers.
    let known = servers.each_ref().map(|server| std::fs::read_to_string(server.known_hosts()).unwrap()).concat();
    let known = write(bench.env.path(), "known_hosts", known);
    let mut command = bench.bare_push(["--layout", "{source}/x"]);
    command.arg("--known-hosts").arg(known);
    for ((name, server), key) in ["reports", "images"].iter().zip(&servers).zip(["identity", "identity"]) {
        let path = bench.env.local().join(name);
        let mut spec = format!("name={name},path={},destination.url={}", path.display(), server.url());
        spec.push_str(&format!(",destination.{key}={}", server.client_key().display()));
        command.args(["--source", &spec]);
    }
    let pushed = Pushed::run(&mut command).expect(0);
    pushed.assert_counts([2, 0, 0, 0]);
    for ((name, file), server) in [("reports", "a.csv"), ("images", "deep/b.png")].iter().zip(&servers) {
        let stands = files(&server.local(&server.base()));
        assert_eq!(stands.into_keys().collect::<Vec<_>>(), [PathBuf::from(format!("{name}/x/{file}"))]);
        assert_eq!(pushed.row(file)["source"], *name);
    }
    assert_eq!(pushed.json["destinations"].as_array().unwrap().len(), 2);
    assert!(pushed.json["destination"].is_null());
}

#[test]
fn one_destination_that_is_out_does_not_hold_the_other() {
    let server = OpenSsh::plain();
    let bench = Bench::openssh(&server);
    write(&bench.env.local(), "one/a", "a");
    write(&bench.env.local(), "two/b", "b");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = bench.bare_push(["--retries", "2"]);
    command.arg("-i").arg(server.client_key()).arg("--known-hosts").arg(server.known_hosts());
    for (name, url) in [("one", server.url()), ("two", format!("sftp://u@{closed}/x"))] {
        let path = bench.env.local().join(name);
        command.args(["--source", &format!("name={name},path={},destination.url={url}", path.display())]);
    }
    let pushed = Pushed::run(&mut command).expect(3);
    pushed.assert_counts([1, 0, 0, 1]);
    assert_eq!(pushed.row("/one/a")["status"], "archived");
    assert!(matches!(bench.archived().values().next(), Some(Entry::File { bytes: 1, .. })));
}
