//! Filesystems that hang, as a network mount does whose server is gone: nothing but their own files waits for them.

use std::process::Command;

use rustix::process::Signal;

use crate::support::embedded::Embedded;
use crate::support::env::{Running, TestEnv, files, noise, wait_until, write};
use crate::support::namespace;

/// Two sources, a destination for each; `b/mount` hangs, and is named first.
struct Two {
    env: TestEnv,
    _server: Embedded,
}

impl Two {
    fn new() -> Option<Self> {
        let env = TestEnv::new();
        let server = Embedded::start(&env);
        std::fs::create_dir_all(env.local().join("b/mount")).unwrap();
        if !namespace::can_hang(&env.local().join("b/mount")) {
            return None;
        }
        for number in 0..50 {
            write(&env.local(), format!("a/{number}"), noise(200, number));
            write(&env.local(), format!("b/{number}"), noise(200, number));
        }
        let source = |name: &str| {
            let path = env.local().join(name);
            format!("[[source]]\nname = \"{name}\"\npaths = [\"{}\"]\nafter = \"delete\"\n", path.display())
        };
        let config = format!(
            "[destination]\nurl = \"{}\"\nlayout = \"in\"\n[ledger]\nurl = \"{}\"\n{}destination.url = \"{}\"\n{}",
            server.url("/one"),
            env.home().join("ledger.db").display(),
            source("b"),
            server.url("/two"),
            source("a"),
        );
        write(env.path(), "archiver.toml", config);
        Some(Self { env, _server: server })
    }

    fn start(&self, command: &mut Command) -> Running {
        let setup = namespace::hangs_at(&self.env.local().join("b/mount"));
        Running::start(&mut namespace::within(&setup, command))
    }

    /// Files go away meanwhile, so that they are only counted.
    #[track_caller]
    fn wait_until_archived(&self, count: usize) {
        let left = || std::fs::read_dir(self.env.local().join("a")).unwrap().count();
        let there = || std::fs::read_dir(self.env.remote().join("one/in")).into_iter().flatten().count();
        wait_until("all but what hangs is archived", || left() == 0 && there() == count);
    }
}

#[test]
fn a_source_that_hangs_holds_up_no_other_destination_and_not_the_end() {
    let Some(two) = Two::new() else { return };
    let mut running = two.start(&mut two.env.archiver(["watch", "--settle", "20ms", "--scan-interval", "1s"]));
    two.wait_until_archived(50);
    write(&two.env.local(), "a/new", "new");
    two.wait_until_archived(51);
    running.signal(Signal::INT);
    running.expect_line("interrupted");
    running.signal(Signal::INT);
    running.finish().assert_code(130);
}

#[test]
fn a_push_of_a_source_that_hangs_archives_for_the_other_destination() {
    let Some(two) = Two::new() else { return };
    let running = two.start(&mut two.env.archiver(["push"]));
    two.wait_until_archived(50);
    // Nobody waits for the walk that hangs, and there was more to take in.
    running.signal(Signal::INT);
    running.finish().assert_code(4);
}

#[test]
fn a_stop_file_on_a_filesystem_that_hangs_holds_up_no_file() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    let mount = env.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    if !namespace::can_hang(&mount) {
        return;
    }
    let mut command = env.archiver(["watch", "--settle", "20ms", "--layout", "in", "--to", &server.url("/")]);
    command.arg("--until").arg(mount.join("stop")).arg(env.local());
    let mut running = Running::start(&mut namespace::within(&namespace::hangs_at(&mount), &command));
    running.expect_line("watching");
    for number in 0..40 {
        write(&env.local(), format!("{number}"), noise(200, number));
        // One after the other, so that some come after the first look at the stop file.
        wait_until("it is archived", || env.remote().join(format!("in/{number}")).exists());
    }
    running.signal(Signal::TERM);
    running.finish().assert_code(0);
    assert_eq!(files(&env.remote().join("in")), files(&env.local()));
}
