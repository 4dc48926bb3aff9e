//! An engine for tests of single steps; its destination is never reached.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::build;
use super::engine::{Engine, Patience};
use super::names::Entry;
use super::read::Version;
use super::shared::Shared;
use crate::config::{self, CommandKind, CommandLayer, Environment};
use crate::domain::OwnerId;
use crate::ledger::{SqliteConfig, SqliteLedger};
use crate::report::Reporter;
use crate::source::{BelowRoot, Candidate};

/// Archives `in/` of a home directory, which is made, and does with what is archived what `after` says.
pub fn engine(home: &Path, after: &str) -> Arc<Engine> {
    std::fs::create_dir(home.join("in")).unwrap();
    let ledger = home.join("ledger.db");
    let mut command = CommandLayer { paths: vec![home.join("in")], ..CommandLayer::default() };
    command.set("destination.url", Some("sftp://u@127.0.0.1:1/".into()));
    command.set("destination.ssh-config", Some("none".into()));
    command.set("ledger.url", Some(ledger.display().to_string()));
    command.set("after", Some(after.into()));
    let settings = config::resolve(&command, &Environment::with([]), CommandKind::Watch).unwrap().settings;
    let ledger = SqliteLedger::open(SqliteConfig {
        path: ledger,
        retention: Duration::from_secs(3600),
        lease: Duration::from_secs(60),
        owner: OwnerId(1),
        clock: Arc::new(chrono::Utc::now),
    });
    let ledger = Arc::new(ledger.unwrap());
    let built = build::engine(
        settings.into(),
        ledger,
        Reporter::new([]),
        Patience::Persistent,
        "host".into(),
        chrono::Utc::now(),
        Shared::default(),
    );
    Arc::new(built.unwrap().0)
}

/// The version of a file of the engine's only directory, as it stands.
pub fn version(engine: &Engine, name: &str) -> Version {
    let Entry::Directory(root) = &engine.sources[0].entries[0] else { panic!("a directory") };
    let path = BelowRoot::new(name).unwrap();
    let fingerprint = root.dir.fingerprint_at(&path).unwrap().unwrap();
    Version { candidate: Candidate { root: root.clone(), path }, fingerprint }
}
