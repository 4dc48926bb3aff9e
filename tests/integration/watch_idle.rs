//! Sessions that OpenSSH's server ends by a clock of its own, while a watch idles, sleeps or logs in.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::process::Signal;

use super::watch::{Site, Summary, names, stop, temporary, watching};
use crate::support::broken_link::{Break, BrokenLink};
use crate::support::env::{Running, TestEnv, files, noise, wait_until, write};
use crate::support::openssh::OpenSsh;

fn site(options: &[&str]) -> Site {
    let builder = options.iter().fold(OpenSsh::builder(), |builder, option| builder.option(*option));
    Site { env: TestEnv::new(), server: builder.start() }
}

/// How often sshd logged this so far.
fn logged(site: &Site, text: &str) -> usize {
    site.server.log().matches(text).count()
}

#[track_caller]
fn assert_all_archived(site: &Site, running: Running, count: u64) {
    let finished = stop(running);
    finished.assert_code(0);
    assert_eq!(site.archived(), files(&site.local()));
    assert_eq!(Summary::of(&finished).totals(), (count, 0, 0, 0));
}

/// With the default timeouts: nothing may be waited for that the server has long ended.
#[test]
fn a_file_that_comes_after_the_server_closed_an_idle_session_is_archived() {
    let site = site(&["ChannelTimeout *=1s", "UnusedConnectionTimeout 1s", "LogLevel DEBUG2"]);
    let running = site.watch([]);
    for round in 0..3 {
        write(&site.local(), round.to_string(), noise(100, round));
        wait_until("it is archived", || names(&site.remote()).len() as u64 == round + 1);
        wait_until("the server closes it", || logged(&site, "seconds of inactivity") as u64 > round);
    }
    // The connection has no use any more, on either side.
    wait_until("it is closed", || site.server.sessions() == 0);
    write(&site.local(), "last", "last");
    site.wait_for(4);
    assert_all_archived(&site, running, 4);
}

#[test]
fn a_watch_that_slept_until_the_server_gave_it_up_goes_on() {
    let site = site(&["ClientAliveInterval 1", "ClientAliveCountMax 1"]);
    let running = site.watch([]);
    for round in 0..2 {
        write(&site.local(), format!("{round}/a"), noise(100, round));
        wait_until("it is archived", || names(&site.remote()).len() as u64 == 2 * round + 1);
        running.signal(Signal::STOP);
        write(&site.local(), format!("{round}/b"), noise(100, 10 + round));
        wait_until("the server gives it up", || logged(&site, "Timeout, client not responding") as u64 > round);
        running.signal(Signal::CONT);
        wait_until("it is archived", || names(&site.remote()).len() as u64 == 2 * round + 2);
    }
    assert_all_archived(&site, running, 4);
}

#[test]
fn a_watch_that_slept_in_the_middle_of_a_file_until_the_server_gave_it_up_goes_on() {
    let site = site(&["ClientAliveInterval 1", "ClientAliveCountMax 1"]);
    let running = site.watch(["--limit-rate", "10MiB"]);
    write(&site.local(), "large", noise(24 << 20, 1));
    for number in 0..50 {
        write(&site.local(), format!("small/{number}"), noise(9_000, number));
    }
    wait_until("some of it is there", || temporary(&site.remote()).values().any(|size| *size > 4 << 20));
    running.signal(Signal::STOP);
    site.server.wait_for_log("Timeout, client not responding");
    running.signal(Signal::CONT);
    site.wait_for(51);
    assert_all_archived(&site, running, 51);
}

/// The first logins take longer than the server lets them.
#[test]
fn a_login_that_takes_longer_than_its_grace_is_tried_again() {
    let site = site(&["LoginGraceTime 2"]);
    // In the identification, and in the key exchange.
    let plan = |connection| match connection {
        0 => Break::Stall { after: 0, pause: Duration::from_secs(8) },
        1 => Break::Stall { after: 300, pause: Duration::from_secs(8) },
        _ => Break::Never,
    };
    let link = BrokenLink::start(SocketAddr::from((Ipv4Addr::LOCALHOST, site.server.port())), plan);
    let port = format!(":{}", site.server.port());
    let moved = |text: &str| text.replace(&port, &format!(":{}", link.address().port()));
    let known_hosts = moved(&std::fs::read_to_string(site.server.known_hosts()).unwrap());
    let known_hosts = write(&site.env.home(), "known_hosts", known_hosts);
    let mut command = site.env.archiver(["watch", "--ssh-config", "none", "--to", &moved(&site.server.url())]);
    command.args(["--summary", "json", "--settle", "50ms", "--identity"]).arg(site.server.client_key());
    command.arg("--known-hosts").arg(known_hosts).arg(site.local());
    command.env("ARCHIVER_RETRY__INITIAL_BACKOFF", "10ms").env("ARCHIVER_RETRY__MAX_BACKOFF", "50ms");
    let running = watching(&mut command);
    write(&site.local(), "a", "a");
    site.wait_for(1);
    // The server ended the first two, long before we would have.
    assert!(link.connections() > 2);
    assert_all_archived(&site, running, 1);
}

#[test]
fn a_watch_that_slept_in_its_login_until_the_server_gave_it_up_logs_in_again() {
    let site = site(&["LoginGraceTime 2", "MaxSessions 1"]);
    let mut command = site.command([]);
    write(&site.local(), "a", "a");
    let running = Running::start(&mut command);
    wait_until("it connects", || logged(&site, "Connection from") > 0);
    running.signal(Signal::STOP);
    // The server says nothing about it. Where it let the client in first, it goes on.
    wait_until("it is given up", || site.server.sessions() == 0 || logged(&site, "Accepted publickey") > 0);
    running.signal(Signal::CONT);
    site.wait_for(1);
    assert_all_archived(&site, running, 1);
}
