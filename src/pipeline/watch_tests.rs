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
    assert_eq!(scans.ask(Walk::Root(root.clone())), Asked::Queued);
    assert_eq!(scans.recv(begin, &mut batch, 9).await, 1);
    // The one under way may have passed by where something was lost.
    assert_eq!(scans.ask(Walk::Root(root.clone())), Asked::Queued);
    for _ in 0..8 {
        assert_eq!(scans.ask(Walk::Root(root.clone())), Asked::Covered);
    }
    assert_eq!(scans.ask(Walk::Root(other)), Asked::Queued);
    while scans.busy() {
        scans.recv(begin, &mut batch, 9).await;
    }
    assert_eq!(begun.get(), 3);
    assert_eq!(scans.recv(begin, &mut batch, 9).await, 0);
}

#[tokio::test]
async fn a_directory_does_not_wait_for_the_scan_of_a_whole_root() {
    let (_dir, root, _) = roots();
    let (_endless, endless) = mpsc::channel(1);
    let mut scans = Scans::default();
    let endless = std::cell::Cell::new(Some(endless));
    let begin = |walk| match walk {
        Walk::Root(_) => endless.take().unwrap(),
        Walk::Below(_, path) => found(path.as_path().to_str().unwrap()),
        Walk::Flat(_, path) => found(path.to_str().unwrap()),
    };
    let mut batch = Vec::new();
    scans.ask(Walk::Root(root.clone()));
    let first = tokio::time::timeout(Duration::ZERO, scans.recv(begin, &mut batch, 9)).await;
    assert!(first.is_err() && scans.busy());
    scans.ask(Walk::Below(root.clone(), BelowRoot::new("new").unwrap()));
    scans.ask(Walk::Flat(root.clone(), "crowded".into()));
    assert_eq!(scans.ask(Walk::Flat(root, "crowded".into())), Asked::Covered);
    while !scans.directories.queue.is_empty() || scans.directories.under_way.is_some() {
        scans.recv(begin, &mut batch, 9).await;
    }
    assert_eq!(batch.iter().map(name).collect::<Vec<_>>(), ["new", "crowded"]);
    assert!(scans.busy());
}
