//! Files that another archiver had when we last asked: it held them, or took them over in the middle of our work, for our
//! lease had run out. It may have archived and disposed of them since, where no look at the source would tell: so the ledger
//! is asked in the end, and their rows say it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::engine::Engine;
use super::read::Version;
use crate::domain::{FileKey, KeyId, Repeat, Row, Status};
use crate::ledger::{LedgerError, Record, RowOf};

/// So many are asked about; beyond it, rows stay as they are.
const ASKED: usize = 10_000;
/// Of these at a time.
const BATCH: usize = 500;

#[derive(Debug, Default)]
pub struct TakenOver(Mutex<HashMap<KeyId, File>>);

#[derive(Debug, Clone)]
struct File {
    key: FileKey,
    source: Arc<str>,
    path: PathBuf,
}

impl TakenOver {
    pub fn add(&self, engine: &Engine, key: &FileKey, version: &Version) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if files.len() < ASKED {
            let (source, path) = (&engine.sources[version.candidate.root.source].name, version.candidate.absolute());
            files.insert(key.id(), File { key: key.clone(), source: source.clone(), path });
        }
    }

    fn files(&self) -> Vec<File> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn forget(&self, key: &FileKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key.id());
    }
}

/// Writes rows anew of files that others have archived since. The others are asked about again by an engine that follows.
pub async fn settle(engine: &Engine) -> Result<(), LedgerError> {
    let taken_over = &engine.shared.taken_over;
    for files in taken_over.files().chunks(BATCH) {
        let keys: Vec<_> = files.iter().map(|file| file.key.clone()).collect();
        let records = engine.hold(|| engine.ledger.recorded(keys.clone())).await?;
        let archived = files.iter().zip(records).filter_map(|(file, record)| Some((file, record?)));
        // A repetition that was asked for is not what stood on record before.
        let is_new =
            |record: &Record| engine.settings.repeat == Repeat::Skip || record.recorded_at >= engine.started_at;
        let archived = archived.filter(|(_, record)| is_new(record)).inspect(|(file, _)| taken_over.forget(&file.key));
        engine.put_rows(archived.map(|(file, record)| row(file, record)).collect()).await?;
    }
    Ok(())
}

fn row(File { key, source, path }: &File, record: Record) -> RowOf {
    let row = Row {
        source: source.to_string(),
        path: path.clone(),
        remote: Some(record.remote.as_str().to_owned()),
        bytes: key.fingerprint.size,
        sha256: Some(record.sha256),
        status: Status::Skipped,
        reason: Some("archived by another archiver".to_owned()),
        attempts: 0,
        elapsed: Duration::ZERO,
    };
    RowOf::new(Some(key), row)
}
