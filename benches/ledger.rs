//! The ledger alone, at growing numbers of files: entries a second, synchronisations, bytes written, peak memory.
//!
//! Each file costs what it costs in a run: its part of a claim of 256, a record by itself, a row; many callers at a
//! time, as there are many uploads in flight. Synchronisations and bytes are counts and do not depend on the machine's
//! speed; the times are for seeing whether a million files go at the pace of a thousand.
//!
//! `cargo bench --bench ledger -- [--in DIR] [NUMBER...]`; `scripts/bench-micro --ledger` says more.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use archiver::ledger::{Ledger, SqliteLedger};
use files::{Failed, archived, batches, claim, config, key};
use tokio::task::JoinSet;

#[path = "support/files.rs"]
mod files;

/// Files that are recorded at the same time.
const CALLERS: usize = 300;

static SYNCS: AtomicU64 = AtomicU64::new(0);

/// Stands in for the C library's, which SQLite calls, and counts.
#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: i32) -> i32 {
    SYNCS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: SQLite, the one caller, has the file open.
    match rustix::fs::fdatasync(unsafe { BorrowedFd::borrow_raw(fd) }) {
        Ok(()) => 0,
        Err(_) => -1,
    }
}

/// As above; SQLite synchronises directories with it.
#[unsafe(no_mangle)]
extern "C" fn fsync(fd: i32) -> i32 {
    fdatasync(fd)
}

fn main() -> Result<(), Failed> {
    let mut directory = std::env::temp_dir();
    let mut numbers = Vec::new();
    let mut alone = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // What cargo adds.
            "--bench" => {}
            "--in" => directory = arguments.next().ok_or("--in needs a directory")?.into(),
            "--alone" => alone = true,
            number => numbers.push(number.parse::<u64>().map_err(|_| format!("`{number}` is no number of files"))?),
        }
    }
    if numbers.is_empty() {
        numbers = vec![1_000, 10_000, 100_000, 1_000_000];
    }
    if !alone {
        println!(
            "{:>9}  {:>10}  {:>10}  {:>10}  {:>10}  {:>9}  {:>9}  {:>9}  {:>9}",
            "files", "archived/s", "last 10 %", "again/s", "syncs/1000", "written", "database", "rows", "peak"
        );
    }
    for number in numbers {
        if alone {
            tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure(&directory, number))?;
        } else {
            // A process each, for its own peak of memory.
            let number = number.to_string();
            let ended = Command::new(std::env::current_exe()?)
                .args(["--alone", "--in"])
                .arg(&directory)
                .arg(number)
                .status()?;
            if !ended.success() {
                return Err(format!("the measurement ended with {ended}").into());
            }
        }
    }
    Ok(())
}

async fn measure(directory: &Path, number: u64) -> Result<(), Failed> {
    let place = tempfile::tempdir_in(directory)?;
    let (written_before, syncs_before) = (bytes_written()?, SYNCS.load(Ordering::Relaxed));
    let path = place.path().join("ledger.db");
    let first = Arc::new(SqliteLedger::open(config(&path))?);
    let start = Instant::now();
    let mut at_nine_tenths = start;
    let mut files = JoinSet::new();
    let mut done = 0;
    for batch in batches(number) {
        for (file, claim) in claim(&first, batch).await? {
            if files.len() == CALLERS
                && let Some(file) = files.join_next().await
            {
                file??;
                done += 1;
                if done == number.saturating_sub(number / 10 + CALLERS as u64) {
                    at_nine_tenths = Instant::now();
                }
            }
            let ledger = first.clone();
            files.spawn(async move { archived(&ledger, file, claim).await });
        }
    }
    while let Some(file) = files.join_next().await {
        file??;
    }
    let (taken, last_tenth) = (start.elapsed(), at_nine_tenths.elapsed());
    let syncs = SYNCS.load(Ordering::Relaxed) - syncs_before;
    let written = bytes_written()? - written_before;
    let rows = size(&place.path().join(format!("ledger.db.owners/{}.rows", first.owner())));
    first.finish().await?;
    drop(first);

    // The next night: everything is there and on record.
    let next = SqliteLedger::open(config(&path))?;
    let start = Instant::now();
    for batch in batches(number) {
        // Not in the order of the first run; 7919 is a prime.
        let keys = batch.map(|file| key(file * 7919 % number)).collect();
        if next.recorded(keys).await?.iter().any(Option::is_none) {
            return Err("a record is missing".into());
        }
    }
    let again = start.elapsed();
    next.finish().await?;
    drop(next);

    let mib = |bytes: u64| format!("{:.1} M", bytes as f64 / f64::from(1 << 20));
    println!(
        "{number:>9}  {:>10.0}  {:>10.0}  {:>10.0}  {:>10.1}  {:>9}  {:>9}  {:>9}  {:>9}",
        per_second(number, taken),
        per_second(number / 10 + CALLERS as u64, last_tenth),
        per_second(number, again),
        syncs as f64 * 1000.0 / number as f64,
        mib(written),
        mib(size(&path)),
        mib(rows),
        mib(peak_memory()?),
    );
    Ok(())
}

fn per_second(files: u64, time: Duration) -> f64 {
    files as f64 / time.as_secs_f64()
}

fn size(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

/// By write calls of this process so far.
fn bytes_written() -> Result<u64, Failed> {
    figure("/proc/self/io", "wchar:")
}

fn peak_memory() -> Result<u64, Failed> {
    Ok(figure("/proc/self/status", "VmHWM:")? << 10)
}

fn figure(file: &str, name: &str) -> Result<u64, Failed> {
    let text = std::fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(|| format!("no {name} in {file}"))?;
    Ok(line.split_whitespace().next().unwrap_or_default().parse()?)
}
