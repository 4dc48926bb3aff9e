use std::fs;

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

impl Fixture {
    fn new(options: WatchOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let root = Arc::new(Root::open(0, &dir.path().join("root")).unwrap());
        let marker = "{name}.done".parse().unwrap();
        let selection = Arc::new(Selection::new(&[], &[], Some(&marker)).unwrap());
        let watch = Watch::start(vec![Watched { root: Arc::clone(&root), selection }], options, 1).unwrap();
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
    let deaf = WatchOptions { canary_patience: Duration::ZERO, ..options(WatcherKind::Auto) };
    let mut fixture = Fixture::new(deaf);
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
    let limit = notify::Error::new(notify::ErrorKind::MaxFilesWatch)
        .add_path(fixture.at("new").canonicalize().unwrap_or(fixture.at("")));
    fixture.watch.mailbox.put(Err(limit));
    let event = fixture.wait(|event| matches!(event, SourceEvent::Degraded { .. })).await;
    assert!(format!("{event:?}").contains("fs.inotify.max_user_watches"));
    fixture.rescan(RescanReason::Degraded).await;
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
