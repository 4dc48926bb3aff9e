use std::os::unix::fs::MetadataExt;

use super::super::testing::{engine, version};

/// A worker and a scan meet one version. The copy of the one is not to be taken for the leftover of a crash by the other,
/// and given its name before it is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_disposed_of_by_one_at_a_time() {
    const BYTES: u64 = 32 << 20;
    let home = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    if elsewhere.path().metadata().unwrap().dev() == home.path().metadata().unwrap().dev() {
        eprintln!("skipped: there is no second filesystem to write to");
        return;
    }
    let engine = engine(home.path(), &format!("move={}", elsewhere.path().display()));
    for round in 0..8 {
        let name = format!("{round}.bin");
        std::fs::write(home.path().join("in").join(&name), vec![1; BYTES as usize]).unwrap();
        let version = version(&engine, &name);
        let (key, _) = engine.place(&version).unwrap();
        let disposals = (0..2).map(|_| {
            let (engine, version, key) = (engine.clone(), version.clone(), key.id());
            let moved = elsewhere.path().join(&name);
            tokio::spawn(async move {
                let after = engine.sources[0].after.clone();
                engine.dispose_version(&version, None, key, after).await.unwrap();
                std::fs::metadata(moved).unwrap().len()
            })
        });
        for moved in futures::future::join_all(disposals).await {
            assert_eq!(moved.unwrap(), BYTES, "round {round}");
        }
        std::fs::remove_file(elsewhere.path().join(&name)).unwrap();
    }
}
