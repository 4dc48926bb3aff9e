use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use super::mailbox::Faults;
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

struct Fixture {
    dir: tempfile::TempDir,
    root: Arc<Root>,
    watch: Watch,
    seen: Vec<SourceEvent>,
}

fn options(kind: WatcherKind) -> WatchOptions {
    WatchOptions { poll_interval: Duration::from_millis(50), ..WatchOptions::new(kind, Duration::from_secs(300)) }
}

/// Whom a test acts as: somebody else's directories can be closed to this one, who is not root.
const NOBODY: u32 = 65_534;

/// Starts as somebody for whom rights are rights. The threads that are started take it over.
fn as_nobody<T: Send>(start: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let started = scope.spawn(|| {
            // SAFETY: setfsuid(2) takes a number, and changes this thread alone, which ends with the closure.
            unsafe { libc::setfsuid(NOBODY) };
            start()
        });
        started.join().unwrap()
    })
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The inodes of all directories that this process watches.
fn watched_inodes() -> Vec<u64> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fdinfo").unwrap().flatten() {
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        let inodes = info.lines().filter(|line| line.starts_with("inotify ")).filter_map(|line| {
            let inode = line.split_whitespace().find_map(|part| part.strip_prefix("ino:"))?;
            u64::from_str_radix(inode, 16).ok()
        });
        found.extend(inodes);
    }
    found
}

impl Fixture {
    fn new(options: WatchOptions) -> Self {
        Self::with(options, Faults::default(), &[], |_| {})
    }

    /// With what `prepare` puts into the root before the watch starts.
    fn with(options: WatchOptions, faults: Faults, exclude: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root");
        fs::create_dir(&path).unwrap();
        prepare(&path);
        // Where this is no test by root, both are the same one.
        let _ = chown(&path, Some(NOBODY), None).and_then(|()| chown(dir.path(), Some(NOBODY), None));
        set_mode(dir.path(), 0o755);
        let root = Arc::new(Root::open(0, &path).unwrap());
        let marker = "{name}.done".parse().unwrap();
        let exclude: Vec<_> = exclude.iter().map(|&glob| glob.to_owned()).collect();
        let selection = Arc::new(Selection::new(&[], &exclude, Some(&marker)).unwrap());
        let mut mailbox = Mailbox::default();
        mailbox.faults = faults;
        let watched = vec![Watched { root: Arc::clone(&root), selection }];
        let bells = if options.bells == std::env::temp_dir() { dir.path().to_owned() } else { options.bells };
        let options = WatchOptions { bells, ..options };
        let watch = as_nobody(|| Watch::with_mailbox(Arc::new(mailbox), watched, options, 1)).unwrap();
        Self { dir, root, watch, seen: Vec::new() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    /// The first event from here on that is `wanted`.
    async fn wait(&mut self, wanted: impl Fn(&SourceEvent) -> bool) -> SourceEvent {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let event = self.watch.recv().await.expect("the watch goes on");
                self.seen.push(event.clone());
                if wanted(&event) {
                    return event;
                }
            }
        });
        match waited.await {
            Ok(event) => event,
            Err(_) => panic!("the event did not come; there were {:?}", self.seen),
        }
    }

    async fn rescan(&mut self, wanted: RescanReason) {
        self.wait(|event| matches!(event, SourceEvent::Rescan { reason, .. } if *reason == wanted)).await;
    }

    async fn closed(&mut self, wanted: &str) {
        self.wait(|event| matches!(event, SourceEvent::Closed(file) if file.path.as_path() == Path::new(wanted))).await;
    }
}

#[tokio::test]
async fn files_markers_and_removals_are_told() {
    let mut fixture = Fixture::new(options(WatcherKind::Inotify));
    fixture.rescan(RescanReason::Start).await;
    let mut writer = fs::File::create(fixture.at("a.csv")).unwrap();
    fixture.wait(|event| matches!(event, SourceEvent::Changed(_))).await;
    std::io::Write::write_all(&mut writer, b"x").unwrap();
    drop(writer);
    fixture.closed("a.csv").await;
    fs::write(fixture.at("a.csv.done"), "").unwrap();
    fixture
        .wait(|event| matches!(event, SourceEvent::Marker { path, .. } if path.as_path() == Path::new("a.csv.done")))
        .await;
    fs::write(fixture.dir.path().join("b.csv"), "moved in").unwrap();
    fs::rename(fixture.dir.path().join("b.csv"), fixture.at("b.csv")).unwrap();
    fixture.closed("b.csv").await;
    fs::write(fixture.at("c.tmp"), "then renamed").unwrap();
    fs::rename(fixture.at("c.tmp"), fixture.at("c.csv")).unwrap();
    fixture.closed("c.csv").await;
    fs::remove_file(fixture.at("b.csv")).unwrap();
    fixture
        .wait(|event| matches!(event, SourceEvent::Removed(file) if file.path.as_path() == Path::new("b.csv")))
        .await;
    // Names that selection leaves out, our own among them, are never told.
    assert!(!format!("{:?}", fixture.seen).contains("c.tmp"));
}

#[tokio::test]
async fn new_directories_are_named_and_then_watched() {
    let mut fixture = Fixture::new(options(WatcherKind::Auto));
    fixture.rescan(RescanReason::Start).await;
    fs::create_dir_all(fixture.at("x/y/z")).unwrap();
    fs::create_dir_all(fixture.at(".hidden")).unwrap();
    let event = fixture.wait(|event| matches!(event, SourceEvent::NewDirectory { .. })).await;
    let SourceEvent::NewDirectory { path, .. } = event else { unreachable!() };
    assert!(path.as_path().starts_with("x"));
    // Its watch stands by now, those of directories below it perhaps not yet: then they are named themselves, and
    // whoever walks them finds what came before.
    fs::write(fixture.at("x/y/z/late"), "").unwrap();
    fixture
        .wait(|event| match event {
            SourceEvent::Closed(file) => file.path.as_path() == Path::new("x/y/z/late"),
            SourceEvent::NewDirectory { path, .. } => Path::new("x/y/z").starts_with(path.as_path()),
            _ => false,
        })
        .await;
    fs::create_dir_all(fixture.dir.path().join("tree/deep")).unwrap();
    fs::rename(fixture.dir.path().join("tree"), fixture.at("tree")).unwrap();
    fixture
        .wait(|event| matches!(event, SourceEvent::NewDirectory { path, .. } if path.as_path() == Path::new("tree")))
        .await;
    fs::write(fixture.at("tree/deep/a"), "").unwrap();
    fixture.closed("tree/deep/a").await;
    assert!(!fixture.seen.iter().any(|event| matches!(event, SourceEvent::Degraded { .. })), "{:?}", fixture.seen);
}

/// No directory made in a storm may slip through: each is either named before its files come, or its files are told.
#[tokio::test]
async fn a_storm_of_directories_and_files_is_found_completely() {
    let mut fixture = Fixture::new(options(WatcherKind::Inotify));
    fixture.rescan(RescanReason::Start).await;
    let base = fixture.at("");
    let maker = std::thread::spawn(move || {
        for number in 0..300 {
            let directory = base.join(format!("{number}/sub"));
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("a"), "").unwrap();
        }
    });
    let mut found = std::collections::HashSet::new();
    while found.len() < 300 {
        let event = fixture.wait(|_| true).await;
        match event {
            SourceEvent::Changed(file) | SourceEvent::Closed(file) => {
                found.insert(file.path.as_path().to_owned());
            }
            SourceEvent::NewDirectory { root, path } => {
                let selection = Selection::new(&[], &[], None).unwrap();
                let _ = crate::source::scan::scan_below(&root, &path, &selection, &mut |seen| {
                    if let crate::source::scan::Found::Candidate(file) = seen {
                        found.insert(file.path.as_path().to_owned());
                    }
                    std::ops::ControlFlow::Continue(())
                });
            }
            _ => {}
        }
    }
    maker.join().unwrap();
}

#[tokio::test]
async fn the_canary_proves_events_and_is_removed() {
    let mut fixture = Fixture::new(options(WatcherKind::Auto));
    fixture.rescan(RescanReason::Start).await;
    fs::write(fixture.at("a"), "").unwrap();
    fixture.closed("a").await;
    // The canary was made before this file's events were handled, so its own were too, or are with the next.
    fs::write(fixture.at("b"), "").unwrap();
    fixture.closed("b").await;
    let names: Vec<_> = fs::read_dir(fixture.at("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| crate::selection::is_own_name(name)), "{names:?}");
}

#[tokio::test]
async fn where_the_canary_is_not_heard_of_the_root_is_polled() {
    let faults = Faults::default();
    faults.deaf.store(true, Ordering::SeqCst);
    let impatient = WatchOptions { canary_patience: Duration::from_millis(50), ..options(WatcherKind::Auto) };
    let mut fixture = Fixture::with(impatient, faults, &[], |_| {});
    fixture.rescan(RescanReason::Start).await;
    let event = fixture.wait(|event| matches!(event, SourceEvent::Degraded { .. })).await;
    assert!(format!("{event:?}").contains("raised no event"));
    fixture.rescan(RescanReason::Degraded).await;
    for _ in 0..3 {
        fixture.rescan(RescanReason::Interval).await;
    }
    let said = fixture.seen.iter().filter(|event| matches!(event, SourceEvent::Degraded { .. })).count();
    assert_eq!((said, fs::read_dir(fixture.at("")).unwrap().count()), (1, 0));
}

/// Nobody reads what the kernel tells for longer than a canary's event may take, be it that another root has many
/// directories to watch or that the consumer is slow.
#[tokio::test]
async fn a_canary_that_is_heard_of_late_is_heard_of() {
    const LATE: Duration = Duration::from_millis(50);
    let dir = tempfile::tempdir().unwrap();
    let watched = ["one", "other"].map(|name| {
        fs::create_dir(dir.path().join(name)).unwrap();
        let root = Arc::new(Root::open(0, &dir.path().join(name)).unwrap());
        Watched { root, selection: Arc::new(Selection::new(&[], &[], None).unwrap()) }
    });
    let mailbox = Arc::new(Mailbox::default());
    let nobody_reads = Arc::clone(&mailbox);
    let (locked_now, is_locked) = std::sync::mpsc::channel();
    let locker = std::thread::spawn(move || {
        let locked = nobody_reads.lock();
        locked_now.send(()).unwrap();
        let began = std::time::Instant::now();
        while began.elapsed() < 4 * LATE {
            std::thread::yield_now();
        }
        drop(locked);
    });
    is_locked.recv().unwrap();
    let impatient = WatchOptions { canary_patience: LATE, ..options(WatcherKind::Auto) };
    let mut watch = Watch::with_mailbox(mailbox, watched.into(), impatient, 1).unwrap();
    locker.join().unwrap();
    let canaries = || fs::read_dir(dir.path().join("one")).unwrap().count();
    let mut seen = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, async {
        // Two scans to start with, and then the canaries' end.
        while seen.len() < 2 {
            seen.push(watch.recv().await.unwrap());
        }
        while canaries() > 0 {
            tokio::task::yield_now().await;
        }
        fs::write(dir.path().join("one/a"), "").unwrap();
        while !matches!(seen.last(), Some(SourceEvent::Closed(_))) {
            seen.push(watch.recv().await.unwrap());
        }
    });
    ended.await.unwrap();
    assert!(!seen.iter().any(|event| matches!(event, SourceEvent::Degraded { .. })), "{seen:?}");
}

#[tokio::test]
async fn a_poller_asks_for_scans_and_nothing_else() {
    let mut fixture = Fixture::new(options(WatcherKind::Poll));
    fixture.rescan(RescanReason::Start).await;
    fs::write(fixture.at("a"), "").unwrap();
    for _ in 0..3 {
        fixture.rescan(RescanReason::Interval).await;
    }
    assert!(fixture.seen.iter().all(|event| matches!(event, SourceEvent::Rescan { .. })), "{:?}", fixture.seen);
}

#[tokio::test]
async fn the_watch_limit_leads_to_polling() {
    let mut fixture = Fixture::new(options(WatcherKind::Inotify));
    fixture.rescan(RescanReason::Start).await;
    fixture.watch.mailbox.faults.no_more_watches.store(true, Ordering::SeqCst);
    fs::create_dir(fixture.at("new")).unwrap();
    let event = fixture.wait(|event| matches!(event, SourceEvent::Degraded { .. })).await;
    assert!(format!("{event:?}").contains("fs.inotify.max_user_watches"));
    fixture.rescan(RescanReason::Degraded).await;
    fixture.rescan(RescanReason::Interval).await;
}

/// It is behind for ever, as far as the watch can tell.
#[tokio::test]
async fn a_consumer_that_is_never_done_still_gets_its_reconciling_scans() {
    let often = WatchOptions { scan_interval: Duration::from_millis(200), ..options(WatcherKind::Inotify) };
    let mut fixture = Fixture::new(often);
    fixture.rescan(RescanReason::Start).await;
    fs::write(fixture.at("a"), "").unwrap();
    let asked = tokio::time::timeout(PATIENCE, async {
        // Of the file come two events at most.
        while fixture.watch.events.len() < 4 {
            tokio::task::yield_now().await;
        }
    });
    asked.await.unwrap();
    fixture.rescan(RescanReason::Interval).await;
}

#[tokio::test]
async fn a_slow_consumer_gets_scans_for_what_found_no_room() {
    let mut fixture = Fixture::new(options(WatcherKind::Inotify));
    fixture.rescan(RescanReason::Start).await;
    fs::create_dir(fixture.at("d")).unwrap();
    fixture.wait(|event| matches!(event, SourceEvent::NewDirectory { .. })).await;
    // More than the channel, the batch that waits for it and the next one hold, while nobody reads. Told by ourselves,
    // for the kernel's own queue must not overflow here.
    for number in 0..3 * 16_384 {
        let path = fixture.at(&format!("d/{number}"));
        let closed = notify::event::AccessKind::Close(notify::event::AccessMode::Write);
        for kind in [notify::EventKind::Remove(notify::event::RemoveKind::File), notify::EventKind::Access(closed)] {
            fixture.watch.mailbox.put(Ok(notify::Event::new(kind).add_path(path.clone())));
        }
    }
    fs::write(fixture.at("d/a"), "").unwrap();
    let crowded = fixture.wait(|event| matches!(event, SourceEvent::Crowded { .. })).await;
    assert!(matches!(crowded, SourceEvent::Crowded { directory, .. } if directory == Path::new("d")));
    // Then all goes on.
    fs::write(fixture.at("after"), "").unwrap();
    fixture.closed("after").await;
}

#[tokio::test]
async fn an_overflow_of_the_kernels_queue_leads_to_a_scan() {
    let mut fixture = Fixture::new(options(WatcherKind::Inotify));
    fixture.rescan(RescanReason::Start).await;
    let event = notify::Event::new(notify::EventKind::Other).set_flag(notify::event::Flag::Rescan);
    fixture.watch.mailbox.put(Ok(event));
    fixture.rescan(RescanReason::Overflow).await;
}

#[tokio::test]
async fn a_directory_that_may_not_be_read_costs_no_other_its_events() {
    let mut fixture = Fixture::with(options(WatcherKind::Auto), Faults::default(), &[], |root| {
        for name in ["a", "lost+found", "z"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        // Written to, but not read.
        set_mode(&root.join("lost+found"), 0o300);
    });
    fixture.rescan(RescanReason::Start).await;
    for name in ["a/1", "z/2"] {
        fs::write(fixture.at(name), "").unwrap();
        fixture.closed(name).await;
    }
    assert!(!fixture.seen.iter().any(|event| matches!(event, SourceEvent::Degraded { .. })), "{:?}", fixture.seen);
    // Once it may be read, it is named and watched like a new one.
    fs::create_dir(fixture.at("lost+found/below")).unwrap();
    set_mode(&fixture.at("lost+found"), 0o755);
    fixture
        .wait(|event| {
            matches!(event, SourceEvent::NewDirectory { path, .. } if path.as_path() == Path::new("lost+found"))
        })
        .await;
    fs::write(fixture.at("lost+found/below/3"), "").unwrap();
    fixture.closed("lost+found/below/3").await;
}

#[tokio::test]
async fn a_directory_that_is_not_entered_costs_no_watch() {
    let mut fixture = Fixture::with(options(WatcherKind::Inotify), Faults::default(), &["cache"], |root| {
        for name in ["a/b", "cache/deep", ".git/objects"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
    });
    fixture.rescan(RescanReason::Start).await;
    for name in ["later", "cache/later", ".git/later", "later/.hidden"] {
        fs::create_dir(fixture.at(name)).unwrap();
    }
    fs::write(fixture.at("later/1"), "").unwrap();
    fixture
        .wait(|event| match event {
            SourceEvent::Closed(file) => file.path.as_path() == Path::new("later/1"),
            SourceEvent::NewDirectory { path, .. } => path.as_path() == Path::new("later"),
            _ => false,
        })
        .await;
    let watched = watched_inodes();
    let is_watched = |name: &str| watched.contains(&fs::metadata(fixture.at(name)).unwrap().ino());
    for name in ["", "a", "a/b", "later"] {
        assert!(is_watched(name), "{name:?}");
    }
    for name in ["cache", "cache/deep", "cache/later", ".git", ".git/objects", ".git/later", "later/.hidden"] {
        assert!(!is_watched(name), "{name:?}");
    }
}

/// The kernel's own queue runs over, and with it goes the news of new directories and of renamed ones.
#[tokio::test]
async fn what_the_kernel_forgot_to_tell_does_not_stay_deaf() {
    let mut fixture = Fixture::new(options(WatcherKind::Inotify));
    fs::create_dir(fixture.at("before")).unwrap();
    fixture.rescan(RescanReason::Start).await;
    let queue: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    {
        let mailbox = Arc::clone(&fixture.watch.mailbox);
        let _nobody_reads = mailbox.lock();
        // Made, opened, closed.
        for number in 0..queue / 3 + 100 {
            fs::write(fixture.at(&format!("{number}.tmp")), "").unwrap();
        }
        fs::create_dir_all(fixture.at("unheard/of")).unwrap();
        fs::rename(fixture.at("before"), fixture.at("after")).unwrap();
    }
    fixture.rescan(RescanReason::Overflow).await;
    for name in ["unheard/1", "unheard/of/2", "after/3"] {
        fs::write(fixture.at(name), "").unwrap();
        fixture.closed(name).await;
    }
}

#[tokio::test]
async fn a_root_that_is_made_anew_is_watched_again() {
    let mut fixture = Fixture::new(options(WatcherKind::Inotify));
    fixture.rescan(RescanReason::Start).await;
    fs::remove_dir(fixture.at("")).unwrap();
    fixture.wait(|event| matches!(event, SourceEvent::RootMissing { .. })).await;
    fs::create_dir(fixture.at("")).unwrap();
    fixture.rescan(RescanReason::RootReplaced).await;
    fs::write(fixture.at("a"), "").unwrap();
    fixture.closed("a").await;
    // Moved away and another one put in its place between two looks, and somebody else is the first to notice.
    fs::rename(fixture.at(""), fixture.dir.path().join("old")).unwrap();
    fs::create_dir(fixture.at("")).unwrap();
    fixture.root.dir.refresh();
    fixture.rescan(RescanReason::RootReplaced).await;
    fs::write(fixture.at("b"), "").unwrap();
    fixture.closed("b").await;
}

/// As a scan would find it, though nobody scans.
#[tokio::test]
async fn all_that_happened_before_is_told_when_asked_for() {
    let mut fixture = Fixture::new(options(WatcherKind::Auto));
    fixture.rescan(RescanReason::Start).await;
    fs::write(fixture.at("a"), "").unwrap();
    fixture.closed("a").await;
    fixture.seen.clear();
    for number in 0..500 {
        fs::write(fixture.at(&format!("{number}")), "").unwrap();
    }
    fs::create_dir(fixture.at("new")).unwrap();
    // The weakest of hints.
    let _open = fs::File::create(fixture.at("open")).unwrap();
    fixture.watch.flush();
    fixture.wait(|event| *event == SourceEvent::Flushed { scan: Vec::new() }).await;
    let told = |wanted: &str| {
        fixture.seen.iter().any(|event| match event {
            SourceEvent::Changed(file) | SourceEvent::Closed(file) => file.path.as_path() == Path::new(wanted),
            SourceEvent::NewDirectory { path, .. } => path.as_path() == Path::new(wanted),
            _ => false,
        })
    };
    for name in (0..500).map(|number| number.to_string()).chain(["new".to_owned(), "open".to_owned()]) {
        assert!(told(&name), "{name}: {:?}", fixture.seen);
    }
    let bells = fs::read_dir(fixture.dir.path()).unwrap().count();
    assert_eq!(bells, 1);
}

#[tokio::test]
async fn where_events_tell_nothing_a_scan_is_left_to_do() {
    let unwritable = |kind| WatchOptions { bells: "/proc".into(), ..options(kind) };
    for options in [options(WatcherKind::Poll), unwritable(WatcherKind::Inotify)] {
        let mut fixture = Fixture::new(options);
        fixture.rescan(RescanReason::Start).await;
        fixture.watch.flush();
        let root = Arc::clone(&fixture.root);
        fixture.wait(|event| *event == SourceEvent::Flushed { scan: vec![Arc::clone(&root)] }).await;
    }
}

#[tokio::test]
async fn a_watch_ends_when_dropped() {
    let Fixture { watch, .. } = Fixture::new(options(WatcherKind::Inotify));
    let stop = Arc::downgrade(&watch.stop);
    drop(watch);
    // The thread holds the other half until it ends.
    let ended = tokio::time::timeout(PATIENCE, async {
        while stop.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    });
    ended.await.unwrap();
}
