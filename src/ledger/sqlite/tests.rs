//! The contract, and what is particular to SQLite: places, files, crashes, retention, copies.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use proptest::prelude::ProptestConfig;
use tempfile::TempDir;

use super::*;
use crate::domain::Status;
use crate::ledger::contract::{self, World, claimed, key, record, request, row};

/// Owners of one database in a directory of its own, and their clock.
pub(crate) struct Place {
    directory: TempDir,
    micros: Arc<AtomicI64>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let start = DateTime::parse_from_rfc3339("2026-11-21T03:00:00Z").unwrap();
        Self { directory: tempfile::tempdir().unwrap(), micros: Arc::new(AtomicI64::new(start.timestamp_micros())) }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("state/ledger.db")
    }

    fn config(&self) -> SqliteConfig {
        let micros = self.micros.clone();
        SqliteConfig {
            path: self.path(),
            retention: Duration::from_secs(3600),
            lease: DEFAULT_LEASE,
            owner: OwnerId(rand::random()),
            clock: Arc::new(move || DateTime::from_timestamp_micros(micros.load(Ordering::Relaxed)).unwrap()),
        }
    }

    fn open(&self) -> SqliteLedger {
        SqliteLedger::open(self.config()).unwrap()
    }

    fn look(&self) -> SqliteView {
        SqliteView::open(&self.path(), self.config().clock).unwrap()
    }

    fn names(&self, below: &str) -> Vec<String> {
        let directory = self.directory.path().join(below);
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[async_trait]
impl World for Place {
    async fn join(&self) -> Arc<dyn Ledger> {
        Arc::new(self.open())
    }

    async fn view(&self) -> Arc<dyn LedgerView> {
        Arc::new(self.look())
    }

    async fn kill(&self, ledger: Arc<dyn Ledger>) {
        // The kernel drops the lock; everything else stays as it was.
        assert_eq!(Arc::strong_count(&ledger), 1);
        drop(ledger);
    }

    fn pass(&self, time: Duration) {
        self.micros.fetch_add(i64::try_from(time.as_micros()).unwrap(), Ordering::Relaxed);
    }

    fn set_back(&self, time: Duration) {
        self.micros.fetch_sub(i64::try_from(time.as_micros()).unwrap(), Ordering::Relaxed);
    }

    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.micros.load(Ordering::Relaxed)).unwrap()
    }
}

mod suite {
    use super::Place;
    crate::ledger::contract::contract_suite!(Place::new());
}

proptest::proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 2 / 5, ..Default::default() })]
    #[test]
    fn any_history_agrees_with_the_model(history in contract::model::history(1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(contract::model::agrees(Place::new(), history));
    }
}

proptest::proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 40, ..Default::default() })]
    #[test]
    fn a_long_history_agrees_with_the_model(history in contract::model::history(300..400)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(contract::model::agrees(Place::new(), history));
    }
}

async fn claim(ledger: &SqliteLedger, name: &str) -> Claim {
    claimed(ledger.claim(vec![request(name, &format!("/{name}"))]).await.unwrap().remove(0))
}

fn reason(result: Result<SqliteLedger, LedgerError>) -> String {
    match result {
        Err(LedgerError::Unusable { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

/// Makes a ledger what an earlier version wrote.
fn downgrade(place: &Place, version: i32) {
    let database = rusqlite::Connection::open(place.path()).unwrap();
    database
        .execute_batch(
            "DROP INDEX entry_failed; ALTER TABLE entry DROP COLUMN gone_at; ALTER TABLE entry DROP COLUMN since; ALTER TABLE entry DROP COLUMN queued_at; \
             ALTER TABLE ledger DROP COLUMN retries",
        )
        .unwrap();
    if version == 1 {
        database.execute_batch("UPDATE entry SET id = substr(id, 5)").unwrap();
    }
    database.execute_batch(&format!("PRAGMA user_version = {version}")).unwrap();
}

const EARLIER: [i32; 2] = [1, 2];

#[tokio::test]
async fn a_ledger_of_an_earlier_schema_keeps_its_records() {
    for version in EARLIER {
        let place = Place::new();
        let ledger = place.open();
        // More than one page of the upgrade.
        let names: Vec<_> = (0..2_500).map(|number| format!("{}/{number}", number % 7)).collect();
        let requests = names.iter().map(|name| request(name, &format!("/{name}"))).collect();
        let claims = ledger.claim(requests).await.unwrap().into_iter().map(claimed);
        futures::future::join_all(claims.map(async |claim| {
            ledger.record(&claim, record(claim.remote.as_str(), place.now()), Intention::LeaveAlone).await.unwrap();
        }))
        .await;
        let failed = claim(&ledger, "failed").await;
        let (reason, staged, intention) = ("full".into(), Staged::Nothing, Intention::LeaveAlone);
        ledger.release(&failed, Release::Failed { reason, attempts: 8, staged, intention }).await.unwrap();
        ledger.finish().await.unwrap();
        drop(ledger);
        downgrade(&place, version);
        // Who looks reads it as it is.
        let before = fs::read(place.path()).unwrap();
        let (all, _) = place.look().entries(EntryFilter::All, Cursor::default(), 9_999).await.unwrap();
        assert_eq!((all.len(), all[0].queued_at), (2_501, None));
        let (failed, _) = place.look().entries(EntryFilter::Failed, Cursor::default(), 9_999).await.unwrap();
        assert!(matches!(&failed[..], [EntryInfo { state: EntryState::Failed { since: None, .. }, .. }]), "{failed:?}");
        assert_eq!(fs::read(place.path()).unwrap(), before);
        for dry_run in [true, false] {
            let ledger = if dry_run { SqliteLedger::open_snapshot(place.config()).unwrap() } else { place.open() };
            let records = ledger.recorded(names.iter().map(|name| key(name)).collect()).await.unwrap();
            for (name, found) in names.iter().zip(records) {
                assert_eq!(found, Some(record(&format!("/{name}"), place.now())), "{name}");
            }
            assert_eq!(ledger.retry(vec![key("failed")]).await.unwrap(), [true]);
        }
    }
}

#[tokio::test]
async fn a_ledger_of_an_earlier_schema_that_is_in_use_is_left_alone() {
    for version in EARLIER {
        let place = Place::new();
        let earlier = place.open();
        claim(&earlier, "x").await;
        downgrade(&place, version);
        match SqliteLedger::open(place.config()) {
            Err(LedgerError::Unavailable { reason, .. }) => assert!(reason.contains("earlier version"), "{reason}"),
            other => panic!("{other:?}"),
        }
        let (held, _) = place.look().entries(EntryFilter::All, Cursor::default(), 10).await.unwrap();
        assert!(matches!(held[0].state, EntryState::Held { since: None, .. }), "{held:?}");
        drop(earlier);
        place.open();
    }
}

#[tokio::test]
async fn looking_makes_nothing_and_leaves_nothing() {
    let place = Place::new();
    let missing = || SqliteView::open(&place.path(), place.config().clock);
    match missing() {
        Err(LedgerError::Unusable { reason, .. }) => assert!(reason.contains("--ledger"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(place.names("").is_empty());
    fs::create_dir(place.directory.path().join("state")).unwrap();
    fs::write(place.path(), "").unwrap();
    assert!(missing().is_err());
    fs::remove_file(place.path()).unwrap();

    let ledger = place.open();
    let mine = claim(&ledger, "x").await;
    let listing = || (place.names("state"), place.names("state/ledger.db.owners"), fs::read(place.path()).unwrap());
    let look = async || place.look().entries(EntryFilter::All, Cursor::default(), 10).await.unwrap().0;
    // In use, then not.
    let before = listing();
    assert!(matches!(look().await[0].state, EntryState::Held { .. }));
    assert_eq!(listing(), before);
    let view = place.look();
    ledger.record(&mine, record("/x", place.now()), Intention::LeaveAlone).await.unwrap();
    ledger.finish().await.unwrap();
    drop(ledger);
    let before = listing();
    assert_eq!(look().await[0].state, EntryState::Recorded);
    // A view outlives those who write.
    assert_eq!(view.entries(EntryFilter::All, Cursor::default(), 10).await.unwrap().0[0].state, EntryState::Recorded);
    assert_eq!(listing(), before);
}

#[tokio::test]
async fn only_this_user_may_read_it_and_a_finished_run_leaves_one_file() {
    let place = Place::new();
    let ledger = place.open();
    claim(&ledger, "x").await;
    for (name, mode) in [
        ("state", 0o700),
        ("state/ledger.db", 0o600),
        ("state/ledger.db-wal", 0o600),
        ("state/ledger.db-shm", 0o600),
        ("state/ledger.db.owners", 0o700),
        (&format!("state/ledger.db.owners/{}", ledger.owner()), 0o600),
        (&format!("state/ledger.db.owners/{}.rows", ledger.owner()), 0o600),
    ] {
        let found = fs::metadata(place.directory.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
    ledger.finish().await.unwrap();
    drop(ledger);
    assert_eq!(place.names("state"), ["ledger.db", "ledger.db.owners"]);
    assert!(place.names("state/ledger.db.owners").is_empty());
}

#[tokio::test]
async fn what_a_dead_owner_left_is_swept_by_the_next() {
    let place = Place::new();
    let dead = place.open();
    let dead_owner = dead.owner();
    dead.put_rows(vec![RowOf::new(None, row("x", Status::Failed, 1))]).await.unwrap();
    drop(dead);
    // As a SIGKILL would leave it.
    fs::write(Owners::beside(&place.path()).rows_path(dead_owner), "rows").unwrap();
    fs::write(place.directory.path().join("state/ledger.db.owners/somebody's"), "").unwrap();
    let heir = place.open();
    let id = heir.owner();
    assert_eq!(place.names("state/ledger.db.owners"), [id.to_string(), format!("{id}.rows"), "somebody's".into()]);
    let owners: i64 = heir
        .writer
        .call(|store| Ok(store.entries.query_row("SELECT count(*) FROM owner", [], |row| row.get(0))?))
        .await
        .unwrap();
    assert_eq!(owners, 1);
}

#[test]
fn two_ledgers_do_not_issue_the_same_tokens() {
    let token = |place: &Place| {
        let ledger = place.open();
        drop(ledger);
        let database = rusqlite::Connection::open(place.path()).unwrap();
        database.query_row("SELECT token FROM ledger", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let (a, b) = (token(&Place::new()), token(&Place::new()));
    assert!(a != b && (0..1 << 48).contains(&a) && (0..1 << 48).contains(&b), "{a} {b}");
}

#[test]
fn a_file_that_is_not_ours_is_refused_and_left_alone() {
    let place = Place::new();
    let path = place.directory.path().join("other");
    let try_open = || reason(SqliteLedger::open(SqliteConfig { path: path.clone(), ..place.config() }));
    fs::write(&path, "a letter").unwrap();
    assert!(try_open().contains("no SQLite database"));
    assert_eq!(fs::read(&path).unwrap(), b"a letter");
    assert!(
        reason(SqliteLedger::open_snapshot(SqliteConfig { path: path.clone(), ..place.config() }))
            .contains("no SQLite")
    );
    fs::remove_file(&path).unwrap();
    for (sql, expected) in [
        ("CREATE TABLE t (a)", "another program's"),
        ("PRAGMA application_id = 0x61726376; PRAGMA user_version = 99", "a later version"),
    ] {
        rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        let before = fs::read(&path).unwrap();
        let message = try_open();
        assert!(message.contains(expected) && message.contains("--ledger"), "{message}");
        assert_eq!(fs::read(&path).unwrap(), before);
        fs::remove_file(&path).unwrap();
    }
    // With its log in use.
    let other = rusqlite::Connection::open(&path).unwrap();
    let mode: String = other.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    other.execute_batch("CREATE TABLE t (a)").unwrap();
    assert!(try_open().contains("another program's"));
    assert_eq!(place.names(""), ["other", "other-shm", "other-wal"]);
    drop(other);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(try_open().contains("no regular file"));
    assert_eq!(place.names(""), ["other"]);
}

#[test]
fn a_damaged_database_and_a_place_that_cannot_be_written_say_what_to_do() {
    let place = Place::new();
    drop(place.open());
    let mut bytes = fs::read(place.path()).unwrap();
    bytes[100..].fill(0x55);
    fs::write(place.path(), &bytes).unwrap();
    assert!(reason(SqliteLedger::open(place.config())).contains("move it aside"));
    for path in ["/proc/archiver/ledger.db", "/dev/null/ledger.db"] {
        let message = reason(SqliteLedger::open(SqliteConfig { path: path.into(), ..place.config() }));
        assert!(message.contains("--ledger"), "{message}");
    }
}

#[tokio::test]
async fn a_full_disk_fails_the_whole_batch_and_passes() {
    let place = Place::new();
    let ledger = place.open();
    let pages = |limit: &'static str| {
        ledger.writer.call(move |store| {
            let used: i64 = store.entries.query_row("PRAGMA page_count", [], |row| row.get(0))?;
            let limit = if limit == "now" { used } else { 1 << 30 };
            Ok(store.entries.query_row(&format!("PRAGMA max_page_count = {limit}"), [], |_| Ok(()))?)
        })
    };
    pages("now").await.unwrap();
    let many = || (0..1000).map(|n| request(&n.to_string(), "/x")).collect();
    let full = ledger.claim(many()).await;
    assert!(matches!(&full, Err(LedgerError::Unavailable { reason, .. }) if reason.contains("full")), "{full:?}");
    pages("later").await.unwrap();
    let claims = ledger.claim(many()).await.unwrap();
    assert!(claims.into_iter().all(|reply| matches!(reply, ClaimReply::Claimed(_))));
}

#[tokio::test]
async fn asking_without_a_change_writes_nothing() {
    let place = Place::new();
    let ledger = place.open();
    let mine = claim(&ledger, "x").await;
    ledger.record(&mine, record("/x", place.now()), Intention::LeaveAlone).await.unwrap();
    let held = claim(&ledger, "y").await;
    let log = location::suffixed(&place.path(), "-wal");
    let before = fs::read(&log).unwrap();
    assert!(matches!(ledger.claim(vec![request("x", "/")]).await.unwrap()[0], ClaimReply::Recorded(_)));
    assert!(matches!(ledger.claim(vec![request("y", "/")]).await.unwrap()[0], ClaimReply::Held { .. }));
    ledger.confirm(&held).await.unwrap();
    ledger.disposed(&key("x")).await.unwrap();
    ledger.put_rows(vec![RowOf::new(Some(&key("x")), row("x", Status::Skipped, 1))]).await.unwrap();
    ledger.orphans(contract::DESTINATION, Cursor::default(), 10).await.unwrap();
    assert_eq!(fs::read(&log).unwrap(), before);
}

#[tokio::test]
async fn records_past_the_retention_go_once_their_file_is_gone() {
    let place = Place::new();
    let here = place.directory.path().join("here");
    fs::write(&here, "").unwrap();
    let record_all = async |ledger: &SqliteLedger, names: &[&str]| {
        for name in names {
            let local_path = if *name == "kept" { here.clone() } else { place.directory.path().join(name) };
            let request = ClaimRequest { local_path, ..request(name, "/x") };
            let mine = claimed(ledger.claim(vec![request]).await.unwrap().remove(0));
            ledger.record(&mine, record("/x", place.now()), Intention::LeaveAlone).await.unwrap();
        }
    };
    let first = place.open();
    record_all(&first, &["gone", "kept", "disposing"]).await;
    first.disposing(&key("disposing")).await.unwrap();
    place.pass(Duration::from_secs(3601));
    first.renew().await.unwrap();
    record_all(&first, &["young"]).await;
    first.finish().await.unwrap();
    let second = place.open();
    for (name, stays) in [("gone", false), ("kept", true), ("disposing", true), ("young", true)] {
        let reply = second.claim(vec![request(name, "/again")]).await.unwrap().remove(0);
        assert_eq!(matches!(reply, ClaimReply::Recorded(_)), stays, "{name}");
    }
}

#[tokio::test]
async fn retention_goes_on_where_it_stopped() {
    let place = Place::new();
    let ledger = place.open();
    let requests: Vec<_> = (0..2 * RETENTION_PAGE + 10).map(|n| request(&n.to_string(), "/x")).collect();
    for reply in ledger.claim(requests).await.unwrap() {
        ledger.record(&claimed(reply), record("/x", place.now()), Intention::LeaveAlone).await.unwrap();
    }
    place.pass(Duration::from_secs(3601));
    // As if an earlier call had stopped after the first thousand, and their files had gone since.
    ledger
        .writer
        .call(|store| {
            let entries = store.entries()?;
            let page = entries.expired(i64::MAX, AgeCursor(0, 0), RETENTION_PAGE)?;
            let last = page.last().map(|entry| AgeCursor(entry.recorded_at, entry.seq)).unwrap();
            Ok(entries.set_retention_cursor(last)?)
        })
        .await
        .unwrap();
    for left in [RETENTION_PAGE as i64, 0] {
        ledger.tidy().await.unwrap();
        let count =
            |store: &mut Store| Ok(store.entries.query_row("SELECT count(*) FROM entry", [], |row| row.get(0))?);
        assert_eq!(ledger.writer.call::<i64, _>(count).await.unwrap(), left);
    }
}

#[tokio::test]
async fn a_copy_knows_what_is_recorded_and_held_and_changes_nothing() {
    let place = Place::new();
    // No ledger: an empty copy, and still no ledger.
    let copy = SqliteLedger::open_snapshot(place.config()).unwrap();
    claim(&copy, "x").await;
    copy.finish().await.unwrap();
    assert!(place.names("").is_empty());

    let original = place.open();
    let mine = claim(&original, "recorded").await;
    original.record(&mine, record("/recorded", place.now()), Intention::LeaveAlone).await.unwrap();
    claim(&original, "held").await;
    for users in ["some", "none"] {
        let listing = (place.names("state"), place.names("state/ledger.db.owners"), fs::read(place.path()).unwrap());
        let copy = SqliteLedger::open_snapshot(place.config()).unwrap();
        let temporary = std::env::temp_dir().join(format!("archiver-{}", copy.owner()));
        assert!(temporary.exists());
        let replies = copy.claim(["recorded", "held", "new"].map(|name| request(name, "/new")).into()).await.unwrap();
        assert!(matches!(replies[0], ClaimReply::Recorded(_)));
        assert!(matches!(replies[1], ClaimReply::Held { .. }));
        let new = claimed(replies[2].clone());
        copy.record(&new, record("/new", place.now()), Intention::LeaveAlone).await.unwrap();
        copy.put_rows(vec![RowOf::new(Some(&new.key), row("new", Status::Archived, 1))]).await.unwrap();
        assert_eq!(copy.totals().await.unwrap().archived, 1);
        drop(copy);
        assert!(!temporary.exists());
        let after = (place.names("state"), place.names("state/ledger.db.owners"), fs::read(place.path()).unwrap());
        assert_eq!(listing, after, "{users}");
        if users == "some" {
            // The owner's lock stays held while nobody has the database open, as between two processes' lives.
            original
                .writer
                .call(|store| Ok(store.entries.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?))
                .await
                .unwrap();
        }
    }
    assert!(matches!(original.claim(vec![request("new", "/n")]).await.unwrap()[0], ClaimReply::Claimed(_)));
    original.finish().await.unwrap();
    drop(original);
    // Nobody has it open now: not even the log's files may appear.
    let listing = place.names("state");
    let copy = SqliteLedger::open_snapshot(place.config()).unwrap();
    assert!(matches!(copy.claim(vec![request("recorded", "/n")]).await.unwrap()[0], ClaimReply::Recorded(_)));
    assert_eq!(place.names("state"), listing);
}

#[test]
fn many_may_open_a_new_ledger_at_once() {
    let place = Place::new();
    std::thread::scope(|scope| {
        let opened: Vec<_> = (0..8).map(|_| scope.spawn(|| place.open())).collect();
        let ledgers: Vec<_> = opened.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(place.names("state/ledger.db.owners").len(), 2 * ledgers.len());
    });
}
