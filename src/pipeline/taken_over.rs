//! Files that another archiver took over in the middle of our work, for our lease had run out. It may have archived and
//! disposed of them since, where no look at the source would tell: so the ledger is asked in the end, and their rows say it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::engine::{Engine, Job};
use crate::domain::{FileKey, Row, Status};
use crate::ledger::{LedgerError, RowOf};

/// So many are asked about; beyond it, rows stay as they were when the lease was lost.
const ASKED: usize = 10_000;

#[derive(Debug, Default)]
pub struct TakenOver(Mutex<Vec<File>>);

#[derive(Debug)]
struct File {
    key: FileKey,
    source: Arc<str>,
    path: PathBuf,
}

impl TakenOver {
    pub fn add(&self, key: &FileKey, source: &Arc<str>, job: &Job) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if files.len() < ASKED {
            files.push(File { key: key.clone(), source: source.clone(), path: job.version.candidate.absolute() });
        }
    }

    fn take(&self) -> Vec<File> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes rows anew of files that others have archived since.
pub async fn settle(engine: &Engine) -> Result<(), LedgerError> {
    let files = engine.taken_over.take();
    if files.is_empty() {
        return Ok(());
    }
    let keys: Vec<_> = files.iter().map(|file| file.key.clone()).collect();
    let records = engine.hold(|| engine.ledger.recorded(keys.clone())).await?;
    let rows = files.into_iter().zip(records).filter_map(|(File { key, source, path }, record)| {
        let record = record?;
        let row = Row {
            source: source.to_string(),
            path,
            remote: Some(record.remote.as_str().to_owned()),
            bytes: key.fingerprint.size,
            sha256: Some(record.sha256),
            status: Status::Skipped,
            reason: Some("archived by another archiver".to_owned()),
            attempts: 0,
            elapsed: Duration::ZERO,
        };
        Some(RowOf::new(Some(&key), row))
    });
    engine.put_rows(rows.collect()).await
}
