//! SIGHUP: what changed in the configuration holds from then on, nothing in flight is lost, and what is wrong changes
//! nothing.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

use archiver::embedded::{Fault, Operation, Request};
use rustix::process::Signal;

use super::watch::{SETTLE, Site, Summary, embedded_command, names, stop, watching};
use crate::support::embedded::{Embedded, PASSWORD};
use crate::support::env::{DEADLINE, Running, TestEnv, noise, wait_until, write};
use crate::support::openssh::OpenSsh;

const APPLIED: &str = "the new configuration holds";
const KEPT: &str = "the new configuration was not applied";

/// A configuration file with these sources, each with its lines, and these lines of `[destination]`.
fn configure(site: &Site, sources: &[(&str, &str)], destination: &str) -> PathBuf {
    let mut text = String::new();
    for (name, lines) in sources {
        let path = site.env.path().join(name);
        fs::create_dir_all(&path).unwrap();
        text.push_str(&format!("[[source]]\nname = {name:?}\npaths = [{path:?}]\n{lines}\n"));
    }
    text.push_str(&format!(
        "[destination]\nidentity = {:?}\nknown-hosts = {:?}\nssh-config = \"none\"\nlayout = \"{{source}}\"\n{destination}\n",
        site.server.client_key(),
        site.server.known_hosts(),
    ));
    write(site.env.path(), "archiver.toml", text)
}

fn to(server: &OpenSsh) -> String {
    format!("url = {:?}", server.url())
}

fn start<'a>(site: &Site, command: &str, arguments: impl IntoIterator<Item = &'a str>) -> Running {
    let mut watch = site.env.archiver([command, "--config", "archiver.toml", "--summary", "json", "--settle", SETTLE]);
    watch.env("ARCHIVER_RETRY__INITIAL_BACKOFF", "50ms").env("ARCHIVER_RETRY__MAX_BACKOFF", "300ms");
    watching(watch.args(arguments))
}

#[track_caller]
fn reload(running: &mut Running, answer: &str) -> String {
    running.signal(Signal::HUP);
    running.expect_line(answer)
}

fn stands(site: &Site, path: &str) {
    wait_until(path, || site.remote().join(path).is_file());
}

#[test]
fn new_sources_are_watched_and_gone_ones_are_not() {
    let site = Site::new();
    configure(&site, &[("old", ""), ("both", "")], &to(&site.server));
    let mut running = start(&site, "watch", []);
    write(site.env.path(), "old/1.csv", "1");
    write(site.env.path(), "both/1.csv", "1");
    stands(&site, "old/1.csv");
    stands(&site, "both/1.csv");
    configure(&site, &[("both", "after = \"delete\""), ("new", "")], &to(&site.server));
    write(site.env.path(), "new/1.csv", "stood there before");
    reload(&mut running, APPLIED);
    write(site.env.path(), "old/2.csv", "nobody looks");
    write(site.env.path(), "new/2.csv", "2");
    write(site.env.path(), "both/2.csv", "2");
    for path in ["new/1.csv", "new/2.csv", "both/2.csv"] {
        stands(&site, path);
    }
    // The new rule holds for what comes, and for what is found.
    wait_until("they are deleted", || names(&site.env.path().join("both")).is_empty());
    let finished = stop(running);
    finished.assert_code(0);
    // Before and after are one run: what is found again has no second row.
    assert_eq!(Summary::of(&finished).totals(), (5, 0, 0, 0));
    assert!(!site.remote().join("old/2.csv").exists());
}

#[test]
fn another_destination_and_layout_hold_for_new_claims() {
    let site = Site::new();
    let other = OpenSsh::plain();
    configure(&site, &[("a", "")], &to(&site.server));
    let mut running = start(&site, "watch", []);
    write(site.env.path(), "a/1.csv", "1");
    stands(&site, "a/1.csv");
    let destination = format!(
        "{}\nidentity = {:?}\nknown-hosts = {:?}\nssh-config = \"none\"\nlayout = \"new/{{source}}\"",
        to(&other),
        other.client_key(),
        other.known_hosts()
    );
    let source = format!("[[source]]\nname = \"a\"\npaths = [{:?}]\n", site.env.path().join("a"));
    write(site.env.path(), "archiver.toml", format!("{source}[destination]\n{destination}\n"));
    reload(&mut running, APPLIED);
    write(site.env.path(), "a/2.csv", "2");
    let there = other.local(&other.base()).join("new/a/2.csv");
    wait_until("it is archived elsewhere", || there.is_file());
    let finished = stop(running);
    finished.assert_code(0);
    assert!(!site.remote().join("a/2.csv").exists());
}

#[test]
fn what_is_in_flight_keeps_its_name_and_comes_to_its_end() {
    let site = Site::new();
    configure(&site, &[("a", "")], &to(&site.server));
    // Some seconds for the large one, so that the reload meets it.
    let mut running = start(&site, "watch", ["--limit-rate", "2MiB"]);
    let large = noise(6 << 20, 1);
    write(site.env.path(), "a/large.bin", &large);
    let temporary = || super::watch::temporary(&site.remote());
    wait_until("it is in flight", || temporary().values().any(|size| *size > 0));
    configure(&site, &[("a", "")], &format!("{}\ndate-from = \"modified\"", to(&site.server)));
    let file = site.env.path().join("archiver.toml");
    let text = fs::read_to_string(&file).unwrap().replace("\"{source}\"", "\"new/{source}\"");
    fs::write(&file, text).unwrap();
    running.signal(Signal::HUP);
    for number in 0..50 {
        write(site.env.path(), format!("a/{number}.csv"), format!("{number}"));
    }
    running.expect_line(APPLIED);
    wait_until("all are archived", || names(&site.remote()).len() == 51);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (51, 0, 0, 0));
    assert_eq!(fs::read(site.remote().join("a/large.bin")).unwrap(), large);
    assert!(temporary().is_empty());
}

/// Cut off by the grace, it goes on under its name with the new configuration.
#[test]
fn what_does_not_end_within_the_grace_is_taken_up_again() {
    let site = Site::new();
    configure(&site, &[("a", "")], &to(&site.server));
    let mut running = start(&site, "watch", ["--limit-rate", "1MiB", "--grace", "100ms"]);
    let large = noise(4 << 20, 2);
    write(site.env.path(), "a/large.bin", &large);
    wait_until("it is in flight", || super::watch::temporary(&site.remote()).values().any(|size| *size > 0));
    configure(&site, &[("a", "exclude = [\"*.never\"]")], &to(&site.server));
    let file = site.env.path().join("archiver.toml");
    let text = fs::read_to_string(&file).unwrap().replace("\"{source}\"", "\"new/{source}\"");
    fs::write(&file, text).unwrap();
    reload(&mut running, APPLIED);
    wait_until("it is archived", || names(&site.remote()).len() == 1);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (1, 0, 0, 0));
    assert_eq!(fs::read(site.remote().join("a/large.bin")).unwrap(), large);
    assert!(super::watch::temporary(&site.remote()).is_empty());
}

#[test]
fn a_wrong_configuration_changes_nothing_and_all_its_mistakes_are_said() {
    let site = Site::new();
    let file = configure(&site, &[("a", "")], &to(&site.server));
    let mut running = start(&site, "watch", []);
    let sound = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("settel = \"1s\"\nsettle = \"soon\"\n{sound}")).unwrap();
    running.signal(Signal::HUP);
    running.expect_line("settel");
    running.expect_line("soon");
    running.expect_line(KEPT);
    // A directory that is not there, a key that is not, another ledger, and a server that refuses.
    fs::write(&file, sound.replace("/a\"]", "/missing\"]")).unwrap();
    assert!(reload(&mut running, KEPT).contains("missing"));
    fs::write(&file, sound.replace("identity = \"/", "identity = \"/nowhere/")).unwrap();
    assert!(reload(&mut running, KEPT).contains("there is no such file"));
    for other in ["url = \"other.db\"", "prefix = \"other\"", "dedupe = \"content\""] {
        fs::write(&file, format!("{sound}[ledger]\n{other}\n")).unwrap();
        reload(&mut running, "until a restart");
    }
    fs::write(&file, format!("{sound}publish = \"direct\"\non-conflict = \"overwrite\"\n")).unwrap();
    running.signal(Signal::HUP);
    running.expect_line("on-conflict: it cannot be used with publish");
    running.expect_line(KEPT);
    let unknown = write(site.env.path(), "unknown_hosts", "");
    let hosts = site.server.known_hosts().to_str().unwrap().to_owned();
    fs::write(&file, sound.replace(&hosts, unknown.to_str().unwrap())).unwrap();
    assert!(reload(&mut running, KEPT).contains("host key"));
    fs::write(&file, format!("# a remark\n{sound}")).unwrap();
    reload(&mut running, "nothing to do");
    write(site.env.path(), "a/1.csv", "1");
    stands(&site, "a/1.csv");
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (1, 0, 0, 0));
}

/// A Secret that was rotated: the file's name is the same, and so is the configuration.
#[test]
fn a_password_is_read_anew() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    fs::remove_file(env.home().join(".ssh/id_ed25519")).unwrap();
    let password = write(env.path(), "password", format!("{PASSWORD}\n"));
    let mut running = watching(&mut embedded_command(&env, &server, ["--password-file", password.to_str().unwrap()]));
    fs::write(&password, "another one").unwrap();
    assert!(reload(&mut running, KEPT).contains("refused"));
    fs::write(&password, PASSWORD).unwrap();
    let said = reload(&mut running, "has changed");
    assert!(said.contains("password") && !said.contains(PASSWORD), "{said}");
    running.expect_line(APPLIED);
    write(&env.local(), "1.csv", "1");
    wait_until("it is archived", || names(&env.remote()).len() == 1);
    reload(&mut running, "nothing to do");
    let finished = stop(running);
    finished.assert_code(0);
    assert!(!finished.stderr.contains(PASSWORD));
}

/// `run` does it beside its command, which is told, too.
#[test]
fn a_run_reloads_and_passes_the_signal_on() {
    let site = Site::new();
    configure(&site, &[("a", "")], &to(&site.server));
    let script = "trap 'echo x > a/hup.csv' HUP; until [ -e end ]; do sleep 0.02; done";
    let mut running = start(&site, "run", ["--", "sh", "-c", script]);
    write(site.env.path(), "a/1.csv", "1");
    stands(&site, "a/1.csv");
    configure(&site, &[("a", ""), ("b", "")], &to(&site.server));
    reload(&mut running, APPLIED);
    write(site.env.path(), "b/1.csv", "1");
    stands(&site, "b/1.csv");
    stands(&site, "a/hup.csv");
    write(site.env.path(), "end", "");
    let finished = running.finish();
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (3, 0, 0, 0));
}

/// Again and again, while files come: each goes once.
#[test]
fn many_reloads_lose_nothing_and_send_nothing_twice() {
    let site = Site::new();
    configure(&site, &[("a", "after = \"delete\"")], &to(&site.server));
    let mut running = start(&site, "watch", []);
    for round in 0..12 {
        for number in 0..25 {
            write(site.env.path(), format!("a/{round}/{number}.csv"), format!("{round} {number}"));
        }
        configure(&site, &[("a", &format!("after = \"delete\"\nexclude = [\"{round}.never\"]"))], &to(&site.server));
        reload(&mut running, APPLIED);
    }
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (300, 0, 0, 0));
    assert_eq!(names(&site.remote()).len(), 300);
    assert!(names(&site.env.path().join("a")).is_empty());
}

/// Both at once: the drain holds, in one grace.
#[test]
fn a_stop_during_a_reload_is_a_drain() {
    let site = Site::new();
    configure(&site, &[("a", "")], &to(&site.server));
    let running = start(&site, "watch", []);
    for number in 0..100 {
        write(site.env.path(), format!("a/{number}.csv"), format!("{number}"));
    }
    configure(&site, &[("a", ""), ("b", "")], &to(&site.server));
    running.signal(Signal::HUP);
    running.signal(Signal::TERM);
    let finished = running.finish();
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (100, 0, 0, 0));
}

/// It has its time to answer, and nothing stands still meanwhile.
#[test]
fn a_new_destination_that_is_out_is_waited_for_while_the_old_one_takes_files() {
    let site = Site::new();
    let mut other = OpenSsh::plain();
    other.kill();
    configure(&site, &[("a", "")], &to(&site.server));
    let mut running = start(&site, "watch", []);
    configure(&site, &[("a", "")], &to(&other));
    reload(&mut running, "reloading");
    let applying = running.expect_line("the configuration has changed");
    assert!(applying.contains("destination.url") && !applying.contains("\"\""), "{applying}");
    running.expect_line("the old configuration holds meanwhile");
    write(site.env.path(), "a/1.csv", "1");
    stands(&site, "a/1.csv");
    stop(running).assert_code(0);
}

/// Without anything in flight that could go anywhere, nothing is waited for.
#[test]
fn a_destination_that_is_out_can_be_replaced() {
    let mut site = Site::new();
    let other = OpenSsh::plain();
    configure(&site, &[("a", "")], &to(&site.server));
    site.server.kill();
    let mut running = start(&site, "watch", ["--grace", "1h"]);
    write(site.env.path(), "a/1.csv", "1");
    if !running.said().contains("is out") {
        running.expect_line("is out");
    }
    let destination = format!(
        "{}\nidentity = {:?}\nknown-hosts = {:?}\nssh-config = \"none\"",
        to(&other),
        other.client_key(),
        other.known_hosts()
    );
    let source = format!("[[source]]\nname = \"a\"\npaths = [{:?}]\n", site.env.path().join("a"));
    write(site.env.path(), "archiver.toml", format!("{source}[destination]\n{destination}\n"));
    reload(&mut running, APPLIED);
    let there = other.local(&other.base());
    wait_until("it is archived elsewhere", || names(&there).len() == 1);
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (1, 0, 0, 0));
}

/// The session breaks, so that the claim is to get a later token; nobody waits for that any more when the ledger has it.
#[test]
fn a_claim_whose_later_token_nobody_waited_for_is_free_for_the_successor() {
    let env = TestEnv::new();
    let (send, seen) = channel();
    let is_first = AtomicBool::new(true);
    let server = Embedded::with_faults(&env, move |request: &Request| {
        let _ = send.send((request.connection, request.operation));
        let is_upload = request.operation == Operation::Open && request.path.ends_with(".part");
        if is_upload && is_first.swap(false, Ordering::SeqCst) { Fault::ReplyLost } else { Fault::None }
    });
    let await_request = |what: &str, is_it: &dyn Fn(u64, Operation) -> bool| loop {
        let (connection, operation) = seen.recv_timeout(DEADLINE).expect(what);
        if is_it(connection, operation) {
            return connection;
        }
    };
    let configuration = |exclude: &str| {
        let text = format!(
            "[[source]]\nname = \"a\"\npaths = [{:?}]\nexclude = [{exclude:?}]\n[destination]\nurl = {:?}\nlayout = \"in\"\n",
            env.local(),
            server.url("/")
        );
        write(env.path(), "archiver.toml", text);
    };
    configuration("*.never");
    let mut command = env.archiver(["watch", "--config", "archiver.toml", "--summary", "json", "--settle", SETTLE]);
    command.args(["--grace", "100ms"]).env("ARCHIVER_POOL__REQUEST_TIMEOUT", "2s");
    command.env("ARCHIVER_RETRY__INITIAL_BACKOFF", "50ms").env("ARCHIVER_RETRY__MAX_BACKOFF", "300ms");
    let mut running = watching(&mut command);
    write(&env.local(), "a.csv", "a");
    let broken = await_request("an upload", &|_, operation| operation == Operation::Open);
    let lock = rusqlite::Connection::open(env.home().join(".local/state/archiver/ledger.db")).unwrap();
    lock.busy_timeout(DEADLINE).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    await_request("another session", &|connection, _| connection != broken);
    configuration("*.ever");
    running.signal(Signal::HUP);
    running.expect_line("still in flight: taken up again");
    lock.execute_batch("ROLLBACK").unwrap();
    running.expect_line(APPLIED);
    wait_until("it is archived", || env.remote().join("in/a.csv").is_file());
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (1, 0, 0, 0));
    assert_eq!(names(&env.remote()).len(), 1);
    assert!(super::watch::temporary(&env.remote()).is_empty());
}
