//! Files that never stood anywhere, as the ledger sees them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use archiver::domain::{FileKey, Fingerprint, OwnerId, RemotePath, Repeat, Row, Sha256Digest, Status};
use archiver::ledger::sqlite::DEFAULT_LEASE;
use archiver::ledger::{Claim, ClaimReply, ClaimRequest, Intention, Ledger, Record, RowOf, SqliteConfig, SqliteLedger};
use chrono::{DateTime, Utc};

/// Files of one claim, as in a run.
pub const BATCH: u64 = 256;

pub type Failed = Box<dyn std::error::Error + Send + Sync>;

pub fn config(path: &Path) -> SqliteConfig {
    SqliteConfig {
        path: path.to_owned(),
        retention: Duration::from_secs(400 * 24 * 3600),
        lease: DEFAULT_LEASE,
        owner: OwnerId(rand::random()),
        clock: Arc::new(|| DateTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000)),
    }
}

/// The path below the source: a thousand files a directory.
pub fn below(number: u64) -> String {
    format!("station-{:03}/2026-11/measurement-{number:07}.csv", number / 1000)
}

pub fn key(number: u64) -> FileKey {
    FileKey {
        destination: "sftp://pine@archive.example/upload".into(),
        source: "reports".into(),
        path: below(number).into_bytes(),
        fingerprint: Fingerprint { inode: 1_000_000 + number, size: 13_000, mtime_ns: 1_795_000_000_000_000_000 },
    }
}

/// The numbers of the files of each claim.
pub fn batches(files: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
    (0..files.div_ceil(BATCH)).map(move |batch| batch * BATCH..files.min((batch + 1) * BATCH))
}

/// Claims files that nobody claimed before.
pub async fn claim(ledger: &SqliteLedger, files: std::ops::Range<u64>) -> Result<Vec<(u64, Claim)>, Failed> {
    let requests = files.clone().map(|number| ClaimRequest {
        key: key(number),
        local_path: local_path(number),
        remote: RemotePath::new(format!("/upload/2026/11/21/{}", below(number))),
        repeat: Repeat::Skip,
    });
    let replies = ledger.claim(requests.collect()).await?;
    let claims = files.zip(replies).map(|(number, reply)| match reply {
        ClaimReply::Claimed(claim) => Ok((number, claim)),
        other => Err(format!("not claimed: {other:?}").into()),
    });
    claims.collect()
}

/// What a worker tells the ledger of an archived file: the record, then the row.
pub async fn archived(ledger: &SqliteLedger, number: u64, claim: Claim) -> Result<(), Failed> {
    let sha256 = Sha256Digest([number as u8; 32]);
    ledger
        .record(&claim, Record { remote: claim.remote.clone(), sha256, recorded_at: Utc::now() }, Intention::LeaveAlone)
        .await?;
    let row = Row {
        source: "reports".into(),
        path: local_path(number),
        remote: Some(claim.remote.as_str().to_owned()),
        bytes: 13_000,
        sha256: Some(sha256),
        status: Status::Archived,
        reason: None,
        attempts: 1,
        elapsed: Duration::from_millis(20),
    };
    ledger.put_rows(vec![RowOf::new(Some(&claim.key), row)]).await?;
    Ok(())
}

fn local_path(number: u64) -> PathBuf {
    Path::new("/var/pine/reports").join(below(number))
}
