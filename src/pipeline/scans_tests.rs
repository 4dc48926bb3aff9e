use super::*;

fn roots() -> (tempfile::TempDir, Arc<Root>, Arc<Root>) {
    let dir = tempfile::tempdir().unwrap();
    let root = |source| Arc::new(Root::open(source, dir.path()).unwrap());
    let (one, other) = (root(0), root(1));
    (dir, one, other)
}

/// A walk that names this and ends.
fn found(name: &str) -> Found {
    let (sender, found) = mpsc::channel(1);
    sender.try_send(Named::Problem { source: 0, path: name.into(), reason: String::new() }).unwrap();
    found
}

fn name(named: &Named) -> &str {
    match named {
        Named::Problem { path, .. } => path.to_str().unwrap(),
        Named::Candidate(_) => unreachable!(),
    }
}

/// Takes what walks name until one ends, or all do.
async fn step(scans: &mut Scans, begin: impl Fn(Walk) -> Found, batch: &mut Vec<Named>) -> Step {
    std::future::poll_fn(|context| scans.poll_recv(context, &begin, 7, batch, 9)).await
}

fn whole(root: &Arc<Root>) -> Walk {
    Walk::Root(root.clone(), Why::Needed)
}

fn below(root: &Arc<Root>, name: &str) -> Walk {
    Walk::Below(root.clone(), BelowRoot::new(name).unwrap())
}

#[tokio::test]
async fn scans_asked_for_while_one_is_under_way_are_one() {
    let (_dir, root, other) = roots();
    let mut scans = Scans::default();
    let begun = std::cell::Cell::new(0);
    let begin = |_| {
        begun.set(begun.get() + 1);
        found("a")
    };
    let mut batch = Vec::new();
    assert_eq!(scans.ask(whole(&root)), Asked::Queued);
    assert_eq!(step(&mut scans, begin, &mut batch).await, Step::Named);
    // The one under way may have passed by where something was lost.
    assert_eq!(scans.ask(whole(&root)), Asked::Queued);
    for _ in 0..8 {
        assert_eq!(scans.ask(whole(&root)), Asked::Covered);
    }
    assert_eq!(scans.ask(whole(&other)), Asked::Queued);
    while scans.busy() {
        if let Step::Ended(_, mark) = step(&mut scans, begin, &mut batch).await {
            assert_eq!(mark, 7);
        }
    }
    assert_eq!(begun.get(), 3);
}

#[tokio::test]
async fn a_directory_does_not_wait_for_the_scan_of_a_whole_root() {
    let (_dir, root, _) = roots();
    let (_endless, endless) = mpsc::channel(1);
    let mut scans = Scans::default();
    let endless = std::cell::Cell::new(Some(endless));
    let begin = |walk| match walk {
        Walk::Root(..) => endless.take().unwrap(),
        Walk::Below(_, path) => found(path.as_path().to_str().unwrap()),
        Walk::Flat(_, path) => found(path.to_str().unwrap()),
    };
    let mut batch = Vec::new();
    scans.ask(whole(&root));
    let first = tokio::time::timeout(std::time::Duration::ZERO, step(&mut scans, begin, &mut batch)).await;
    assert!(first.is_err() && scans.busy());
    scans.ask(below(&root, "new"));
    scans.ask(Walk::Flat(root.clone(), "new".into()));
    assert_eq!(scans.ask(Walk::Flat(root, "new".into())), Asked::Covered);
    while scans.directories.busy() {
        step(&mut scans, begin, &mut batch).await;
    }
    assert_eq!(batch.iter().map(name).collect::<Vec<_>>(), ["new", "new"]);
    assert!(scans.busy());
}

#[test]
fn where_too_many_directories_wait_their_root_is_walked_instead() {
    let (_dir, root, other) = roots();
    let mut scans = Scans::default();
    scans.ask(below(&other, "kept"));
    for number in 0..10 * DIRECTORIES {
        scans.ask(below(&root, &number.to_string()));
        assert!(scans.directories.queue.len() <= DIRECTORIES && scans.known.len() == scans.directories.queue.len());
    }
    assert_eq!(scans.roots.queue, [whole(&root)]);
    assert_eq!(scans.ask(below(&other, "kept")), Asked::Covered);
}

#[tokio::test]
async fn a_scan_to_make_sure_waits_for_the_one_before_and_as_long_again() {
    let (_dir, root, other) = roots();
    let again = || Walk::Root(root.clone(), Why::Interval);
    let mut scans = Scans::default();
    let (walk, found) = mpsc::channel(1);
    let found = std::cell::Cell::new(Some(found));
    let begin = |_| found.take().unwrap();
    let mut batch = Vec::new();
    assert_eq!(scans.ask(again()), Asked::Queued);
    // One that is needed is one, whatever it was asked for first.
    assert_eq!(scans.ask(whole(&root)), Asked::Covered);
    assert_eq!(scans.roots.queue, [whole(&root)]);
    assert!(tokio::time::timeout(std::time::Duration::ZERO, step(&mut scans, begin, &mut batch)).await.is_err());
    assert_eq!(scans.ask(again()), Asked::TooSoon);
    assert_eq!(scans.ask(Walk::Root(other, Why::Interval)), Asked::Queued);
    scans.roots.queue.clear();
    // As if it had begun an hour ago.
    scans.roots.under_way.as_mut().unwrap().began -= std::time::Duration::from_secs(3_600);
    drop(walk);
    assert_eq!(step(&mut scans, begin, &mut batch).await, Step::Ended(whole(&root), 7));
    assert_eq!(scans.ask(again()), Asked::TooSoon);
    assert_eq!(scans.ask(whole(&root)), Asked::Queued);
}

#[tokio::test]
async fn what_is_needed_is_walked_whatever_else_is_dropped() {
    let (_dir, root, other) = roots();
    let mut scans = Scans::default();
    let (_walk, found) = mpsc::channel(1);
    let found = std::cell::Cell::new(Some(found));
    let begin = |_| found.take().unwrap();
    scans.ask(Walk::Root(root.clone(), Why::Interval));
    let mut batch = Vec::new();
    assert!(tokio::time::timeout(std::time::Duration::ZERO, step(&mut scans, begin, &mut batch)).await.is_err());
    scans.ask(whole(&root));
    scans.ask(Walk::Root(other, Why::Interval));
    scans.ask(below(&root, "new"));
    scans.only_needed();
    assert!(scans.roots.under_way.is_none());
    assert_eq!((scans.roots.queue, scans.directories.queue), ([whole(&root)].into(), [below(&root, "new")].into()));
}
