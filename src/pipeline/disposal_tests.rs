use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::super::build;
use super::super::names::Entry;
use super::*;
use crate::config::{self, CommandKind, CommandLayer, Environment};
use crate::domain::OwnerId;
use crate::ledger::{SqliteConfig, SqliteLedger};
use crate::report::Reporter;

/// An engine that archives `in/` and moves what is archived to `to`.
fn engine(home: &Path, to: &Path) -> Engine {
    let mut command = CommandLayer::default();
    command.set("destination.url", Some("sftp://u@127.0.0.1:1/".into()));
    command.set("destination.ssh-config", Some("none".into()));
    command.set("after", Some(format!("move={}", to.display())));
    command.paths = vec![home.join("in")];
    let settings = config::resolve(&command, &Environment::with([]), CommandKind::Watch).unwrap().settings;
    let ledger = SqliteLedger::open(SqliteConfig {
        path: home.join("ledger.db"),
        retention: Duration::from_secs(3600),
        lease: Duration::from_secs(60),
        owner: OwnerId(1),
        clock: Arc::new(chrono::Utc::now),
    });
    let ledger = Arc::new(ledger.unwrap());
    let reporter = Reporter::new();
    build::engine(settings.into(), ledger, reporter, Patience::Persistent, "host".into()).unwrap().0
}

/// A worker and a scan meet one version. The copy of the one is not to be taken for the leftover of a crash by the other,
/// and given its name before it is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_disposed_of_by_one_at_a_time() {
    const BYTES: u64 = 32 << 20;
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("in")).unwrap();
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    if elsewhere.path().metadata().unwrap().dev() == home.path().metadata().unwrap().dev() {
        eprintln!("skipped: there is no second filesystem to write to");
        return;
    }
    let engine = Arc::new(engine(home.path(), elsewhere.path()));
    let Entry::Directory(root) = &engine.sources[0].entries[0] else { panic!("a directory") };
    for round in 0..8 {
        let name = format!("{round}.bin");
        std::fs::write(home.path().join("in").join(&name), vec![1; BYTES as usize]).unwrap();
        let path = BelowRoot::new(&*name).unwrap();
        let fingerprint = root.dir.fingerprint_at(&path).unwrap().unwrap();
        let version = Version { candidate: Candidate { root: root.clone(), path }, fingerprint };
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
