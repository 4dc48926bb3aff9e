//! What must be known of bytes that are archived once.

use super::*;

const BYTES: Sha256Digest = Sha256Digest([0xd1; 32]);

async fn reserve(ledger: &dyn Ledger, claim: &Claim) -> Reservation {
    ledger.reserve(claim, BYTES).await.unwrap()
}

#[track_caller]
fn is_ours(reservation: Reservation) {
    assert!(matches!(reservation, Reservation::Ours), "{reservation:?}");
}

#[track_caller]
fn is_in_hand(reservation: Reservation, of: &dyn Ledger) {
    assert!(matches!(reservation, Reservation::InHand(owner) if owner == of.owner()), "{reservation:?}");
}

#[track_caller]
fn stands_at(reservation: Reservation, expected: &str) {
    assert!(matches!(&reservation, Reservation::Stands(remote) if remote.as_str() == expected), "{reservation:?}");
}

#[track_caller]
fn left(reservation: Reservation) -> Left {
    match reservation {
        Reservation::Left(left) => *left,
        other => panic!("{other:?}"),
    }
}

/// A ledger whose records can be found by their bytes, and another owner of it.
async fn indexed(world: &impl World) -> (Arc<dyn Ledger>, Arc<dyn Ledger>) {
    let (a, b) = (world.join().await, world.join().await);
    a.index_contents().await.unwrap();
    b.index_contents().await.unwrap();
    (a, b)
}

pub async fn bytes_are_one_files_at_a_time_and_stand_once_recorded(world: impl World) {
    let (a, b) = indexed(&world).await;
    let (first, second, third) =
        (claim(&*a, "1", "/1").await, claim(&*b, "2", "/2").await, claim(&*a, "3", "/3").await);
    is_ours(reserve(&*a, &first).await);
    is_ours(reserve(&*a, &first).await);
    is_in_hand(reserve(&*b, &second).await, &*a);
    // Of the same owner, too; but not at another destination, nor of other bytes.
    is_in_hand(reserve(&*a, &third).await, &*a);
    let mut elsewhere = request("1", "/1");
    elsewhere.key.destination = "sftp://other/".into();
    is_ours(reserve(&*b, &claimed(ask(&*b, elsewhere).await)).await);
    is_ours(b.reserve(&second, Sha256Digest([7; 32])).await.unwrap());
    // Under a conflict name.
    a.record(&first, record("/1.d1d1d1d1", world.now()), Intention::LeaveAlone).await.unwrap();
    stands_at(reserve(&*b, &second).await, "/1.d1d1d1d1");
    stands_at(reserve(&*a, &third).await, "/1.d1d1d1d1");
    b.record(&second, record("/1.d1d1d1d1", world.now()), Intention::Dispose).await.unwrap();
    assert_eq!(recorded(ask(&*a, request("2", "/x")).await).remote.as_str(), "/1.d1d1d1d1");
    stands_at(reserve(&*a, &third).await, "/1.d1d1d1d1");
    // A forced repetition falls back to its record, and so do the bytes.
    let again = claimed(ask(&*a, forced("1", "/again")).await);
    stands_at(reserve(&*b, &claim(&*b, "4", "/4").await).await, "/1.d1d1d1d1");
    a.release(&again, Release::Forget { staged: Staged::Nothing }).await.unwrap();
    lost(a.reserve(&again, BYTES).await.map(drop));
}

pub async fn a_reservation_ends_with_its_claim(world: impl World) {
    let (a, b) = indexed(&world).await;
    let (reason, intention) = ("full".to_owned(), Intention::LeaveAlone);
    let failed = Release::Failed { reason, attempts: 3, staged: Staged::Gone, intention };
    let releases = [Release::Forget { staged: Staged::Nothing }, unfinished(Staged::Nothing), failed];
    for (number, release) in releases.into_iter().enumerate() {
        let (name, heir) = (format!("{number}"), format!("heir of {number}"));
        let bytes = Sha256Digest([number as u8; 32]);
        let mine = claim(&*a, &name, "/mine").await;
        is_ours(a.reserve(&mine, bytes).await.unwrap());
        a.release(&mine, release).await.unwrap();
        lost(a.reserve(&mine, bytes).await.map(drop));
        // It is the next one's then, and not the first one's any more, should that come back.
        is_ours(b.reserve(&claim(&*b, &heir, "/heir").await, bytes).await.unwrap());
        is_in_hand(a.reserve(&claim(&*a, &name, "/mine").await, bytes).await.unwrap(), &*b);
    }
    // One that asks for other bytes needs the first ones no longer.
    let fickle = claim(&*a, "fickle", "/fickle").await;
    is_ours(reserve(&*a, &fickle).await);
    is_ours(a.reserve(&fickle, Sha256Digest([9; 32])).await.unwrap());
    is_ours(reserve(&*b, &claim(&*b, "another", "/another").await).await);
}

/// Nobody may archive the bytes elsewhere before the file is settled of an owner that died, or did not clean up.
pub async fn what_may_still_be_published_is_settled_first(world: impl World) {
    let (a, b) = indexed(&world).await;
    let c = world.join().await;
    let second = claim(&*b, "2", "/2").await;
    let dead = claim(&*a, "1", "/1").await;
    is_ours(reserve(&*a, &dead).await);
    world.kill(a).await;
    let found = left(reserve(&*b, &second).await);
    let asked = (&found.request.key, &*found.request.local_path, found.request.remote.as_str());
    assert_eq!(asked, (&key("1"), Path::new("/src/1"), "/1"));
    assert_eq!((found.request.repeat, &found.failed), (Repeat::Skip, &None));
    // While one settles it, the others wait.
    let settling = claimed(ask(&*b, found.request).await);
    assert_eq!((&settling.predecessors[..], settling.remote.as_str()), (&[dead.token][..], "/1"));
    let third = claim(&*c, "3", "/3").await;
    is_in_hand(reserve(&*c, &third).await, &*b);
    // It failed, and may have left something again.
    let reason = "full".to_owned();
    let failed =
        |staged| Release::Failed { reason: reason.clone(), attempts: 2, staged, intention: Intention::LeaveAlone };
    b.release(&settling, failed(Staged::Maybe)).await.unwrap();
    let found = left(reserve(&*c, &third).await);
    assert_eq!(found.failed, Some(reason.clone()));
    let settling = claimed(ask(&*c, found.request).await);
    assert_eq!(settling.predecessors.len(), 2);
    c.release(&settling, failed(Staged::Gone)).await.unwrap();
    is_ours(reserve(&*c, &third).await);
    is_in_hand(reserve(&*b, &second).await, &*c);
    // A lease that ran out; this time the bytes stood under the name.
    world.pass(c.lease() + Duration::from_secs(1));
    b.renew().await.unwrap();
    let settling = claimed(ask(&*b, left(reserve(&*b, &second).await).request).await);
    lost(c.confirm(&third).await);
    lost(c.reserve(&third, BYTES).await.map(drop));
    b.record(&settling, record("/3", world.now()), Intention::Dispose).await.unwrap();
    stands_at(reserve(&*b, &second).await, "/3");
}

/// A file that may have been published already keeps its bytes through a take-over, or a new token.
pub async fn a_successor_has_its_predecessors_bytes(world: impl World) {
    let (a, b) = indexed(&world).await;
    let dead = claim(&*a, "1", "/1").await;
    is_ours(reserve(&*a, &dead).await);
    world.kill(a).await;
    let heir = claim(&*b, "1", "/1").await;
    assert_eq!(b.reserved(&heir).await.unwrap(), Some(BYTES));
    is_in_hand(reserve(&*b, &claim(&*b, "2", "/2").await).await, &*b);
    is_ours(reserve(&*b, &heir).await);
    let heir = b.reissue(&heir).await.unwrap();
    is_ours(reserve(&*b, &heir).await);
    b.record(&heir, record("/1", world.now()), Intention::LeaveAlone).await.unwrap();
    let again = claimed(ask(&*b, forced("1", "/again")).await);
    assert_eq!(b.reserved(&again).await.unwrap(), None);
    stands_at(reserve(&*b, &claim(&*b, "3", "/3").await).await, "/1");
}

pub async fn records_of_before_are_found_by_their_bytes(world: impl World) {
    let a = world.join().await;
    // More than one page.
    let claims = a.claim((0..1_100).map(|n| request(&n.to_string(), &format!("/{n}"))).collect()).await.unwrap();
    let records = claims.into_iter().map(claimed).enumerate().map(async |(number, claim)| {
        let sha256 = Sha256Digest(std::array::from_fn(|at| (number >> (8 * (at % 2))) as u8));
        let record = Record { sha256, ..record(claim.remote.as_str(), world.now()) };
        a.record(&claim, record, Intention::LeaveAlone).await.unwrap();
        sha256
    });
    let digests = futures::future::join_all(records).await;
    let b = world.join().await;
    b.index_contents().await.unwrap();
    b.index_contents().await.unwrap();
    let new = claim(&*b, "new", "/new").await;
    for number in [0, 499, 500, 999, 1_099] {
        stands_at(b.reserve(&new, digests[number]).await.unwrap(), &format!("/{number}"));
    }
    // Those of owners that do not ask themselves count, too.
    a.record(&claim(&*a, "later", "/later").await, record("/later", world.now()), Intention::LeaveAlone).await.unwrap();
    stands_at(reserve(&*b, &new).await, "/later");
}

/// The first file's record may be forgotten before a later one's.
pub async fn bytes_stand_as_long_as_any_record_says_so(world: impl World) {
    let (a, b) = indexed(&world).await;
    let directory = tempfile::tempdir().unwrap();
    let file =
        |name: &str| ClaimRequest { local_path: directory.path().join(name), ..request(name, &format!("/{name}")) };
    std::fs::write(directory.path().join("kept"), "").unwrap();
    let first = claimed(ask(&*a, file("first")).await);
    let kept = claimed(ask(&*b, file("kept")).await);
    is_ours(reserve(&*a, &first).await);
    a.record(&first, record("/first", world.now()), Intention::LeaveAlone).await.unwrap();
    stands_at(reserve(&*b, &kept).await, "/first");
    b.record(&kept, record("/first", world.now()), Intention::LeaveAlone).await.unwrap();
    world.pass(Duration::from_secs(2 * 3600));
    a.tidy().await.unwrap();
    assert_eq!(a.recorded(vec![first.key, kept.key]).await.unwrap().iter().flatten().count(), 1);
    stands_at(reserve(&*b, &claim(&*b, "later", "/later").await).await, "/first");
    std::fs::remove_file(directory.path().join("kept")).unwrap();
    a.tidy().await.unwrap();
    is_ours(reserve(&*b, &claim(&*b, "last", "/last").await).await);
}

pub async fn hundreds_of_tasks_archive_the_same_bytes_once(world: impl World) {
    let (a, b) = indexed(&world).await;
    let (ledgers, now) = ([a, b], world.now());
    let tasks = (0..200).map(|n: usize| {
        let ledger = ledgers[n % 2].clone();
        tokio::spawn(async move {
            let bytes = Sha256Digest([(n / 10) as u8; 32]);
            let mine = claim(&*ledger, &n.to_string(), &format!("/{n}")).await;
            let (ours, remote) = loop {
                match ledger.reserve(&mine, bytes).await.unwrap() {
                    Reservation::Ours => break (1, mine.remote.clone()),
                    Reservation::Stands(remote) => break (0, remote),
                    Reservation::InHand(_) => tokio::task::yield_now().await,
                    Reservation::Left(left) => panic!("{left:?}"),
                }
            };
            let record = Record { remote, sha256: bytes, ..record("/", now) };
            ledger.record(&mine, record, Intention::LeaveAlone).await.unwrap();
            ours
        })
    });
    let archived: usize = futures::future::join_all(tasks).await.into_iter().map(Result::unwrap).sum();
    assert_eq!(archived, 20);
}
