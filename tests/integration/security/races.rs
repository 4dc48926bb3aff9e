//! The application swaps its directories and files for links, FIFOs and other things, as fast as the kernel lets it,
//! while the binary archives, deletes and moves. Nothing outside is ever read, removed or written (G10).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};

use crate::support::embedded::Embedded;
use crate::support::env::{DEADLINE, Entry, Running, TestEnv, run, tree, write};
use crate::support::seccomp::{Refusal, without_openat2};
use crate::watch;

/// Swaps of a test at least.
const SWAPS: u64 = 20_000;
/// Files of a test that get through between the swaps, at least.
const FILES: usize = 20;
/// Between two looks at what a watch has done.
const PAUSE: Duration = Duration::from_millis(5);
/// Names that the tests give to files, each of which has a decoy.
const NAMES: usize = 160;

/// Exchanges two names without a pause while it lives.
struct Swapper {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    fn start(one: PathBuf, other: PathBuf) -> Self {
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (stop, swaps) = (stop.clone(), swaps.clone());
            move || {
                // An even number, so that each ends where it was.
                while !(stop.load(Ordering::Relaxed) && swaps.load(Ordering::Relaxed).is_multiple_of(2)) {
                    // The archiver may be between its two names of what is swapped.
                    if renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).is_ok() {
                        swaps.fetch_add(1, Ordering::Relaxed);
                    } else if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    std::thread::yield_now();
                }
            }
        });
        Self { stop, swaps, thread: Some(thread) }
    }

    fn count(&self) -> u64 {
        self.swaps.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.end();
    }
}

/// An application's volume in `local/`, files that are none of its own in `outside/`, and a server.
struct Field {
    env: TestEnv,
    server: Embedded,
    before: BTreeMap<PathBuf, Entry>,
}

impl Field {
    /// `outside/` has a decoy for each name that the tests give to files, at the depth of `local/` and of `local/d/`.
    fn new() -> Self {
        let env = TestEnv::new();
        let outside = env.path().join("outside");
        for number in 0..NAMES {
            for place in ["", "d/"] {
                write(&outside, format!("{place}{number}.csv"), format!("DECOY {number}"));
                write(&outside, format!("{place}{number}.csv.done"), "DECOY");
            }
        }
        fs::create_dir_all(env.local().join("d")).unwrap();
        let server = Embedded::start(&env);
        let before = tree(&outside);
        Self { env, server, before }
    }

    fn outside(&self) -> PathBuf {
        self.env.path().join("outside")
    }

    /// What `local/d` is swapped with: a link to the decoys.
    fn link(&self, target: &str) -> PathBuf {
        let link = self.env.path().join("link");
        symlink(self.outside().join(target), &link).unwrap();
        link
    }

    fn archiver(&self, command: &str, arguments: &[&str]) -> Command {
        let mut archiver = self.env.archiver([command, "--to", &self.server.url("/")]);
        archiver.args(arguments).env("ARCHIVER_SUMMARY", "none");
        archiver.env("ARCHIVER_RETRY__INITIAL_BACKOFF", "1ms").env("ARCHIVER_RETRY__MAX_BACKOFF", "5ms");
        archiver
    }

    /// Final names on the server; whatever stands there is of the application itself.
    #[track_caller]
    fn archived(&self) -> usize {
        let names = watch::names(&self.env.remote());
        for path in names.keys().chain(watch::temporary(&self.env.remote()).keys()) {
            // A temporary name may have gone meanwhile.
            let content = fs::read(path).unwrap_or_default();
            assert!(!content.windows(5).any(|part| part == b"DECOY"), "{} is from outside", path.display());
        }
        names.len()
    }

    #[track_caller]
    fn assert_untouched(&self) {
        let after = tree(&self.outside());
        let changed = |(path, entry): &(&PathBuf, &Entry)| self.before.get(*path) != Some(entry);
        let changed: Vec<_> = after.iter().filter(changed).collect();
        let lost: Vec<_> = self.before.keys().filter(|path| !after.contains_key(*path)).collect();
        assert!(changed.is_empty() && lost.is_empty(), "outside: changed {changed:?}, lost {lost:?}");
    }
}

/// Writes files into a directory by its handle, whatever name it has at the moment.
struct Feeder {
    directory: File,
    next: usize,
}

impl Feeder {
    fn of(directory: &Path) -> Self {
        Self { directory: File::open(directory).unwrap(), next: 0 }
    }

    /// Keeps a few files there, under names that have decoys outside, and their markers.
    fn feed(&mut self) {
        let here = PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()));
        if fs::read_dir(&here).unwrap().count() < 2 * FILES {
            let number = self.next % (NAMES);
            self.next += 1;
            fs::write(here.join(format!("{number}.csv")), format!("REAL {}", self.next)).unwrap();
            fs::write(here.join(format!("{number}.csv.done")), "").unwrap();
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Kernel {
    New,
    Lacking(Refusal),
}

impl Kernel {
    fn bound(self, mut command: Command) -> Command {
        if let Self::Lacking(refusal) = self {
            without_openat2(&mut command, refusal);
        }
        command
    }
}

/// Runs `once` again and again until enough was swapped and enough got through; gives the rounds.
#[track_caller]
fn until_enough(field: &Field, swapper: &mut Swapper, mut once: impl FnMut()) -> u64 {
    let (begin, mut rounds) = (Instant::now(), 0);
    while swapper.count() < SWAPS || field.archived() < FILES {
        once();
        rounds += 1;
        let (swaps, archived) = (swapper.count(), field.archived());
        assert!(begin.elapsed() < DEADLINE, "only {swaps} swaps and {archived} files in {rounds} rounds");
    }
    swapper.end();
    field.assert_untouched();
    rounds
}

#[track_caller]
fn pushes(kernel: Kernel, options: &[&str]) {
    let field = Field::new();
    let (local, d) = (field.env.local(), field.env.local().join("d"));
    let mut feeder = Feeder::of(&d);
    let mut swapper = Swapper::start(d, field.link("d"));
    let rounds = until_enough(&field, &mut swapper, || {
        (0..FILES).for_each(|_| feeder.feed());
        let mut push = kernel.bound(field.archiver("push", options));
        let finished = run(push.arg(&local));
        assert!(matches!(finished.code(), Some(0 | 1 | 4)), "{finished:?}");
    });
    eprintln!("{kernel:?} {options:?}: {} swaps, {rounds} pushes, {} archived", swapper.count(), field.archived());
}

#[test]
fn a_directory_swapped_for_a_link_is_never_left_by_push() {
    pushes(Kernel::New, &["--after", "delete", "--marker", "{name}.done"]);
}

#[test]
fn a_directory_swapped_for_a_link_is_never_left_without_openat2() {
    pushes(Kernel::Lacking(Refusal::Unknown), &["--after", "delete", "--marker", "{name}.done"]);
    pushes(Kernel::Lacking(Refusal::Forbidden), &["--after", "delete"]);
}

#[track_caller]
fn watches(kernel: Kernel, options: &[&str]) {
    let field = Field::new();
    let (local, d) = (field.env.local(), field.env.local().join("d"));
    let mut feeder = Feeder::of(&d);
    let mut watch = field.archiver("watch", options);
    watch.args(["--settle", "1ms", "--scan-interval", "100ms", "--after", "delete", "-q"]);
    let running = Running::start(kernel.bound(watch).arg(&local));
    let mut swapper = Swapper::start(d, field.link("d"));
    until_enough(&field, &mut swapper, || {
        (0..FILES).for_each(|_| feeder.feed());
        std::thread::park_timeout(PAUSE);
    });
    running.signal(rustix::process::Signal::TERM);
    let finished = running.finish();
    assert!(matches!(finished.code(), Some(0 | 1 | 4)), "{finished:?}");
    field.assert_untouched();
    eprintln!("{kernel:?} {options:?}: {} swaps, {} archived", swapper.count(), field.archived());
}

#[test]
fn a_directory_swapped_for_a_link_is_never_left_by_watch() {
    watches(Kernel::New, &["--marker", "{name}.done"]);
    watches(Kernel::Lacking(Refusal::Forbidden), &["--watcher", "poll"]);
}

/// The source's own directory, and one above it: whoever can rename those decides what the source's path names.
#[test]
fn a_source_swapped_for_a_link_is_not_followed() {
    for depth in ["local", "local/d"] {
        let field = Field::new();
        let source = field.env.local().join("d");
        let mut feeder = Feeder::of(&source);
        let mut watch = field.archiver("watch", &["--settle", "1ms", "--scan-interval", "100ms", "--after", "delete"]);
        let mut running = Running::start(watch.arg(&source));
        running.expect_line("watching");
        let target = if depth == "local" { "" } else { "d" };
        let mut swapper = Swapper::start(field.env.path().join(depth), field.link(target));
        until_enough(&field, &mut swapper, || {
            (0..FILES).for_each(|_| feeder.feed());
            std::thread::park_timeout(PAUSE);
        });
        running.signal(rustix::process::Signal::TERM);
        running.finish();
        field.assert_untouched();
        field.archived();
        eprintln!("{depth}: {} swaps, {} archived", swapper.count(), field.archived());
    }
}

/// `--after move=DIR` to a directory in the application's reach.
#[test]
fn a_target_of_moves_swapped_for_a_link_takes_nothing_elsewhere() {
    for (target, swapped) in [(".done", ".done"), (".done/sub", ".done"), (".done", ".done/d")] {
        let field = Field::new();
        let local = field.env.local();
        fs::create_dir_all(local.join(".done/sub/d")).unwrap();
        fs::create_dir_all(local.join(".done/d")).unwrap();
        let mut feeder = Feeder::of(&local.join("d"));
        let mut swapper = Swapper::start(local.join(swapped), field.link(""));
        let after = format!("move={}", local.join(target).display());
        until_enough(&field, &mut swapper, || {
            (0..FILES).for_each(|_| feeder.feed());
            run(field.archiver("push", &["--after", &after]).arg(&local));
        });
        eprintln!("{target}, {swapped} swapped: {} swaps, {} archived", swapper.count(), field.archived());
    }
}

/// A link that stood before the archiver came is no better, where the application can put it there.
#[test]
fn a_target_of_moves_below_the_source_is_no_link() {
    let field = Field::new();
    let local = field.env.local();
    write(&local, "d/new.csv", "REAL");
    symlink(field.outside(), local.join(".done")).unwrap();
    let after = format!("move={}", local.join(".done").display());
    let finished = run(field.archiver("push", &["--after", &after, "--summary", "json"]).arg(&local));
    assert_eq!(field.archived(), 1);
    assert!(finished.stdout.contains("symbolic link"), "{finished:?}");
    assert!(local.join("d/new.csv").exists());
    field.assert_untouched();
    // Elsewhere it is the user's own, and followed.
    let own = field.env.path().join("own");
    fs::create_dir(field.env.path().join("real")).unwrap();
    symlink("real", &own).unwrap();
    write(&local, "d/next.csv", "REAL");
    run(field.archiver("push", &["--after", &format!("move={}", own.display())]).arg(&local)).assert_code(0);
    assert!(field.env.path().join("real/d/next.csv").exists());
}

/// One name that is by turns a file, a link to a decoy, a FIFO and a directory.
#[test]
fn a_file_swapped_for_something_else_is_that_file_or_nothing() {
    type Make = fn(&Field, &Path);
    let others: [(&str, Make); 3] = [
        ("link", |field, path| symlink(field.outside().join("0.csv"), path).unwrap()),
        ("fifo", |_, path| mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap()),
        ("directory", |_, path| fs::create_dir(path).unwrap()),
    ];
    for (what, make) in others {
        let field = Field::new();
        let (file, other) = (field.env.local().join("0.csv"), field.env.path().join("other"));
        make(&field, &other);
        fs::write(&file, "REAL").unwrap();
        let mut swapper = Swapper::start(file.clone(), other);
        let begin = Instant::now();
        let mut pushes = 0;
        while swapper.count() < SWAPS || pushes < 20 {
            assert!(begin.elapsed() < DEADLINE, "{what}: {} swaps, {pushes} pushes", swapper.count());
            // Named itself, so that it is opened whatever a walk would say of it.
            let named = [OsString::from(&file)];
            run(field.archiver("push", &["--force", "--on-conflict", "overwrite"]).args(&named));
            pushes += 1;
        }
        swapper.end();
        field.assert_untouched();
        eprintln!("{what}: {} swaps, {pushes} pushes, {} archived", swapper.count(), field.archived());
    }
}

/// What can be linked cannot be told from a file of one's own: the kernel's `fs.protected_hardlinks` is what keeps an
/// application from linking files that it may not read. The other name of the file stays in any case.
#[test]
fn a_hard_link_is_a_file_and_its_other_name_stays() {
    let field = Field::new();
    let original = write(&field.env.path().join("elsewhere"), "original", "LINKED");
    fs::hard_link(&original, field.env.local().join("0.csv")).unwrap();
    run(field.archiver("push", &["--after", "delete"]).arg(field.env.local())).assert_code(0);
    assert_eq!(field.archived(), 1);
    assert!(!field.env.local().join("0.csv").exists());
    assert_eq!(fs::read(&original).unwrap(), b"LINKED");
}

#[test]
fn a_list_of_files_does_not_lead_out_of_its_directory() {
    let field = Field::new();
    let local = field.env.local();
    write(&local, "in.csv", "REAL");
    symlink(field.outside(), local.join("out")).unwrap();
    let outside = field.outside().join("1.csv");
    let list = format!(
        "in.csv\n../outside/0.csv\nd/../../outside/0.csv\n{}\nout/2.csv\n/etc/passwd\n/proc/self/environ\n",
        outside.display()
    );
    let list = write(field.env.path(), "list", list);
    let finished = run(field.archiver("push", &["--after", "delete", "--files-from"]).arg(&list).arg(&local));
    finished.assert_code(1);
    assert_eq!(field.archived(), 1);
    field.assert_untouched();
}
