//! Large files that were interrupted: what is sent again, counted; and what is made of a temporary name that somebody
//! tampered with in between.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use archiver::embedded::{Fault, Operation, Quirks, Request};
use rustix::process::Signal;
use tokio::runtime::Runtime;

use super::crash::{Moment, Trap};
use super::{Bench, Pushed, many_bytes};
use crate::support::embedded::Embedded;
use crate::support::env::{Running, TestEnv, files, noise, wait_until, write};
use crate::support::openssh::OpenSsh;
use crate::support::relay::Relay;

/// A little more than what is resumed, and no multiple of any packet.
const MEGABYTES: u32 = 66;
const SIZE: u64 = ((MEGABYTES as u64) << 20) + 4321;
/// What may be on its way unacknowledged when a connection breaks (`stage::WINDOW_BYTES`): all that an interruption may
/// cost.
const WINDOW: u64 = 4 << 20;
const AFTER: [&str; 2] = ["--after", "delete"];
/// Slow enough to be interrupted, and patient with a server that takes its time to come back.
const RATE: [&str; 4] = ["--limit-rate", "60MiB", "--retries", "10000"];

fn content() -> Vec<u8> {
    let mut bytes = many_bytes(MEGABYTES);
    bytes.extend(noise(4321, 1));
    bytes
}

/// The lengths of all WRITEs that came to the server.
#[derive(Clone, Default)]
struct Wire(Arc<AtomicU64>);

impl Wire {
    fn note(&self, request: &Request) {
        if request.operation == Operation::Write {
            self.0.fetch_add(request.length, Ordering::SeqCst);
        }
    }

    fn bytes(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A bench with one large file, a trap, and the count of what comes to the server.
fn trapped(content: &[u8]) -> (Bench, Embedded, Trap, Wire) {
    let env = TestEnv::new();
    let (trap_faults, trap) = Trap::set();
    let wire = Wire::default();
    let counter = wire.clone();
    let faults = move |request: &Request| {
        counter.note(request);
        trap_faults(request)
    };
    let server = Embedded::start_with(&env, Quirks::default(), Some(Arc::new(faults)));
    let bench = Bench::embedded(env, &server);
    write(&bench.env.local(), "large.bin", content);
    (bench, server, trap, wire)
}

/// The bytes stand under their final name, the local file is gone, and nothing temporary is left but what `foreign` says.
#[track_caller]
fn assert_whole(bench: &Bench, content: &[u8], foreign: &[&Path]) {
    assert!(fs::read(bench.base.join("in/large.bin")).unwrap() == content, "other bytes were published");
    assert!(fs::symlink_metadata(bench.base.join("in/large.bin")).unwrap().is_file());
    assert!(files(&bench.env.local()).is_empty());
    let mut left: Vec<_> = fs::read_dir(bench.base.join("in")).unwrap().map(|entry| entry.unwrap().path()).collect();
    left.retain(|path| !path.ends_with("large.bin") && !foreign.contains(&path.as_path()));
    assert!(left.is_empty(), "left on the server: {left:?}");
}

/// The one temporary name.
#[track_caller]
fn part(bench: &Bench) -> PathBuf {
    let [part] =
        files(&bench.base).into_keys().filter(|path| super::is_part(path)).collect::<Vec<_>>().try_into().unwrap();
    bench.base.join(part)
}

#[test]
fn killed_at_several_offsets_it_sends_nothing_twice() {
    let content = content();
    let (bench, _server, trap, wire) = trapped(&content);
    // The so-manieth WRITE of each run: near the beginning, in the middle, near the end, and at once.
    let kills =
        [(3, Moment::After), (90, Moment::Before), (1, Moment::After), (120, Moment::After), (20, Moment::Before)];
    for (nth, moment) in kills {
        trap.kill_at(bench.push([bench.env.local()]).args(AFTER), Operation::Write, nth, moment);
    }
    Pushed::run(bench.push([bench.env.local()]).args(AFTER)).expect(0).assert_counts([1, 0, 0, 0]);
    assert_whole(&bench, &content, &[]);
    let (sent, limit) = (wire.bytes(), SIZE + kills.len() as u64 * WINDOW);
    eprintln!("killed {} times: {sent} bytes sent for {SIZE}", kills.len());
    assert!(sent >= SIZE && sent <= limit, "{sent} bytes were sent for {SIZE}; at most {limit} are called for");
}

/// One run whose connection breaks again and again.
#[test]
fn a_connection_that_breaks_in_the_middle_costs_no_more_than_its_window() {
    let content = content();
    let env = TestEnv::new();
    let (wire, writes) = (Wire::default(), AtomicUsize::new(0));
    let counter = wire.clone();
    let server = Embedded::with_faults(&env, move |request: &Request| {
        counter.note(request);
        let nth = match request.operation {
            Operation::Write => writes.fetch_add(1, Ordering::SeqCst) + 1,
            _ => 0,
        };
        match nth {
            50 | 200 => Fault::DropConnection,
            2 | 110 => Fault::DropAfter,
            _ => Fault::None,
        }
    });
    let bench = Bench::embedded(env, &server);
    write(&bench.env.local(), "large.bin", &content);
    Pushed::run(bench.push([bench.env.local()]).args(AFTER)).expect(0).assert_counts([1, 0, 0, 0]);
    assert_whole(&bench, &content, &[]);
    let (sent, limit) = (wire.bytes(), SIZE + 4 * WINDOW);
    eprintln!("cut 4 times: {sent} bytes sent for {SIZE}");
    assert!(sent >= SIZE && sent <= limit, "{sent} bytes were sent for {SIZE}; at most {limit} are called for");
}

/// A real sshd behind a relay that counts what passes.
struct Counted {
    server: OpenSsh,
    bench: Bench,
    relay: Relay,
    /// Drives the relay.
    _runtime: Runtime,
}

impl Counted {
    fn new(content: &[u8]) -> Self {
        let server = OpenSsh::plain();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()));
        let relay = runtime.block_on(Relay::start(target, Duration::ZERO)).unwrap();
        let bench = Bench::relayed(&server, &relay);
        write(&bench.env.local(), "large.bin", content);
        Self { server, bench, relay, _runtime: runtime }
    }

    /// The bytes that were sent fit the file and so many interruptions; SSH, SFTP and each login add a little.
    #[track_caller]
    fn assert_frugal(&self, interruptions: u64) {
        // What is in the relay and in the kernel's buffers counts as sent and may never have come.
        let (sent, slack) = (self.relay.bytes_up(), SIZE / 100 + (interruptions + 1) * (256 << 10));
        eprintln!("OpenSSH, interrupted {interruptions} times: {sent} bytes passed for {SIZE}");
        let limit = SIZE + interruptions * WINDOW + slack;
        assert!(sent >= SIZE && sent <= limit, "{sent} bytes were sent for {SIZE}; at most {limit} are called for");
    }
}

#[test]
fn openssh_is_sent_nothing_twice_when_the_archiver_is_killed() {
    let content = content();
    let counted = Counted::new(&content);
    let bench = &counted.bench;
    for megabytes in [5, 30, 10] {
        let goal = counted.relay.bytes_up() + (megabytes << 20);
        let mut command = bench.push([bench.env.local()]);
        let running = Running::start(command.args(AFTER).args(RATE));
        wait_until("a part of it is sent", || counted.relay.bytes_up() >= goal);
        running.signal(Signal::KILL);
        assert_eq!(running.finish().code(), None, "it ended before it was killed");
    }
    Pushed::run(bench.push([bench.env.local()]).args(AFTER)).expect(0).assert_counts([1, 0, 0, 0]);
    assert_whole(bench, &content, &[]);
    counted.assert_frugal(3);
}

#[test]
fn openssh_is_sent_nothing_twice_when_connections_break() {
    let content = content();
    let counted = Counted::new(&content);
    let bench = &counted.bench;
    let running = Running::start(bench.push([bench.env.local()]).args(AFTER).args(RATE));
    for megabytes in [3, 20, 25] {
        counted.relay.cut_after(megabytes << 20);
        wait_until("it is cut", || !counted.relay.is_armed());
    }
    Pushed::of(running.finish()).expect(0).assert_counts([1, 0, 0, 0]);
    assert_whole(bench, &content, &[]);
    counted.assert_frugal(3);
}

#[test]
fn a_server_that_is_killed_is_sent_nothing_twice() {
    let content = content();
    let mut counted = Counted::new(&content);
    let running = Running::start(counted.bench.push([counted.bench.env.local()]).args(AFTER).args(RATE));
    for megabytes in [8, 20] {
        let goal = counted.relay.bytes_up() + (megabytes << 20);
        wait_until("a part of it is sent", || counted.relay.bytes_up() >= goal);
        counted.server.restart();
    }
    Pushed::of(running.finish()).expect(0).assert_counts([1, 0, 0, 0]);
    assert_whole(&counted.bench, &content, &[]);
    counted.assert_frugal(2);
}

/// What was done to the temporary name while nobody was looking; gives what is not ours to remove, and must be left as
/// it is.
type Tamper = fn(&Path) -> Option<PathBuf>;

fn open(path: &Path) -> File {
    File::options().write(true).open(path).unwrap()
}

const TAMPERS: [(&str, Tamper); 14] = [
    ("nothing", |_| None),
    ("removed", |part| {
        fs::remove_file(part).unwrap();
        None
    }),
    ("truncated", |part| {
        open(part).set_len(5_000_001).unwrap();
        None
    }),
    ("emptied", |part| {
        open(part).set_len(0).unwrap();
        None
    }),
    ("extended by zeros to the size of the whole", |part| {
        open(part).set_len(SIZE).unwrap();
        None
    }),
    ("extended beyond the size of the whole", |part| {
        open(part).write_all_at(b"tail", SIZE + 10).unwrap();
        None
    }),
    ("a byte flipped in the middle", |part| {
        let mut byte = [0];
        File::open(part).unwrap().read_exact_at(&mut byte, 7_654_321).unwrap();
        open(part).write_all_at(&[!byte[0]], 7_654_321).unwrap();
        None
    }),
    ("replaced by a foreign file", |part| {
        fs::remove_file(part).unwrap();
        fs::write(part, noise(9 << 20, 55)).unwrap();
        None
    }),
    ("replaced by a foreign file that is larger", |part| {
        fs::remove_file(part).unwrap();
        fs::write(part, vec![b'#'; SIZE as usize + 99]).unwrap();
        None
    }),
    ("made unreadable", |part| {
        fs::set_permissions(part, fs::Permissions::from_mode(0o000)).unwrap();
        None
    }),
    ("replaced by a directory with a file in it", |part| {
        fs::remove_file(part).unwrap();
        write(part, "theirs", "theirs");
        Some(part.to_owned())
    }),
    ("replaced by an empty directory", |part| {
        fs::remove_file(part).unwrap();
        fs::create_dir(part).unwrap();
        Some(part.to_owned())
    }),
    ("replaced by a link to somebody's file", |part| {
        fs::remove_file(part).unwrap();
        symlink(victim(part), part).unwrap();
        Some(part.to_owned())
    }),
    ("replaced by a link to nothing", |part| {
        fs::remove_file(part).unwrap();
        symlink(part.with_file_name("nothing"), part).unwrap();
        Some(part.to_owned())
    }),
];

/// Somebody's file beside the archive, below the directory that the server shows.
fn victim(part: &Path) -> PathBuf {
    part.ancestors().nth(2).unwrap().join("victim")
}

/// All that can be seen of what was put in the place of the temporary name.
fn look(path: &Path) -> String {
    let found = fs::symlink_metadata(path).unwrap();
    let below = if found.is_dir() { format!("{:?}", files(path)) } else { format!("{:?}", fs::read_link(path)) };
    format!("{:?} {:o} {below}", found.file_type(), found.permissions().mode())
}

fn tampered_with(what: &str, tamper: Tamper, content: &[u8], options: &[&str]) {
    let (bench, _server, trap, wire) = trapped(content);
    let theirs = noise(12 << 20, 99);
    write(&bench.base, "victim", &theirs);
    trap.kill_at(bench.push([bench.env.local()]).args(AFTER), Operation::Write, 60, Moment::After);
    let before = wire.bytes();
    let foreign = tamper(&part(&bench));
    let seen = foreign.as_deref().map(look);
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(AFTER).args(options));
    assert_eq!(fs::read(bench.base.join("victim")).unwrap().len(), theirs.len(), "{what}: written through a link");
    assert!(fs::read(bench.base.join("victim")).unwrap() == theirs, "{what}: written through a link");
    pushed.expect(0).assert_counts([1, 0, 0, 0]);
    assert_eq!(foreign.as_deref().map(look), seen, "{what}: what is not ours was touched");
    assert_whole(&bench, content, &foreign.iter().map(PathBuf::as_path).collect::<Vec<_>>());
    let again = wire.bytes() - before;
    eprintln!("{what}: {before} bytes before, {again} after");
    assert!(again <= SIZE + WINDOW, "{what}: {again} bytes were sent for {SIZE}");
}

#[test]
fn a_temporary_name_that_was_tampered_with_is_never_trusted_nor_written_through() {
    let content = Arc::new(content());
    let next = Mutex::new(TAMPERS.iter());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((what, tamper)) = { next.lock().unwrap().next() } {
                    tampered_with(what, *tamper, &content, &[]);
                }
            });
        }
    });
}

/// Nobody verifies afterwards what does not even have the right size.
#[test]
fn what_was_put_behind_the_end_is_not_published_where_nothing_is_verified() {
    for (what, tamper) in TAMPERS.iter().filter(|(what, _)| what.contains("beyond") || what.contains("larger")) {
        tampered_with(what, *tamper, &content(), &["--verify", "none"]);
    }
}

/// A version that took the place of the interrupted one is sent from its own first byte.
#[test]
fn another_version_is_never_mixed_with_what_was_sent_of_the_first() {
    type Change = fn(&Path, &[u8]);
    let changes: [(&str, Change); 4] = [
        ("rewritten in place", |path, other| fs::write(path, other).unwrap()),
        ("replaced", |path, other| {
            fs::remove_file(path).unwrap();
            fs::write(path, other).unwrap();
        }),
        // Nothing of what names the version says so: the same inode, size and modification time.
        ("rewritten, with its time set back", |path, other| {
            let modified = fs::metadata(path).unwrap().modified().unwrap();
            fs::write(path, other).unwrap();
            open(path).set_modified(modified).unwrap();
        }),
        ("appended to", |path, _| {
            let end = fs::metadata(path).unwrap().len();
            open(path).write_all_at(b"more", end).unwrap();
        }),
    ];
    let content = content();
    let mut other = content.clone();
    other[20 << 20..].reverse();
    std::thread::scope(|scope| {
        for (what, change) in changes {
            let (content, other) = (&content, &other);
            scope.spawn(move || {
                let (bench, _server, trap, _wire) = trapped(content);
                trap.kill_at(bench.push([bench.env.local()]).args(AFTER), Operation::Write, 100, Moment::After);
                let path = bench.env.local().join("large.bin");
                change(&path, other);
                let wanted = fs::read(&path).unwrap();
                Pushed::run(bench.push([bench.env.local()]).args(AFTER)).expect(0);
                assert_whole(&bench, &wanted, &[]);
                eprintln!("{what}: whole");
            });
        }
    });
}

/// A small file is not resumed; what stands under its temporary name is in the way only where it is ours.
#[test]
fn a_small_file_goes_its_way_whatever_has_its_old_temporary_name() {
    std::thread::scope(|scope| {
        for (what, tamper) in TAMPERS.iter().filter(|(what, _)| what.starts_with("replaced by a")) {
            scope.spawn(move || {
                let content = noise(70_000, 3);
                let (bench, _server, trap, _) = trapped(&content);
                let theirs = write(&bench.base, "victim", "theirs");
                trap.kill_at(bench.push([bench.env.local()]).args(AFTER), Operation::Write, 1, Moment::After);
                let foreign = tamper(&part(&bench));
                let seen = foreign.as_deref().map(look);
                Pushed::run(bench.push([bench.env.local()]).args(AFTER)).expect(0).assert_counts([1, 0, 0, 0]);
                assert_eq!(fs::read(theirs).unwrap(), b"theirs");
                assert_eq!(foreign.as_deref().map(look), seen, "{what}");
                assert_whole(&bench, &content, &foreign.iter().map(PathBuf::as_path).collect::<Vec<_>>());
            });
        }
    });
}

/// The embedded server leaves its tree through no link; OpenSSH's does.
#[test]
fn openssh_is_not_made_to_write_through_a_link() {
    let content = content();
    std::thread::scope(|scope| {
        for ((what, tamper), how) in TAMPERS
            .iter()
            .filter(|(what, _)| what.contains("by a link"))
            .flat_map(|tamper| [(tamper, "between two runs"), (tamper, "within a run")])
        {
            let content = &content;
            scope.spawn(move || {
                let mut counted = Counted::new(content);
                let base = counted.bench.base.clone();
                let theirs = write(&base, "victim", noise(12 << 20, 99));
                let before = fs::read(&theirs).unwrap();
                let push = |bench: &Bench| {
                    let mut command = bench.push([bench.env.local()]);
                    command.args(AFTER).args(RATE);
                    Running::start(&mut command)
                };
                let mut running = push(&counted.bench);
                wait_until("a part of it is sent", || counted.relay.bytes_up() > 9 << 20);
                let tampered = part(&counted.bench);
                if how == "within a run" {
                    counted.server.kill();
                    tamper(&tampered);
                    counted.server.restart();
                } else {
                    running.signal(Signal::KILL);
                    assert_eq!(running.finish().code(), None);
                    tamper(&tampered);
                    running = push(&counted.bench);
                }
                let finished = running.finish();
                assert!(fs::read(&theirs).unwrap() == before, "{what}, {how}: written through it");
                assert!(!base.join("in/nothing").exists(), "{what}, {how}: written through it");
                Pushed::of(finished).expect(0).assert_counts([1, 0, 0, 0]);
                assert!(fs::symlink_metadata(&tampered).is_ok(), "{what}, {how}: what is not ours was removed");
                assert_whole(&counted.bench, content, &[tampered.as_path()]);
            });
        }
    });
}

/// The next attempt has a name of its own.
#[test]
fn a_directory_that_appears_between_two_attempts_stays_and_the_next_one_goes_past_it() {
    let (_, tamper) = TAMPERS.iter().find(|(what, _)| what.contains("with a file in it")).unwrap();
    let content = content();
    let env = TestEnv::new();
    let (remote, writes) = (env.remote(), AtomicUsize::new(0));
    let server = Embedded::with_faults(&env, move |request: &Request| {
        if request.operation == Operation::Write && writes.fetch_add(1, Ordering::SeqCst) + 1 == 60 {
            tamper(&remote.join(request.path.trim_start_matches('/')));
            return Fault::DropConnection;
        }
        Fault::None
    });
    let bench = Bench::embedded(env, &server);
    write(&bench.env.local(), "large.bin", &content);
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(AFTER).args(["--retries", "3"])).expect(0);
    pushed.assert_counts([1, 0, 0, 0]);
    let theirs: Vec<_> = files(&bench.base).into_keys().filter(|path| path.ends_with("theirs")).collect();
    assert_eq!(theirs.len(), 1);
    assert_whole(&bench, &content, &[bench.base.join(theirs[0].parent().unwrap()).as_path()]);
}
