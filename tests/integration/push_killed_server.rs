//! A server whose process is killed in the middle of a run, and started again on the same port and directory; and one
//! that comes back with another host key.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;

use super::{Bench, Pushed, is_part, many_bytes};
use crate::support::env::{Finished, Running, TestEnv, files, noise, wait_until, write};
use crate::support::openssh::keygen;
use crate::support::port::Port;

const USER: &str = "pine";

/// `archiver serve` of `remote/`, whose host key is in `home/.ssh/known_hosts`, and which `home/.ssh/id_ed25519` may
/// log in to.
struct Served {
    port: Port,
    host_key: PathBuf,
    process: Option<Running>,
}

impl Served {
    fn new() -> (Bench, Self) {
        let env = TestEnv::new();
        let ssh = env.home().join(".ssh");
        keygen(&ssh.join("id_ed25519"), "ed25519");
        for name in ["host", "other"] {
            keygen(&env.path().join(name), "ed25519");
        }
        let mut served = Self { port: Port::reserve(), host_key: env.path().join("host"), process: None };
        let public = fs::read_to_string(served.host_key.with_extension("pub")).unwrap();
        write(&ssh, "known_hosts", format!("[127.0.0.1]:{} {public}", served.port.number()));
        served.start(&env);
        let (to, base) = (format!("sftp://{USER}@127.0.0.1:{}/", served.port.number()), env.remote());
        (Bench::of(env, to, base), served)
    }

    #[track_caller]
    fn start(&mut self, env: &TestEnv) {
        let address = format!("127.0.0.1:{}", self.port.number());
        let mut command = env.archiver(["serve", "--user", USER, "--listen", &address, "--root"]);
        command.arg(env.remote()).arg("--host-key").arg(&self.host_key);
        command.arg("--authorized-keys").arg(env.home().join(".ssh/id_ed25519.pub"));
        let mut process = Running::start(&mut command);
        process.expect_line("  address ");
        self.process = Some(process);
    }

    /// All its connections end, and nothing of what it had in hand is finished.
    #[track_caller]
    fn kill(&mut self) -> Finished {
        let process = self.process.take().unwrap();
        process.signal(Signal::KILL);
        process.finish()
    }
}

/// Slow enough to be interrupted, and patient with a server that takes its time to come back.
const PATIENT: [&str; 4] = ["--retries", "100000", "--after", "delete"];

/// Kills the server in the middle, three times.
#[track_caller]
fn kill_thrice(bench: &Bench, served: &mut Served, has_come_so_far: impl Fn(u64) -> bool) {
    for round in 1..=3 {
        wait_until("a part of it is there", || has_come_so_far(round));
        served.kill();
        served.start(&bench.env);
    }
}

fn small_files(bench: &Bench) {
    for number in 0..300 {
        write(&bench.env.local(), format!("{}/{number}", number % 7), noise(20_000, number));
    }
}

fn names_of(bench: &Bench) -> u64 {
    // Others change it meanwhile.
    let count =
        |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().filter(|e| !is_part(&e.path())).count();
    (0..7).map(|number| count(bench.base.join(format!("in/{number}"))) as u64).sum()
}

fn large_file(bench: &Bench) {
    write(&bench.env.local(), "large.bin", [many_bytes(70), noise(4321, 1)].concat());
}

/// The length of the one temporary name, in MiB.
fn staged(bench: &Bench) -> u64 {
    let lengths = fs::read_dir(bench.base.join("in")).into_iter().flatten().flatten();
    lengths.filter(|e| is_part(&e.path())).filter_map(|e| Some(e.metadata().ok()?.len() >> 20)).max().unwrap_or(0)
}

#[test]
fn a_push_of_small_files_goes_on_with_the_server_that_was_killed_and_came_back() {
    let (bench, mut served) = Served::new();
    small_files(&bench);
    let wanted = files(&bench.env.local());
    let mut command = bench.push([bench.env.local()]);
    let running = Running::start(command.args(PATIENT).args(["--limit-rate", "4MiB"]));
    kill_thrice(&bench, &mut served, |round| names_of(&bench) >= round * 60);
    let pushed = Pushed::of(running.finish()).expect(0);
    pushed.assert_counts([300, 0, 0, 0]);
    assert_eq!(bench.archived(), wanted);
    assert!(files(&bench.env.local()).is_empty());
    bench.assert_no_part();
}

#[test]
fn a_push_of_a_large_file_goes_on_with_the_server_that_was_killed_and_came_back() {
    let (bench, mut served) = Served::new();
    large_file(&bench);
    let wanted = files(&bench.env.local());
    let mut command = bench.push([bench.env.local()]);
    let running = Running::start(command.args(PATIENT).args(["--limit-rate", "30MiB"]));
    kill_thrice(&bench, &mut served, |round| staged(&bench) >= round * 16);
    Pushed::of(running.finish()).expect(0).assert_counts([1, 0, 0, 0]);
    assert_eq!(bench.archived(), wanted);
    assert!(files(&bench.env.local()).is_empty());
    bench.assert_no_part();
}

#[test]
fn a_watch_goes_on_with_the_server_that_was_killed_and_came_back() {
    let (bench, mut served) = Served::new();
    let mut command = bench.watch([bench.env.local()]);
    let mut running = Running::start(command.args(["--after", "delete", "--settle", "50ms", "--limit-rate", "20MiB"]));
    running.expect_line("watching");
    let expected = TestEnv::new();
    let expected = Bench::of(expected, String::new(), PathBuf::new());
    for bench in [&expected, &bench] {
        small_files(bench);
        large_file(bench);
    }
    kill_thrice(&bench, &mut served, |round| staged(&bench) >= round * 8 || names_of(&bench) >= round * 90);
    wait_until("all are archived and deleted", || files_left(&bench) == 0);
    running.signal(Signal::TERM);
    Pushed::of(running.finish()).expect(0).assert_counts([301, 0, 0, 0]);
    assert_eq!(bench.archived(), files(&expected.env.local()));
    bench.assert_no_part();
}

/// Files that go away meanwhile.
fn files_left(bench: &Bench) -> usize {
    let mut left = usize::from(bench.env.local().join("large.bin").exists());
    for number in 0..7 {
        left += fs::read_dir(bench.env.local().join(number.to_string())).unwrap().count();
    }
    left
}

/// G8, and nothing that only the old server could have promised.
#[test]
fn a_server_that_comes_back_with_another_host_key_is_refused_until_it_has_the_old_one_again() {
    let (bench, mut served) = Served::new();
    let mut command = bench.watch([bench.env.local()]);
    let mut running = Running::start(command.args(["--after", "delete", "--settle", "50ms"]));
    running.expect_line("watching");
    write(&bench.env.local(), "before", "before");
    wait_until("it is archived", || {
        bench.base.join("in/before").exists() && !bench.env.local().join("before").exists()
    });

    served.kill();
    let old = std::mem::replace(&mut served.host_key, bench.env.path().join("other"));
    let known_hosts = fs::read(bench.env.home().join(".ssh/known_hosts")).unwrap();
    served.start(&bench.env);
    write(&bench.env.local(), "meanwhile", "meanwhile");
    let line = running.expect_line("checking the host key");
    for text in ["is out", "somebody is in between", "ssh-keygen -R"] {
        assert!(line.contains(text), "no {text:?} in {line}");
    }
    assert!(bench.env.local().join("meanwhile").exists() && !bench.base.join("in/meanwhile").exists());

    let impostor = served.kill();
    assert!(!impostor.stderr.contains("login"), "{}", impostor.stderr);
    served.host_key = old;
    served.start(&bench.env);
    running.expect_line("is back");
    wait_until("it is archived", || bench.base.join("in/meanwhile").exists());
    wait_until("it is deleted", || !bench.env.local().join("meanwhile").exists());
    running.signal(Signal::TERM);
    let pushed = Pushed::of(running.finish()).expect(0);
    pushed.assert_counts([2, 0, 0, 0]);
    assert_eq!(pushed.finished.stderr.matches("somebody is in between").count(), 1, "{}", pushed.finished.stderr);
    assert_eq!(fs::read(bench.env.home().join(".ssh/known_hosts")).unwrap(), known_hosts);
    assert_eq!(bench.archived().len(), 2);
    bench.assert_no_part();
}
