//! A stop may come at any moment, the very first one included, and to the first process of a container too.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use super::watch::{SETTLE, Site, Summary};
use crate::support::env::{Running, files, run, wait_until, write};
use crate::support::first_process;

/// What starts to resolve its configuration and does not come to an end of it before somebody writes to the pipe.
fn slow_to_configure(site: &Site, command: &str) -> (Command, PathBuf) {
    let pipe = site.env.path().join("archiver.toml");
    run(site.env.command("mkfifo").arg(&pipe)).assert_code(0);
    let mut slow = site.env.archiver([command, "--config"]);
    slow.arg(&pipe).args(["--summary", "json", "--settle", SETTLE]);
    (slow, pipe)
}

fn configuration(site: &Site) -> String {
    format!(
        "[[source]]\npaths = [{:?}]\n[destination]\nurl = {:?}\nidentity = {:?}\nknown-hosts = {:?}\nssh-config = \"none\"\n",
        site.local(),
        site.server.url(),
        site.server.client_key(),
        site.server.known_hosts()
    )
}

#[test]
fn a_stop_while_the_configuration_is_read_is_a_drain() {
    if !first_process::possible() {
        return;
    }
    for command in ["watch", "run"] {
        let site = Site::new();
        write(&site.local(), "a.csv", "a");
        let (mut slow, pipe) = slow_to_configure(&site, command);
        if command == "run" {
            slow.args(["--", "sh", "-c", "echo started > started.csv"]).current_dir(site.local());
        }
        let outer = Running::start(&mut first_process::wrapped(&slow));
        // Opened once the other side reads it.
        let mut writer = OpenOptions::new().write(true).open(&pipe).unwrap();
        first_process::send(first_process::pid(&outer), Signal::TERM);
        writer.write_all(configuration(&site).as_bytes()).unwrap();
        drop(writer);
        let finished = outer.finish();
        finished.assert_code(0);
        // The command was not started.
        assert_eq!(Summary::of(&finished).totals(), (1, 0, 0, 0), "{command}: {}", finished.stderr);
        assert_eq!(site.archived(), files(&site.local()));
    }
}

#[test]
fn two_interrupts_end_it_while_the_configuration_is_read() {
    for command in ["watch", "run", "push", "check"] {
        let site = Site::new();
        let (mut slow, pipe) = slow_to_configure(&site, command);
        if command == "run" {
            slow.args(["--", "true"]);
        }
        let mut running = Running::start(&mut slow);
        let _writer = OpenOptions::new().write(true).open(&pipe).unwrap();
        wait_until("it ends", || {
            // Those that come at the same moment count as one.
            first_process::send(running.pid(), Signal::INT);
            running.ends_within(std::time::Duration::from_millis(20))
        });
        running.finish().assert_code(130);
    }
}

/// From the first instruction of `main` on, one is enough.
#[test]
fn one_signal_is_enough_from_the_first_moment_on() {
    if !first_process::possible() {
        return;
    }
    let site = Site::new();
    write(&site.local(), "a.csv", "a");
    for (round, signal) in [Signal::TERM, Signal::INT].into_iter().cycle().take(8).enumerate() {
        let command = site.command(["--force"]);
        let outer = Running::start(&mut first_process::wrapped(&command));
        let pid = first_process::pid(&outer);
        while !first_process::takes(pid, signal) {
            std::thread::yield_now();
        }
        first_process::send(pid, signal);
        let finished = outer.finish();
        finished.assert_code(0);
        assert_eq!(Summary::of(&finished).totals(), (1, 0, 0, 0), "round {round}: {}", finished.stderr);
    }
}

/// Nor does it matter how many come, and how early.
#[test]
fn a_storm_of_signals_is_one_drain() {
    if !first_process::possible() {
        return;
    }
    let site = Site::new();
    write(&site.local(), "a.csv", "a");
    let command = site.command([]);
    let mut outer = Running::start(&mut first_process::wrapped(&command));
    let pid = first_process::pid(&outer);
    wait_until("it ends", || {
        first_process::send(pid, Signal::TERM);
        outer.ends_within(std::time::Duration::from_millis(1))
    });
    let finished = outer.finish();
    finished.assert_code(0);
    assert_eq!(Summary::of(&finished).totals(), (1, 0, 0, 0));
    assert_eq!(site.archived(), files(&site.local()));
}

/// What is no request to stop does not end it, either.
#[test]
fn how_far_it_is_may_be_asked_at_any_moment() {
    let site = Site::new();
    let (mut slow, pipe) = slow_to_configure(&site, "watch");
    let mut running = Running::start(&mut slow);
    let mut writer = OpenOptions::new().write(true).open(&pipe).unwrap();
    running.signal(Signal::USR1);
    writer.write_all(configuration(&site).as_bytes()).unwrap();
    drop(writer);
    running.expect_line("watching");
    running.signal(Signal::TERM);
    running.finish().assert_code(0);
}
