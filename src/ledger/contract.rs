//! What every ledger must do. Each function here is one clause; [`contract_suite!`] makes a test of each for an
//! implementation.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::*;
use crate::domain::{Fingerprint, Recount, Status};

mod content;
mod import;
pub mod model;
mod staged;
mod view;

pub use content::*;
pub use import::*;
pub use staged::*;
pub use view::*;

/// One shared ledger of its own for each test.
#[async_trait]
pub trait World: Send + Sync {
    /// A new owner, as if in a process of its own.
    async fn join(&self) -> Arc<dyn Ledger>;
    /// Looks at it from outside; asked only once somebody joined.
    async fn view(&self) -> Arc<dyn LedgerView>;
    /// Ends an owner as SIGKILL would, and waits until the others can know.
    async fn kill(&self, ledger: Arc<dyn Ledger>);
    /// Moves the clock of all owners.
    fn pass(&self, time: Duration);
    /// Sets the clock of all owners back, as an administrator or NTP does.
    fn set_back(&self, time: Duration);
    fn now(&self) -> DateTime<Utc>;
}

#[async_trait]
impl<W: World> World for Arc<W> {
    async fn join(&self) -> Arc<dyn Ledger> {
        (**self).join().await
    }

    async fn view(&self) -> Arc<dyn LedgerView> {
        (**self).view().await
    }

    async fn kill(&self, ledger: Arc<dyn Ledger>) {
        (**self).kill(ledger).await;
    }

    fn pass(&self, time: Duration) {
        (**self).pass(time);
    }

    fn set_back(&self, time: Duration) {
        (**self).set_back(time);
    }

    fn now(&self) -> DateTime<Utc> {
        (**self).now()
    }
}

pub const DESTINATION: &str = "sftp://pine@host/upload";

pub fn key(name: &str) -> FileKey {
    FileKey {
        destination: DESTINATION.into(),
        source: "reports".into(),
        // Not UTF-8, and numbers beyond the signed ones.
        path: [name.as_bytes(), b"\xff"].concat(),
        fingerprint: Fingerprint { inode: u64::MAX, size: 7, mtime_ns: -1 },
    }
}

pub fn request(name: &str, remote: &str) -> ClaimRequest {
    ClaimRequest {
        key: key(name),
        local_path: PathBuf::from("/src").join(name),
        remote: RemotePath::new(remote),
        repeat: Repeat::Skip,
    }
}

fn forced(name: &str, remote: &str) -> ClaimRequest {
    ClaimRequest { repeat: Repeat::Force, ..request(name, remote) }
}

async fn ask(ledger: &dyn Ledger, request: ClaimRequest) -> ClaimReply {
    ledger.claim(vec![request]).await.unwrap().remove(0)
}

async fn claim(ledger: &dyn Ledger, name: &str, remote: &str) -> Claim {
    claimed(ask(ledger, request(name, remote)).await)
}

pub fn claimed(reply: ClaimReply) -> Claim {
    match reply {
        ClaimReply::Claimed(claim) => claim,
        other => panic!("{other:?}"),
    }
}

fn recorded(reply: ClaimReply) -> Record {
    match reply {
        ClaimReply::Recorded(record) => record,
        other => panic!("{other:?}"),
    }
}

fn is_held_by(reply: ClaimReply, by: &dyn Ledger) -> bool {
    matches!(reply, ClaimReply::Held { owner } if owner == by.owner())
}

pub fn record(remote: &str, now: DateTime<Utc>) -> Record {
    let recorded_at = DateTime::from_timestamp_micros(now.timestamp_micros()).unwrap();
    Record { remote: RemotePath::new(remote), sha256: Sha256Digest([0xd1; 32]), recorded_at }
}

#[track_caller]
fn lost(result: Result<(), LedgerError>) {
    assert!(matches!(result, Err(LedgerError::LeaseLost)), "{result:?}");
}

fn unfinished(staged: Staged) -> Release {
    Release::Unfinished { attempts: 1, staged }
}

async fn orphan_keys(ledger: &dyn Ledger) -> Vec<FileKey> {
    let (orphans, _) = ledger.orphans(DESTINATION, Cursor::default(), 1000).await.unwrap();
    orphans.into_iter().map(|orphan| orphan.key).collect()
}

async fn undisposed_keys(ledger: &dyn Ledger) -> Vec<FileKey> {
    let (entries, _) = ledger.undisposed(DESTINATION, Cursor::default(), 1000).await.unwrap();
    entries.into_iter().map(|entry| entry.key).collect()
}

pub async fn a_claim_excludes_everyone_until_it_is_recorded(world: impl World) {
    let (a, b) = (world.join().await, world.join().await);
    let mine = claim(&*a, "x", "/1/x").await;
    assert_eq!((mine.remote.as_str(), mine.attempts, mine.predecessors.len()), ("/1/x", 0, 0));
    assert!(is_held_by(ask(&*a, request("x", "/2/x")).await, &*a));
    assert!(is_held_by(ask(&*b, request("x", "/2/x")).await, &*a));
    assert!(is_held_by(ask(&*b, forced("x", "/2/x")).await, &*a));
    a.confirm(&mine).await.unwrap();
    // Recorded under a conflict name beside the pinned one.
    let record = record("/1/x.d1d1d1d1", world.now());
    a.record(&mine, record.clone(), Intention::LeaveAlone).await.unwrap();
    for ledger in [&a, &b] {
        assert_eq!(recorded(ask(&**ledger, request("x", "/2/x")).await), record);
    }
    lost(a.confirm(&mine).await);
    lost(a.record(&mine, record, Intention::LeaveAlone).await);
}

pub async fn another_version_source_or_destination_is_another_entry(world: impl World) {
    let a = world.join().await;
    let mut requests = vec![request("x", "/x"); 6];
    requests[1].key.fingerprint.mtime_ns += 1;
    requests[2].key.fingerprint.inode -= 1;
    requests[3].key.fingerprint.size += 1;
    requests[4].key.source = "".into();
    requests[5].key.destination = "sftp://other/".into();
    let claims: Vec<_> = a.claim(requests).await.unwrap().into_iter().map(claimed).collect();
    assert_eq!(claims.iter().map(|claim| claim.token).collect::<BTreeSet<_>>().len(), 6);
}

pub async fn replies_follow_the_requests(world: impl World) {
    let a = world.join().await;
    let done = claim(&*a, "done", "/done").await;
    a.record(&done, record("/done", world.now()), Intention::LeaveAlone).await.unwrap();
    let replies = a
        .claim(vec![
            request("new", "/new"),
            request("done", "/again"),
            request("new", "/twice"),
            request("last", "/last"),
        ])
        .await
        .unwrap();
    assert!(matches!(
        &replies[..],
        [ClaimReply::Claimed(new), ClaimReply::Recorded(_), ClaimReply::Held { .. }, ClaimReply::Claimed(last)]
            if new.key == key("new") && last.key == key("last") && new.token < last.token
    ));
    assert!(a.claim(vec![]).await.unwrap().is_empty());
}

pub async fn tokens_grow_over_all_keys_and_owners(world: impl World) {
    let (a, b) = (world.join().await, world.join().await);
    let mut tokens = Vec::new();
    for round in 0..5 {
        for ledger in [&a, &b] {
            let mine = claim(&**ledger, "x", "/x").await;
            tokens.push(mine.token);
            ledger.release(&mine, unfinished(Staged::Nothing)).await.unwrap();
            tokens.push(claim(&**ledger, &format!("{round}{}", ledger.owner()), "/y").await.token);
        }
    }
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

pub async fn the_path_stays_pinned_and_predecessors_are_known(world: impl World) {
    let a = world.join().await;
    let first = claim(&*a, "x", "/1/x").await;
    a.release(&first, unfinished(Staged::Maybe)).await.unwrap();
    let second = claim(&*a, "x", "/2/x").await;
    assert_eq!((second.remote.as_str(), second.attempts), ("/1/x", 1));
    assert_eq!(second.predecessors, [first.token]);
    let failed = Release::Failed {
        reason: "no space".into(),
        attempts: 8,
        staged: Staged::Maybe,
        intention: Intention::LeaveAlone,
    };
    a.release(&second, failed).await.unwrap();
    let third = claim(&*a, "x", "/3/x").await;
    assert_eq!((third.remote.as_str(), third.attempts), ("/1/x", 8));
    assert_eq!(third.predecessors, [first.token, second.token]);
    a.release(&third, unfinished(Staged::Nothing)).await.unwrap();
    let fourth = claim(&*a, "x", "/4/x").await;
    assert_eq!((fourth.remote.as_str(), fourth.predecessors.len()), ("/1/x", 0));
}

pub async fn a_dead_owner_is_succeeded_at_its_path(world: impl World) {
    let (a, b) = (world.join().await, world.join().await);
    let dead = claim(&*a, "x", "/1/x").await;
    assert!(is_held_by(ask(&*b, request("x", "/2/x")).await, &*a));
    assert!(orphan_keys(&*b).await.is_empty());
    world.kill(a).await;
    assert_eq!(orphan_keys(&*b).await, [key("x")]);
    let heir = claim(&*b, "x", "/2/x").await;
    assert!(heir.token > dead.token);
    assert_eq!((heir.remote.as_str(), &heir.predecessors[..]), ("/1/x", &[dead.token][..]));
    assert!(orphan_keys(&*b).await.is_empty());
}

pub async fn a_lease_that_ran_out_is_taken_over_and_fenced_off(world: impl World) {
    let (a, b) = (world.join().await, world.join().await);
    let old = claim(&*a, "x", "/1/x").await;
    let kept = claim(&*a, "kept", "/1/kept").await;
    world.pass(a.lease() - Duration::from_millis(1));
    b.renew().await.unwrap();
    assert!(is_held_by(ask(&*b, request("x", "/2/x")).await, &*a));
    world.pass(Duration::from_millis(1));
    // The owner's own claim is its own as long as nobody took it.
    assert!(is_held_by(ask(&*a, request("x", "/2/x")).await, &*a));
    let heir = claim(&*b, "x", "/2/x").await;
    assert_eq!((heir.remote.as_str(), &heir.predecessors[..]), ("/1/x", &[old.token][..]));
    lost(a.confirm(&old).await);
    lost(a.record(&old, record("/1/x", world.now()), Intention::LeaveAlone).await);
    lost(a.release(&old, unfinished(Staged::Nothing)).await);
    lost(a.release(&old, Release::Forget { staged: Staged::Nothing }).await);
    b.confirm(&heir).await.unwrap();
    // Nobody took this one, so a renewal brings it back.
    a.renew().await.unwrap();
    assert!(is_held_by(ask(&*b, request("kept", "/2/kept")).await, &*a));
    a.record(&kept, record("/1/kept", world.now()), Intention::LeaveAlone).await.unwrap();
    b.record(&heir, record("/1/x", world.now()), Intention::LeaveAlone).await.unwrap();
}

pub async fn renewal_and_confirmation_extend_all_leases(world: impl World) {
    let (a, b) = (world.join().await, world.join().await);
    let one = claim(&*a, "1", "/1").await;
    claim(&*a, "2", "/2").await;
    for _ in 0..4 {
        world.pass(a.lease() * 2 / 3);
        a.renew().await.unwrap();
    }
    assert!(is_held_by(ask(&*b, request("2", "/2")).await, &*a));
    world.pass(a.lease() * 2 / 3);
    a.confirm(&one).await.unwrap();
    world.pass(a.lease() / 2);
    assert!(is_held_by(ask(&*b, request("1", "/1")).await, &*a));
}

pub async fn a_failure_leaves_the_rest_of_its_batch_alone(world: impl World) {
    let a = world.join().await;
    let ended = claim(&*a, "ended", "/ended").await;
    a.release(&ended, unfinished(Staged::Nothing)).await.unwrap();
    let names: Vec<_> = (0..50).map(|n| n.to_string()).collect();
    let requests = names.iter().map(|name| request(name, name)).collect();
    let claims: Vec<_> = a.claim(requests).await.unwrap().into_iter().map(claimed).collect();
    let good = futures::future::join_all(
        claims.iter().map(|claim| a.record(claim, record("/r", world.now()), Intention::LeaveAlone)),
    );
    let bad =
        futures::future::join_all((0..50).map(|_| a.record(&ended, record("/r", world.now()), Intention::LeaveAlone)));
    let (good, bad) = futures::join!(good, bad);
    good.into_iter().for_each(Result::unwrap);
    bad.into_iter().for_each(lost);
    for name in &names {
        recorded(ask(&*a, request(name, "/again")).await);
    }
}

pub async fn disposals_without_an_end_are_found(world: impl World) {
    let (a, b) = (world.join().await, world.join().await);
    for name in ["begun", "ended", "never"] {
        let mine = claim(&*a, name, name).await;
        lost(a.disposing(&key(name)).await);
        a.record(&mine, record(name, world.now()), Intention::LeaveAlone).await.unwrap();
    }
    for name in ["begun", "ended"] {
        a.disposing(&key(name)).await.unwrap();
        a.disposing(&key(name)).await.unwrap();
        lost(b.disposing(&key(name)).await);
    }
    a.disposed(&key("ended")).await.unwrap();
    a.disposed(&key("ended")).await.unwrap();
    lost(a.disposing(&key("unknown")).await);
    a.disposed(&key("unknown")).await.unwrap();
    assert!(undisposed_keys(&*a).await.is_empty() && undisposed_keys(&*b).await.is_empty());
    world.kill(a).await;
    assert_eq!(undisposed_keys(&*b).await, [key("begun")]);
    b.disposing(&key("begun")).await.unwrap();
    assert!(undisposed_keys(&*b).await.is_empty());
    // It cannot be done now: whoever looks next takes it up, this owner, too.
    b.postponed(&key("begun")).await.unwrap();
    assert_eq!(undisposed_keys(&*b).await, [key("begun")]);
    b.disposing(&key("begun")).await.unwrap();
    // Another one, late, that found nothing left to do: what is in the middle stays known.
    world.join().await.disposed(&key("begun")).await.unwrap();
    let all = view::infos(&*world.view().await, EntryFilter::All, 9).await;
    assert!(all.iter().any(|entry| entry.key == key("begun") && entry.disposal == Disposal::Pending));
    b.disposed(&key("begun")).await.unwrap();
    b.postponed(&key("begun")).await.unwrap();
    assert!(undisposed_keys(&*b).await.is_empty());
    // On its way into quarantine, without a record.
    let c = world.join().await;
    let failed = claim(&*c, "failed", "failed").await;
    let release =
        Release::Failed { reason: "r".into(), attempts: 1, staged: Staged::Nothing, intention: Intention::Dispose };
    c.release(&failed, release).await.unwrap();
    lost(b.disposing(&key("failed")).await);
    world.kill(c).await;
    b.disposing(&key("failed")).await.unwrap();
    lost(world.join().await.disposing(&key("failed")).await);
    b.disposed(&key("failed")).await.unwrap();
    // Somebody archives it again: hands off.
    let c = world.join().await;
    claimed(ask(&*c, forced("never", "/2")).await);
    lost(b.disposing(&key("never")).await);
}

pub fn row(path: &str, status: Status, bytes: u64) -> Row {
    Row {
        source: "reports".into(),
        path: path.into(),
        remote: (status == Status::Archived).then(|| format!("/r/{path}")),
        bytes,
        sha256: (status == Status::Archived).then_some(Sha256Digest([7; 32])),
        status,
        reason: (status != Status::Archived).then(|| "why\n\"not\"".into()),
        attempts: 2,
        elapsed: Duration::from_nanos(1_500_000_001),
    }
}

async fn all_rows(ledger: &dyn Ledger) -> Vec<Row> {
    ledger.rows(RowFilter::All, Cursor::default(), 1000).await.unwrap().0
}

pub async fn rows_keep_their_order_and_are_replaced_by_version(world: impl World) {
    let (a, b) = (world.join().await, world.join().await);
    // What each changes in the totals is told with it.
    let put = async |version: Option<&FileKey>, row: Row| {
        let (before, status) = (a.totals().await.unwrap(), row.status);
        let recounts = a.put_rows(vec![RowOf::new(version, row)]).await.unwrap();
        let [Recount { before: was, after: is }] = recounts[..] else { panic!("{recounts:?}") };
        let (mut expected, mut told) = (before, a.totals().await.unwrap());
        expected += is;
        told += was;
        assert_eq!(expected, told);
        recounts[0].is_news(status)
    };
    put(None, row("1", Status::Deferred, 1)).await;
    assert!(put(Some(&key("2")), row("2", Status::Failed, 2)).await);
    assert!(!put(Some(&key("2")), row("2", Status::Failed, 2)).await, "it fails again");
    assert!(!put(Some(&key("2")), row("2", Status::Deferred, 2)).await, "it counts as failed");
    put(Some(&key("3")), row("3", Status::Archived, 3)).await;
    b.put_rows(vec![RowOf::new(None, row("other", Status::Failed, 1))]).await.unwrap();
    // Identified, retried, deferred again under another name for the same candidate, and identified once more.
    put(Some(&key("1")), row("1", Status::Archived, 10)).await;
    put(Some(&key("2")), row("2", Status::Archived, 20)).await;
    assert!(put(None, row("1", Status::Deferred, 11)).await);
    assert_eq!(a.totals().await.unwrap().files(), 4);
    // That it is on record already is no news in the run that archived it.
    assert!(!put(Some(&key("1")), row("1", Status::Skipped, 12)).await);
    // A second version of a path is a second row; so is another source's.
    let mut newer = key("3");
    newer.fingerprint.size += 1;
    put(Some(&newer), row("3", Status::Skipped, 4)).await;
    put(Some(&key("3")), Row { source: String::new(), ..row("3", Status::Failed, 5) }).await;

    let expected = [
        row("1", Status::Archived, 10),
        row("2", Status::Archived, 20),
        row("3", Status::Archived, 3),
        row("3", Status::Skipped, 4),
        Row { source: String::new(), ..row("3", Status::Failed, 5) },
    ];
    assert_eq!(all_rows(&*a).await, expected);
    let totals = a.totals().await.unwrap();
    assert_eq!(totals, Totals { archived: 3, skipped: 1, deferred: 0, failed: 1, bytes: 33 });
    let mut paged = Vec::new();
    let mut after = Cursor::default();
    loop {
        let (page, next) = a.rows(RowFilter::All, after, 2).await.unwrap();
        let last = page.len() < 2;
        paged.extend(page);
        after = next;
        if last {
            break;
        }
    }
    assert_eq!(paged, expected);
    let (archived, _) = a.rows(RowFilter::Status(Status::Archived), Cursor::default(), 10).await.unwrap();
    assert_eq!(archived, expected[..3]);
    assert_eq!(b.totals().await.unwrap(), Totals { failed: 1, ..Totals::default() });
    assert_eq!(world.join().await.totals().await.unwrap(), Totals::default());
}

pub async fn finishing_frees_what_is_held(world: impl World) {
    let (a, b) = (world.join().await, world.join().await);
    let mine = claim(&*a, "x", "/1/x").await;
    a.finish().await.unwrap();
    assert!(matches!(a.renew().await, Err(LedgerError::Unusable { .. })));
    assert!(matches!(
        a.record(&mine, record("/1/x", world.now()), Intention::LeaveAlone).await,
        Err(LedgerError::Unusable { .. })
    ));
    assert_eq!(claim(&*b, "x", "/2/x").await.predecessors, [mine.token]);
    b.finish().await.unwrap();
}

pub async fn hundreds_of_tasks_get_each_file_once(world: impl World) {
    let ledgers = [world.join().await, world.join().await];
    let now = world.now();
    let tasks = (0..400).map(|n: usize| {
        let ledger = ledgers[n % 2].clone();
        tokio::spawn(async move {
            let name = (n / 4).to_string();
            match ask(&*ledger, request(&name, &format!("/{n}"))).await {
                ClaimReply::Claimed(claim) => {
                    ledger.confirm(&claim).await.unwrap();
                    ledger.put_rows(vec![RowOf::new(Some(&claim.key), row(&name, Status::Archived, 1))]).await.unwrap();
                    ledger.record(&claim, record(claim.remote.as_str(), now), Intention::LeaveAlone).await.unwrap();
                    1
                }
                _ => 0,
            }
        })
    });
    let wins: usize = futures::future::join_all(tasks).await.into_iter().map(Result::unwrap).sum();
    assert_eq!(wins, 100);
    let archived = ledgers[0].totals().await.unwrap().archived + ledgers[1].totals().await.unwrap().archived;
    assert_eq!(archived, 100);
}

/// Makes a test of every clause; `$world` makes a new [`World`].
macro_rules! contract_suite {
    ($world:expr) => {
        $crate::ledger::contract::contract_suite!(
            $world,
            a_claim_excludes_everyone_until_it_is_recorded,
            another_version_source_or_destination_is_another_entry,
            replies_follow_the_requests,
            tokens_grow_over_all_keys_and_owners,
            the_path_stays_pinned_and_predecessors_are_known,
            a_dead_owner_is_succeeded_at_its_path,
            a_lease_that_ran_out_is_taken_over_and_fenced_off,
            renewal_and_confirmation_extend_all_leases,
            a_failure_leaves_the_rest_of_its_batch_alone,
            orphans_are_those_that_nobody_holds_and_may_have_staged,
            a_forced_repetition_falls_back_to_its_record,
            names_that_are_gone_are_looked_for_once_more,
            a_claim_that_staged_nothing_is_nobodys_predecessor,
            rivals_are_other_versions_for_the_same_name,
            a_later_token_is_given_once,
            disposals_without_an_end_are_found,
            who_looks_sees_every_entry_in_its_state,
            failed_entries_are_put_back,
            all_owners_are_told_of,
            what_another_ledger_had_goes_on_here,
            what_stands_here_outlives_an_import,
            rows_keep_their_order_and_are_replaced_by_version,
            finishing_frees_what_is_held,
            hundreds_of_tasks_get_each_file_once,
            bytes_are_one_files_at_a_time_and_stand_once_recorded,
            a_reservation_ends_with_its_claim,
            what_may_still_be_published_is_settled_first,
            a_successor_has_its_predecessors_bytes,
            records_of_before_are_found_by_their_bytes,
            bytes_stand_as_long_as_any_record_says_so,
            hundreds_of_tasks_archive_the_same_bytes_once,
        );
    };
    ($world:expr, $($clause:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $clause() {
                $crate::ledger::contract::$clause($world).await;
            }
        )*
    };
}
pub(crate) use contract_suite;
