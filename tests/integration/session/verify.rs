//! An audit beside an archiver that is at work.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use archiver::destination::sftp::{Connector, Pool, PoolConfig, Timeouts};
use archiver::domain::Token;
use archiver::inspect::findings::Findings;
use archiver::inspect::verify::{Audit, Depth, Progress};
use archiver::ledger::{Cursor, EntryFilter, EntryInfo, LedgerError, LedgerView, Outline};
use async_trait::async_trait;

use super::settings;
use crate::support::openssh::OpenSsh;

/// An empty ledger. What is on the server when it is read a second time goes away then.
#[derive(Debug)]
struct Passing {
    file: PathBuf,
    reads: AtomicUsize,
}

#[async_trait]
impl LedgerView for Passing {
    async fn entries(&self, _: EntryFilter, after: Cursor, _: usize) -> Result<(Vec<EntryInfo>, Cursor), LedgerError> {
        if self.reads.fetch_add(1, Ordering::Relaxed) == 1 {
            fs::remove_file(&self.file).unwrap();
        }
        Ok((Vec::new(), after))
    }

    async fn outline(&self) -> Result<Outline, LedgerError> {
        Ok(Outline { last_token: Token(0), retries: 0, members: vec![] })
    }
}

async fn audit(server: &OpenSsh, file: PathBuf) -> Findings {
    let pool = Pool::new(Connector::new(&settings(server), Timeouts::default()).unwrap(), PoolConfig::default());
    let root = file.parent().unwrap().to_str().unwrap().to_owned();
    let (view, progress) = (Passing { file, reads: AtomicUsize::new(0) }, Progress::default());
    let audit = Audit {
        view: &view,
        pool: &pool,
        destination: server.url(),
        root,
        depth: Depth::Size,
        attempts: 1,
        progress: &progress,
    };
    let findings = audit.run().await.unwrap();
    pool.close().await;
    findings
}

#[tokio::test]
async fn what_goes_away_while_an_audit_looks_is_no_difference() {
    let server = OpenSsh::plain();
    for name in [".a.csv.0123456789ab-7.part", "b.csv"] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(name), "passing").unwrap();
        assert_eq!(audit(&server, dir.path().join(name)).await.differences(), 0, "{name}");
        fs::write(dir.path().join(name), "passing").unwrap();
        fs::write(dir.path().join("stays.csv"), "stays").unwrap();
        let findings = audit(&server, dir.path().join(name)).await;
        assert_eq!(findings.named.iter().map(|finding| finding.what.label()).collect::<Vec<_>>(), ["extra"]);
    }
}
