use super::super::testing::{engine, version};
use super::*;
use crate::domain::Sha256Digest;
use crate::ledger::Intention;

/// Workers may be busy for long: the row of a file that needs none does not wait for them, nor does a kill lose it.
#[tokio::test]
async fn rows_of_files_on_record_do_not_wait_for_the_workers() {
    let home = tempfile::tempdir().unwrap();
    let engine = engine(home.path(), "keep");
    let files = ["new.csv", "newer.csv", "recorded.csv"].map(|name| {
        std::fs::write(home.path().join("in").join(name), name).unwrap();
        Ready { version: version(&engine, name), marker: None, finished: std::time::Instant::now() }
    });
    let (key, remote) = engine.place(&files[2].version).unwrap();
    let local_path = files[2].version.candidate.absolute();
    let request = ClaimRequest { key, local_path, remote: remote.clone(), repeat: Repeat::Skip };
    let reply = engine.ledger.claim(vec![request]).await.unwrap().remove(0);
    let ClaimReply::Claimed(claim) = reply else { panic!("{reply:?}") };
    let record = Record { remote, sha256: Sha256Digest([7; 32]), recorded_at: engine.now() };
    engine.ledger.record(&claim, record, Intention::LeaveAlone).await.unwrap();

    // Nobody takes a job; there is room for one.
    let (jobs, taken) = mpsc::channel(1);
    let intake = Intake::new(engine.clone(), 0, jobs);
    let admitting = tokio::spawn(async move { intake.admit(files.into(), Told::ByRow).await.map(|held| held.len()) });
    let skipped = async {
        while engine.ledger.totals().await.unwrap().skipped == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), skipped).await.expect("its row");
    assert!(!admitting.is_finished());
    drop(taken);
    assert_eq!(admitting.await.unwrap().unwrap(), 0);
}
