//! What must be known of temporary names that may stand on the server.

use super::*;

pub async fn orphans_are_those_that_nobody_holds_and_may_have_staged(world: impl World) {
    let (a, b) = (world.join().await, world.join().await);
    for (name, release) in [
        ("clean", unfinished(Staged::Nothing)),
        ("unfinished", unfinished(Staged::Maybe)),
        (
            "failed",
            Release::Failed {
                reason: "r".into(),
                attempts: 8,
                staged: Staged::Maybe,
                intention: Intention::LeaveAlone,
            },
        ),
        ("forgotten", Release::Forget { staged: Staged::Maybe }),
    ] {
        let mine = claim(&*a, name, &format!("/1/{name}")).await;
        a.release(&mine, release).await.unwrap();
    }
    let done = claim(&*a, "recorded", "/r").await;
    a.record(&done, record("/r", world.now()), Intention::LeaveAlone).await.unwrap();
    claim(&*a, "held", "/h").await;
    let expected = [key("unfinished"), key("failed"), key("forgotten")];
    for ledger in [&a, &b] {
        assert_eq!(orphan_keys(&**ledger).await, expected);
        assert!(ledger.orphans("sftp://other/", Cursor::default(), 10).await.unwrap().0.is_empty());
    }
    // Page by page.
    let mut after = Cursor::default();
    for expected in &expected {
        let (page, next) = b.orphans(DESTINATION, after, 1).await.unwrap();
        assert_eq!(page.iter().map(|orphan| &orphan.key).collect::<Vec<_>>(), [expected]);
        assert!(page[0].remote.as_str().starts_with("/1/") && page[0].local_path.starts_with("/src"));
        after = next;
    }
    assert!(b.orphans(DESTINATION, after, 1).await.unwrap().0.is_empty());
    // Cleaned up, they are gone for good.
    for name in ["unfinished", "failed", "forgotten"] {
        let heir = claimed(ask(&*b, forced(name, "/other")).await);
        assert_eq!((heir.remote.as_str(), heir.predecessors.len()), (&*format!("/1/{name}"), 1));
        b.release(&heir, Release::Forget { staged: Staged::Nothing }).await.unwrap();
    }
    assert!(orphan_keys(&*b).await.is_empty());
    assert_eq!(claim(&*a, "failed", "/new").await.remote.as_str(), "/new");
}

pub async fn a_forced_repetition_falls_back_to_its_record(world: impl World) {
    let (a, b) = (world.join().await, world.join().await);
    let first = claim(&*a, "x", "/1/x").await;
    let old = record("/1/x", world.now());
    a.record(&first, old.clone(), Intention::LeaveAlone).await.unwrap();
    for (release, leftovers) in [
        (unfinished(Staged::Nothing), 0),
        (
            Release::Failed {
                reason: "r".into(),
                attempts: 3,
                staged: Staged::Nothing,
                intention: Intention::LeaveAlone,
            },
            0,
        ),
        (Release::Forget { staged: Staged::Nothing }, 0),
        (Release::Forget { staged: Staged::Maybe }, 1),
    ] {
        let again = claimed(ask(&*a, forced("x", "/2/x")).await);
        assert_eq!((again.remote.as_str(), again.attempts, again.predecessors.len()), ("/2/x", 0, 0));
        a.release(&again, release).await.unwrap();
        assert_eq!(recorded(ask(&*b, request("x", "/3/x")).await), old);
        assert_eq!(orphan_keys(&*b).await.len(), leftovers);
    }
    // What it left is under the path of the forced claim, which stays until that is cleaned up.
    let heir = claimed(ask(&*b, forced("x", "/3/x")).await);
    assert_eq!((heir.remote.as_str(), heir.predecessors.len()), ("/2/x", 1));
    world.kill(b).await;
    // A forced claim whose owner died falls back as well, and leaves as much.
    assert_eq!(recorded(ask(&*a, request("x", "/3/x")).await), old);
    assert_eq!(orphan_keys(&*a).await, [key("x")]);
    let heir = claimed(ask(&*a, forced("x", "/3/x")).await);
    assert_eq!((heir.remote.as_str(), heir.predecessors.len()), ("/2/x", 2));
    let new = record("/2/x", world.now());
    a.record(&heir, new.clone(), Intention::LeaveAlone).await.unwrap();
    assert_eq!(recorded(ask(&*a, request("x", "/3/x")).await), new);
    assert!(orphan_keys(&*a).await.is_empty());
}

/// The server may carry out what a dead owner asked for after its successor looked.
pub async fn names_that_are_gone_are_looked_for_once_more(world: impl World) {
    let (a, b) = (world.join().await, world.join().await);
    let orphans = async || b.orphans(DESTINATION, Cursor::default(), 10).await.unwrap().0;
    let record = record("/1/x", world.now());
    let dead = claim(&*a, "recorded", "/1/x").await;
    claim(&*a, "forgotten", "/1/y").await;
    world.kill(a).await;
    let heir = claim(&*b, "recorded", "/2/x").await;
    b.record(&heir, record.clone(), Intention::LeaveAlone).await.unwrap();
    let other = claim(&*b, "forgotten", "/2/y").await;
    b.release(&other, Release::Forget { staged: Staged::Gone }).await.unwrap();
    assert!(orphans().await.is_empty(), "not at once");
    assert_eq!(recorded(ask(&*b, request("recorded", "/3/x")).await), record);
    world.pass(b.lease());
    b.renew().await.unwrap();
    let found: Vec<_> = orphans().await.into_iter().map(|orphan| (orphan.key, orphan.state, orphan.gone)).collect();
    let expected = [
        (key("recorded"), OrphanState::Recorded, vec![dead.token]),
        (key("forgotten"), OrphanState::Unfinished, other.predecessors.clone()),
    ];
    assert_eq!(found, expected);
    for name in ["recorded", "forgotten"] {
        let last = claimed(ask(&*b, forced(name, "/4")).await);
        assert_eq!(last.remote.as_str(), if name == "recorded" { "/1/x" } else { "/1/y" });
        b.release(&last, Release::Forget { staged: Staged::Nothing }).await.unwrap();
    }
    assert!(orphans().await.is_empty());
    assert_eq!(recorded(ask(&*b, request("recorded", "/5/x")).await), record);
    assert_eq!(claim(&*b, "forgotten", "/5/y").await.remote.as_str(), "/5/y");
    // One that nobody died at leaves nothing.
    let plain = claim(&*b, "plain", "/p").await;
    b.release(&plain, Release::Forget { staged: Staged::Gone }).await.unwrap();
    assert_eq!(claim(&*b, "plain", "/q").await.remote.as_str(), "/q");
}

/// Who only looked after a dead owner's names leaves none of its own.
pub async fn a_claim_that_staged_nothing_is_nobodys_predecessor(world: impl World) {
    let (a, b) = (world.join().await, world.join().await);
    let dead = claim(&*a, "x", "/1/x").await;
    world.kill(a).await;
    let failed =
        Release::Failed { reason: "r".into(), attempts: 1, staged: Staged::Theirs, intention: Intention::LeaveAlone };
    for release in [unfinished(Staged::Theirs), failed, Release::Forget { staged: Staged::Theirs }] {
        let heir = claim(&*b, "x", "/2/x").await;
        assert_eq!((heir.remote.as_str(), &heir.predecessors), ("/1/x", &vec![dead.token]));
        b.release(&heir, release).await.unwrap();
        assert_eq!(orphan_keys(&*b).await, [key("x")]);
    }
    let plain = claim(&*b, "plain", "/p").await;
    b.release(&plain, Release::Forget { staged: Staged::Theirs }).await.unwrap();
    assert_eq!(claim(&*b, "plain", "/q").await.remote.as_str(), "/q");
}

/// What could bring an older version to a name after a newer one.
pub async fn rivals_are_other_versions_for_the_same_name(world: impl World) {
    let (a, b) = (world.join().await, world.join().await);
    let version = |name: &str, mtime_ns: i64, remote: &str| {
        let mut request = request(name, remote);
        request.key.fingerprint.mtime_ns += mtime_ns;
        request
    };
    let path = request("x", "/x").local_path;
    let old = claimed(ask(&*a, version("x", 0, "/x")).await);
    claimed(ask(&*a, version("x", 1, "/elsewhere/x")).await);
    let other_file = ClaimRequest { local_path: "/other/file".into(), ..version("y", 0, "/x") };
    claimed(ask(&*a, other_file).await);
    let new = claimed(ask(&*b, version("x", 2, "/x")).await);
    let staged = |claim: &Claim| claim.remote.staging(claim.key.id(), claim.token);
    assert_eq!(b.rivals(&new, &path).await.unwrap(), [staged(&old)]);
    assert_eq!(a.rivals(&old, &path).await.unwrap(), [staged(&new)]);
    world.kill(a).await;
    assert_eq!(b.rivals(&new, &path).await.unwrap(), [staged(&old)]);
    let heir = claimed(ask(&*b, version("x", 0, "/x")).await);
    assert_eq!(b.rivals(&new, &path).await.unwrap(), [staged(&old), staged(&heir)]);
    b.release(&heir, unfinished(Staged::Gone)).await.unwrap();
    assert!(b.rivals(&new, &path).await.unwrap().is_empty());
}

/// Whoever gave up waiting for a later token may ask again, and gets that one.
pub async fn a_later_token_is_given_once(world: impl World) {
    let (a, b) = (world.join().await, world.join().await);
    let mine = claim(&*a, "x", "/x").await;
    let later = a.reissue(&mine).await.unwrap();
    assert!(later.token > mine.token && later.predecessors == [mine.token]);
    let again = a.reissue(&mine).await.unwrap();
    assert_eq!((again.token, &again.predecessors), (later.token, &later.predecessors));
    a.confirm(&again).await.unwrap();
    let lost = async |ledger: &dyn Ledger, claim: &Claim| {
        assert!(matches!(ledger.reissue(claim).await, Err(LedgerError::LeaseLost)));
    };
    lost(&*b, &mine).await;
    lost(&*b, &later).await;
    // It is no claim of its own, and one that another followed meanwhile has none.
    assert!(matches!(a.release(&mine, unfinished(Staged::Gone)).await, Err(LedgerError::LeaseLost)));
    let last = a.reissue(&later).await.unwrap();
    lost(&*a, &mine).await;
    a.release(&last, unfinished(Staged::Maybe)).await.unwrap();
    lost(&*a, &later).await;
    let heir = claim(&*b, "x", "/y").await;
    assert_eq!(heir.predecessors, [mine.token, later.token, last.token]);
    lost(&*a, &last).await;
}
