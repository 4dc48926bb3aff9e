use notify::event::{Flag, MetadataKind, RemoveKind};

use super::*;

const CREATED: EventKind = EventKind::Create(CreateKind::File);
const FOLDER: EventKind = EventKind::Create(CreateKind::Folder);
const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
const MOVED_IN: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));
const MOVED_OUT: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::From));
const TOUCHED: EventKind = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));

fn event(kind: EventKind, path: &str) -> notify::Result<Event> {
    Ok(Event::new(kind).add_path(path.into()))
}

fn hints(news: &News, path: &str) -> Hints {
    news.paths[Path::new(path)]
}

#[test]
fn a_closed_file_is_told_at_once_with_all_that_is_known_of_it() {
    let (mut gathered, now) = (Gathered::default(), Instant::now());
    gathered.put(event(CREATED, "/a"), now);
    gathered.put(event(TOUCHED, "/a"), now);
    assert_eq!(gathered.wake_up(now), Some(now + DEBOUNCE));
    gathered.put(event(CLOSED, "/a"), now);
    assert_eq!(gathered.wake_up(now), Some(now));
    gathered.put(event(EventKind::Remove(RemoveKind::File), "/a"), now);
    let news = gathered.take(now);
    assert_eq!(hints(&news, "/a"), Hints { closed: true, appeared: true, removed: true, attributes: true });
    assert_eq!((news.paths.len(), gathered.wake_up(now)), (1, None));
}

#[test]
fn weak_hints_wait_each_for_its_own_moment() {
    let (mut gathered, start) = (Gathered::default(), Instant::now());
    let at = |part: u32| start + DEBOUNCE * part / 4;
    gathered.put(event(CREATED, "/a"), at(0));
    gathered.put(event(MOVED_OUT, "/b"), at(3));
    assert!(gathered.take(at(3)).paths.is_empty());
    let news = gathered.take(at(4));
    assert_eq!((news.paths.len(), hints(&news, "/a")), (1, Hints { appeared: true, ..Hints::default() }));
    assert_eq!(gathered.wake_up(at(4)), Some(at(8)));
    let news = gathered.take(at(8));
    assert_eq!((news.paths.len(), hints(&news, "/b")), (1, Hints { removed: true, ..Hints::default() }));
    assert_eq!(gathered.wake_up(at(8)), None);
}

#[test]
fn directories_and_what_is_moved_in_do_not_wait() {
    let (mut gathered, now) = (Gathered::default(), Instant::now());
    gathered.put(event(FOLDER, "/d"), now);
    gathered.put(event(MOVED_IN, "/f"), now);
    let news = gathered.take(now);
    assert_eq!(hints(&news, "/d"), Hints { appeared: true, ..Hints::default() });
    assert_eq!(hints(&news, "/f"), Hints { appeared: true, closed: true, ..Hints::default() });
}

#[test]
fn events_that_mean_nothing_wake_nobody() {
    let mailbox = Mailbox::default();
    mailbox.put(event(EventKind::Access(AccessKind::Open(AccessMode::Any)), "/a"));
    mailbox.put(event(EventKind::Access(AccessKind::Close(AccessMode::Read)), "/a"));
    // Both halves were told before.
    mailbox.put(event(EventKind::Modify(ModifyKind::Name(RenameMode::Both)), "/a"));
    assert_eq!(mailbox.lock().wake_up(Instant::now()), None);
}

#[test]
fn beyond_the_bound_directories_are_noted_and_then_nothing() {
    let (mut gathered, now) = (Gathered::default(), Instant::now());
    for number in 0..MAX_PATHS {
        gathered.put(event(CLOSED, &format!("/full/{number}")), now);
    }
    // Known paths and new directories find room.
    gathered.put(event(TOUCHED, "/full/0"), now);
    gathered.put(event(FOLDER, "/full/sub"), now);
    assert!(gathered.news.crowded.is_empty());
    gathered.put(event(CLOSED, "/a/1"), now);
    gathered.put(event(CREATED, "/a/2"), now);
    gathered.put(event(MOVED_IN, "/b/3"), now);
    gathered.put(event(MOVED_OUT, "/c/4"), now);
    assert_eq!(gathered.news.crowded, HashSet::from(["/a".into(), "/b".into()]));
    assert!(!gathered.news.overflowed && gathered.news.paths.contains_key(Path::new("/full/sub")));
    for number in 0..MAX_CROWDED {
        gathered.put(event(CLOSED, &format!("/{number}/a")), now);
    }
    let news = gathered.take(now);
    assert!(news.overflowed && news.crowded.is_empty() && news.paths.len() == MAX_PATHS + 1);
    // Then all goes on.
    gathered.put(event(CLOSED, "/a/1"), now);
    let news = gathered.take(now);
    assert!(!news.overflowed && news.paths.len() == 1);
}

#[test]
fn a_directory_that_is_moved_in_beyond_the_bound_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (mut gathered, now) = (Gathered::default(), Instant::now());
    for number in 0..MAX_PATHS {
        gathered.put(event(CLOSED, &format!("/full/{number}")), now);
    }
    gathered.put(event(MOVED_IN, dir.path().to_str().unwrap()), now);
    assert!(gathered.take(now).paths.contains_key(dir.path()));
}

#[test]
fn directories_without_end_are_not_gathered_without_end() {
    let (mut gathered, now) = (Gathered::default(), Instant::now());
    for number in 0..5 * MAX_PATHS {
        gathered.put(event(FOLDER, &format!("/d/{number}")), now);
        assert!(gathered.news.paths.len() <= 2 * MAX_PATHS);
    }
    // Their watches were never set, so a scan is not enough.
    assert!(gathered.take(now).lost);
}

/// The thread that empties the kernel's queue does not ask the disk about every file that is made.
#[test]
fn beyond_the_bound_what_is_made_as_a_file_is_believed_to_be_one() {
    let dir = tempfile::tempdir().unwrap();
    let (mut gathered, now) = (Gathered::default(), Instant::now());
    for number in 0..MAX_PATHS {
        gathered.put(event(CLOSED, &format!("/full/{number}")), now);
    }
    gathered.put(event(CREATED, dir.path().to_str().unwrap()), now);
    assert!(!gathered.take(now).paths.contains_key(dir.path()));
}

#[test]
fn when_the_bell_rings_weak_hints_that_came_before_are_told() {
    let (mut gathered, now) = (Gathered { bell: Some("/bell".into()), ..Gathered::default() }, Instant::now());
    gathered.put(event(CREATED, "/a"), now);
    assert!(!gathered.take(now).rang);
    gathered.put(event(EventKind::Remove(RemoveKind::File), "/bell"), now);
    assert_eq!(gathered.wake_up(now), Some(now));
    let news = gathered.take(now);
    assert!(news.rang && news.paths.len() == 1 && news.paths.contains_key(Path::new("/a")));
    assert_eq!(gathered.wake_up(now), None);
}

#[test]
fn what_was_lost_is_said() {
    let (mut gathered, now) = (Gathered::default(), Instant::now());
    gathered.put(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)), now);
    assert!(gathered.take(now).lost && !gathered.take(now).lost);
    gathered.put(Err(notify::Error::generic("the queue could not be read")), now);
    let news = gathered.take(now);
    assert!(news.lost && !news.overflowed);
}

#[test]
fn taking_ends_with_news_with_time_and_with_a_stop() {
    let mailbox = Mailbox::default();
    let far = Instant::now() + Duration::from_secs(60);
    assert!(mailbox.take(Instant::now()).unwrap().paths.is_empty());
    std::thread::scope(|scope| {
        // Whichever comes first, the taking or the putting.
        let taken = scope.spawn(|| mailbox.take(far));
        mailbox.put(event(CREATED, "/a"));
        assert!(taken.join().unwrap().unwrap().paths.contains_key(Path::new("/a")));
        let ended = scope.spawn(|| mailbox.take(far));
        mailbox.stop();
        assert!(ended.join().unwrap().is_none());
    });
    assert!(Instant::now() < far);
}
