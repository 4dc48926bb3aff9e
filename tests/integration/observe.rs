//! What a watch tells those who look after it: `--metrics`, `--status-file` and `archiver health`, over real sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;

use archiver::embedded::Quirks;
use rustix::process::Signal;
use serde_json::Value;

use super::watch::{Site, Summary, embedded_command, stop};
use crate::support::embedded::Embedded;
use crate::support::env::{Running, TestEnv, noise, run, wait_until, write};
use crate::support::http::{get, raw, request};

/// Where the metrics are, by the line that says so. What listens everywhere listens on the loopback address, too.
#[track_caller]
pub fn address(running: &mut Running) -> SocketAddr {
    let line = running.expect_line("metrics are served");
    let address: SocketAddr = line.rsplit("address=").next().unwrap().trim().parse().unwrap();
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port())
}

#[track_caller]
fn state(address: SocketAddr) -> Value {
    serde_json::from_str(&get(address, "/state.json").body).unwrap()
}

/// The samples of a page in the text format, by name and labels.
pub fn samples(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    samples
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

/// As strict as a linter: each family has its help and type once, in front of its samples, and samples that its type has.
#[track_caller]
fn lint(text: &str) -> BTreeSet<String> {
    let (mut families, mut helped, mut family) = (BTreeMap::new(), BTreeSet::new(), String::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(families.insert(name.to_owned(), kind.to_owned()).is_none() && helped.contains(name), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            family = name.to_owned();
        } else {
            let name = line.split(['{', ' ']).next().unwrap();
            let suffixes: &[&str] =
                if families[&family] == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|suffix| *name == format!("{family}{suffix}")), "{line} in {family}");
            assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
        }
    }
    families.into_keys().collect()
}

#[test]
fn every_metric_of_the_contract_is_there_and_counts_what_happens() {
    let site = Site::new();
    write(&site.local(), "a.csv", "12345");
    write(&site.local(), "unmarked/b.csv", "123");
    let source = format!("name=reports,path={},exclude=unmarked/**", site.local().display());
    let marked = format!("name=mar\"ked,path={},marker={{name}}.done", site.local().join("unmarked").display());
    let arguments = ["--metrics", "127.0.0.1:0", "--grace", "1s", "--source", &source, "--source", &marked];
    let mut running = Running::start(&mut site.bare(arguments));
    let address = address(&mut running);
    let text = || get(address, "/metrics").body;
    let archived = "archiver_files_total{source=\"reports\",status=\"archived\"}";
    wait_until("it is counted", || samples(&text()).get(archived) == Some(&1.0));
    wait_until("the other one waits", || samples(&text()).get("archiver_waiting_files") == Some(&1.0));
    let text = text();
    let families = lint(&text);
    let names = "archiver_files_total archiver_bytes_total archiver_upload_duration_seconds archiver_archive_lag_seconds \
        archiver_waiting_files archiver_waiting_bytes archiver_oldest_waiting_seconds archiver_sessions \
        archiver_retries_total archiver_destination_up archiver_watch_overflows_total archiver_scans_total \
        archiver_claims_total archiver_lease_lost_total archiver_source_free_bytes archiver_last_archived_timestamp_seconds archiver_build_info";
    assert_eq!(families, names.split_whitespace().map(str::to_owned).collect());
    let samples = samples(&text);
    let value = |name: &str| *samples.get(name).unwrap_or_else(|| panic!("no {name} in\n{text}"));
    assert_eq!(value("archiver_bytes_total{source=\"reports\"}"), 5.0);
    assert_eq!(value("archiver_files_total{source=\"mar\\\"ked\",status=\"archived\"}"), 0.0);
    assert_eq!(value("archiver_upload_duration_seconds_count"), 1.0);
    assert_eq!(value("archiver_upload_duration_seconds_bucket{le=\"+Inf\"}"), 1.0);
    assert!(value("archiver_upload_duration_seconds_sum") > 0.0);
    // It settled for 100 ms.
    assert_eq!(value("archiver_archive_lag_seconds_count"), 1.0);
    assert!(value("archiver_archive_lag_seconds_sum") >= 0.1);
    assert_eq!(value("archiver_waiting_bytes"), 3.0);
    assert!(value("archiver_oldest_waiting_seconds") > 0.0);
    assert!(value("archiver_scans_total") >= 2.0);
    assert_eq!(value("archiver_retries_total{class=\"session\"}"), 0.0);
    let claims = ["claimed", "recorded", "held"]
        .map(|outcome| value(&format!("archiver_claims_total{{outcome=\"{outcome}\"}}")));
    assert_eq!((claims[0], claims[2], value("archiver_lease_lost_total")), (1.0, 0.0, 0.0));
    assert_eq!(value(&format!("archiver_destination_up{{destination=\"{}\"}}", site.server.url())), 1.0);
    assert!(value("archiver_sessions{state=\"idle\"}") + value("archiver_sessions{state=\"busy\"}") >= 1.0);
    assert!(value("archiver_source_free_bytes{source=\"reports\"}") > 0.0);
    assert!(value("archiver_last_archived_timestamp_seconds") > 1.6e9);
    assert_eq!(value(&format!("archiver_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
    assert!(!text.contains("a.csv"), "no file has a label: {text}");

    let state = state(address);
    assert_eq!((&state["version"], &state["phase"], &state["ready"]), (&1.into(), &"watching".into(), &true.into()));
    assert_eq!((&state["totals"]["archived"], &state["totals"]["bytes"]), (&1.into(), &5.into()));
    let oldest = &state["waiting"]["oldest"][0];
    assert_eq!((&oldest["source"], &oldest["bytes"]), (&"mar\"ked".into(), &3.into()));
    assert!(oldest["path"].as_str().unwrap().ends_with("/b.csv"), "{oldest}");
    assert_eq!(oldest["reason"], "waiting for its marker b.csv.done");
    assert!(state["last_archived_at"].is_string() && state["destinations"][0]["up"] == true, "{state}");
    stop(running).assert_code(4);
}

#[test]
fn openmetrics_is_given_to_whoever_asks_for_it() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    let mut running = Running::start(&mut embedded_command(&env, &server, ["--metrics", "127.0.0.1:0"]));
    let address = address(&mut running);
    let older = get(address, "/metrics");
    assert!(older.headers["content-type"].starts_with("text/plain; version=0.0.4"), "{older:?}");
    let accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.8,text/plain;q=0.5\r\n";
    let newer = request(address, "GET", "/metrics", accept);
    assert!(newer.headers["content-type"].starts_with("application/openmetrics-text; version=1.0.0"), "{newer:?}");
    assert!(newer.body.ends_with("# EOF\n") && newer.body.contains("# TYPE archiver_files counter\n"), "{newer:?}");
    assert!(newer.body.contains("\narchiver_files_total{") && !newer.body.contains("_total_total"), "{newer:?}");
    stop(running).assert_code(0);
}

#[test]
fn readiness_follows_the_server_and_health_does_not() {
    let mut site = Site::new();
    site.server.kill();
    let mut running = Running::start(&mut site.command(["--metrics", "127.0.0.1:0"]));
    let address = address(&mut running);
    let ready = || get(address, "/readyz");
    running.expect_line("is out");
    let reply = ready();
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains(&format!("{}: ", site.server.url())) && reply.body.contains("refused"), "{reply:?}");
    assert_eq!(state(address)["destinations"][0]["up"], false);
    let health =
        |what: &[&str]| run(&mut site.env.archiver(["health", "--metrics", &address.to_string()].iter().chain(what)));
    health(&[]).assert_code(0);
    let finished = health(&["--ready"]);
    assert!(finished.assert_code(1).stderr.contains(&site.server.url()), "{}", finished.stderr);
    for _ in 0..2 {
        site.server.restart();
        wait_until("it is ready", || ready().status == 200);
        run(&mut site.env.archiver(["health", "--ready", "--metrics", &address.to_string()])).assert_code(0);
        // Nothing is archived: an idle watch finds out as well.
        site.server.kill();
        wait_until("it is not ready", || ready().status == 503);
        assert_eq!(get(address, "/healthz").body, "ok\n");
    }
    site.server.restart();
    wait_until("it is ready again", || ready().status == 200);
    stop(running).assert_code(0);
}

#[test]
fn files_that_wait_for_a_full_disk_are_seen() {
    let env = TestEnv::new();
    write(&env.remote(), "ballast", noise(90_000, 4));
    let server = Embedded::with_quirks(&env, Quirks { quota: Some(100_000), ..Quirks::default() });
    let mut running = Running::start(&mut embedded_command(&env, &server, ["--metrics", "127.0.0.1:0"]));
    let address = address(&mut running);
    write(&env.local(), "a.bin", noise(20_000, 1));
    running.expect_line("is out");
    assert_eq!(get(address, "/readyz").status, 503);
    wait_until("the file waits", || state(address)["waiting"]["files"] == 1);
    let retries = || samples(&get(address, "/metrics").body)["archiver_retries_total{class=\"destination\"}"];
    wait_until("attempts are counted", || retries() >= 1.0);
    fs::remove_file(env.remote().join("ballast")).unwrap();
    wait_until("it is ready", || get(address, "/readyz").status == 200);
    wait_until("it is archived", || state(address)["totals"]["archived"] == 1);
    stop(running).assert_code(0);
}

#[test]
fn a_watch_that_drains_is_not_ready() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    write(&env.local(), "a.csv", "waits for its marker");
    let arguments = ["--metrics", "127.0.0.1:0", "--marker", "{name}.done", "--grace", "1h"];
    let mut running = Running::start(&mut embedded_command(&env, &server, arguments));
    let address = address(&mut running);
    wait_until("it is ready and the file waits", || {
        get(address, "/readyz").status == 200 && state(address)["waiting"]["files"] == 1
    });
    running.signal(Signal::TERM);
    wait_until("it drains", || state(address)["phase"] == "draining");
    let reply = get(address, "/readyz");
    assert_eq!((reply.status, reply.body.as_str()), (503, "draining: it was told to stop\n"));
    assert_eq!(get(address, "/healthz").status, 200);
    write(&env.local(), "a.csv.done", "");
    running.finish().assert_code(0);
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn the_server_gives_away_nothing_else() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    let mut running = Running::start(&mut embedded_command(&env, &server, ["--metrics", ":0"]));
    let address = address(&mut running);
    let page = get(address, "/");
    let policy = &page.headers["content-security-policy"];
    assert_eq!((page.status, page.headers["content-type"].as_str()), (200, "text/html; charset=utf-8"));
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers["x-content-type-options"], "nosniff");
    for path in ["/etc/passwd", "/../../etc/passwd", "/metrics/", "//", "/state.json/x", "/%2e%2e/"] {
        assert_eq!(get(address, path).status, 404, "{path}");
    }
    let head = request(address, "HEAD", "/metrics", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT"] {
        let reply = request(address, method, if method == "CONNECT" { "h:1" } else { "/metrics" }, "");
        assert_eq!((reply.status, reply.headers["allow"].as_str()), (405, "GET, HEAD"), "{method}");
    }
    let endless = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(14 << 10));
    assert!(raw(address, &endless).starts_with("HTTP/1.1 200"));
    assert!(raw(address, "\u{16}\u{3}\u{1} nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
    // Those who do not come to the end of their request give way to those who do.
    let half_open = || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nX").map(|()| stream).unwrap()
    };
    let half_open: Vec<_> = (0..700).map(|_| half_open()).collect();
    assert_eq!(get(address, "/healthz").status, 200);
    drop(half_open);
    stop(running).assert_code(0);
}

#[test]
fn an_address_that_is_taken_is_an_error_of_the_settings() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let finished = run(&mut embedded_command(&env, &server, ["--metrics", &address]));
    let error = &finished.assert_code(2).stderr;
    assert!(error.contains("the metrics cannot be served") && error.contains(&address), "{error}");
    assert!(error.contains("address in use") && error.contains("--metrics"), "{error}");
    let finished = run(&mut embedded_command(&env, &server, ["--metrics", "elsewhere:80"]));
    assert!(
        finished.assert_code(2).stderr.contains("`elsewhere:80` is no address to listen on"),
        "{}",
        finished.stderr
    );
}

#[test]
fn health_without_an_answer_says_so() {
    let env = TestEnv::new();
    let health = |arguments: &[&str]| run(&mut env.archiver(["health"].iter().chain(arguments)));
    assert!(health(&[]).assert_code(2).stderr.contains("ARCHIVER_METRICS"));
    health(&["--metrics", "none"]).assert_code(0);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let finished = health(&["--metrics", &free.to_string()]);
    assert!(finished.assert_code(1).stderr.contains(&format!("{free}: ")), "{}", finished.stderr);
    health(&["--metrics", "nonsense"]).assert_code(2);
    let file = write(env.path(), "health.toml", format!("[metrics]\nlisten = \"{free}\"\n"));
    let finished = health(&["--config", file.to_str().unwrap()]);
    assert!(finished.assert_code(1).stderr.contains(&format!("{free}: ")), "{}", finished.stderr);
    let finished = health(&["-c", "/nowhere/archiver.toml"]);
    assert!(finished.assert_code(2).stderr.contains("/nowhere/archiver.toml"), "{}", finished.stderr);
}

#[test]
fn a_file_that_a_drain_leaves_counts_once() {
    let site = Site::new();
    let file = site.env.path().join("status.json");
    let read = || serde_json::from_slice::<Value>(&fs::read(&file).unwrap()).unwrap();
    write(&site.local(), "a.csv", "12345");
    let arguments = ["--marker", "{name}.done", "--grace", "1s", "--status-file", file.to_str().unwrap()];
    let running = Running::start(&mut site.command(arguments));
    wait_until("it waits for its marker", || file.exists() && read()["waiting"]["files"] == 1);
    let finished = stop(running);
    finished.assert_code(4);
    assert_eq!(Summary::of(&finished).totals(), (0, 0, 1, 0));
    assert_eq!((&read()["totals"]["deferred"], &read()["phase"]), (&1.into(), &"ended".into()));
}

/// Scans meet what is archived, and what fails, again and again.
#[test]
fn a_file_counts_once_however_often_it_is_looked_at() {
    let site = Site::new();
    let file = site.env.path().join("status.json");
    write(&site.local(), "kept.csv", "kept");
    let layout = ["--layout", "in", "--on-conflict", "fail"];
    let running = site.watch(layout);
    let kept = site.remote().join("in/kept.csv");
    wait_until("it is archived", || kept.exists());
    stop(running).assert_code(0);
    write(&site.remote(), "in/taken.csv", "somebody's");
    write(&site.local(), "taken.csv", "ours");
    let watch = ["--watcher", "poll", "--scan-interval", "100ms", "--metrics", "127.0.0.1:0", "--status-file"];
    let mut running =
        Running::start(&mut site.command(layout.into_iter().chain(watch).chain([file.to_str().unwrap()])));
    let address = address(&mut running);
    let metrics = || samples(&get(address, "/metrics").body);
    for _ in 0..3 {
        running.expect_line("taken.csv");
    }
    let scans = metrics()["archiver_scans_total"];
    wait_until("it scans on", || metrics()["archiver_scans_total"] > scans + 2.0);
    let counted = metrics();
    let count = |status| counted[&format!("archiver_files_total{{source=\"\",status=\"{status}\"}}")];
    assert_eq!((count("archived"), count("skipped"), count("failed")), (0.0, 1.0, 1.0));
    let failures = state(address)["failures"].as_array().unwrap().len();
    assert_eq!(failures, 1, "each file is named once");
    // Once its name is free, it counts as archived, and as failed no longer.
    fs::remove_file(site.remote().join("in/taken.csv")).unwrap();
    wait_until("it is archived", || state(address)["totals"]["archived"] == 1);
    let live = state(address)["totals"].clone();
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (1, 1, 0, 0));
    let last: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(last["totals"], live);
    assert_eq!(live, serde_json::json!({"archived": 1, "skipped": 1, "deferred": 0, "failed": 0, "bytes": 4}));
}

#[test]
fn the_status_file_is_always_complete_and_ends_with_the_exit_code() {
    let site = Site::new();
    let file = site.env.path().join("status.json");
    let read = || serde_json::from_slice::<Value>(&fs::read(&file).unwrap()).unwrap();
    let mut running = Running::start(&mut site.command(["--status-file", file.to_str().unwrap()]));
    running.expect_line("watching");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    wait_until("it is ready", || read()["ready"] == true);
    write(&site.local(), "a.csv", "12345");
    wait_until("it is archived", || read()["totals"]["archived"] == 1);
    assert!(read().get("history").is_none());
    stop(running).assert_code(0);
    let last = read();
    assert_eq!((&last["phase"], &last["exit"], &last["ready"]), (&"ended".into(), &0.into(), &false.into()));
    let beside: Vec<_> = fs::read_dir(site.env.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!beside.iter().any(|name| name.to_string_lossy().ends_with(".tmp")), "{beside:?}");
    let nowhere = site.env.path().join("no/such/directory/status.json");
    let finished = run(&mut site.command(["--status-file", nowhere.to_str().unwrap()]));
    assert!(finished.assert_code(2).stderr.contains("the status file cannot be written"), "{}", finished.stderr);
}
