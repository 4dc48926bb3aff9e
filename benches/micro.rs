//! What finding, judging and recording files costs, in figures without noise: instructions, system calls and
//! allocations, counted by valgrind.
//!
//! Each benchmark does its work for [`FILES`] files, so that a figure shortened by three digits is what one file costs.
//! No network, and no time is measured. `scripts/bench-micro` runs it.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use archiver::domain::{Fingerprint, WriterState};
use archiver::ledger::{Ledger, SqliteLedger};
use archiver::readiness::{Decision, MarkerState, Observation, Rules, Waiting};
use archiver::selection::{Selection, Verdict};
use archiver::source::scan::{Found, scan};
use archiver::source::{BelowRoot, Candidate, Root};
use files::{Failed, archived, batches, below, claim, config, key};
use gungraun::{
    Callgrind, Dhat, DhatMetric, EntryPoint, EventKind, LibraryBenchmarkConfig, library_benchmark,
    library_benchmark_group, main,
};
use tempfile::TempDir;

#[path = "support/files.rs"]
mod files;

const FILES: u64 = 1_000;
const SETTLE: Duration = Duration::from_secs(2);

/// What the benchmarks find ready, made before they run and outside of valgrind, which would count it in.
fn prepared(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("micro").join(name)
}

/// Removes what was prepared, and what an earlier run that was stopped left.
fn clear(name: &str) {
    if let Err(error) = std::fs::remove_dir_all(prepared(name)) {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
    }
}

/// Ten directories of a hundred files each.
fn make_tree() {
    clear("tree");
    for directory in 0..10 {
        let directory = prepared("tree").join(format!("station-{directory:03}"));
        std::fs::create_dir_all(&directory).unwrap();
        for file in 0..FILES / 10 {
            std::fs::write(directory.join(format!("measurement-{file:07}.csv")), "").unwrap();
        }
    }
}

fn tree(selection: Selection) -> (Arc<Root>, Selection) {
    (Arc::new(Root::open(0, &prepared("tree")).unwrap()), selection)
}

fn defaults() -> Selection {
    Selection::new(&[], &[], None).unwrap()
}

/// Includes and excludes on names and on paths, and a marker.
fn rules() -> Selection {
    let globs = |globs: &[&str]| globs.iter().map(|&glob| glob.to_owned()).collect::<Vec<_>>();
    let marker = "{name}.done".parse().unwrap();
    Selection::new(&globs(&["*.csv", "*.json"]), &globs(&["old", "station-9*/**", "*.bak"]), Some(&marker)).unwrap()
}

#[library_benchmark]
#[bench::defaults(tree(defaults()))]
#[bench::rules(tree(rules()))]
fn scanned((root, selection): (Arc<Root>, Selection)) -> (Arc<Root>, Selection) {
    let mut found = 0;
    let walked = scan(&root, &selection, &mut |item| {
        found += u64::from(matches!(black_box(item), Found::Candidate(_)));
        ControlFlow::Continue(())
    });
    assert!(walked.is_continue() && found == FILES);
    (root, selection)
}

fn paths(selection: Selection) -> (Selection, Vec<PathBuf>) {
    (selection, (0..FILES).map(|number| below(number).into()).collect())
}

#[library_benchmark]
#[bench::defaults(paths(defaults()))]
#[bench::rules(paths(rules()))]
fn judged((selection, paths): (Selection, Vec<PathBuf>)) -> (Selection, Vec<PathBuf>) {
    assert!(paths.iter().all(|path| selection.judge(black_box(path)) == Verdict::Candidate));
    (selection, paths)
}

/// Candidates, which is what the pipeline has wait.
fn candidates(marker: MarkerState) -> (Vec<Candidate>, Observation) {
    let root = Arc::new(Root::open(0, &prepared("tree")).unwrap());
    let candidates =
        (0..FILES).map(|number| Candidate { root: root.clone(), path: BelowRoot::new(below(number)).unwrap() });
    let fingerprint = Fingerprint { inode: 1, size: 13_000, mtime_ns: 0 };
    (candidates.collect(), Observation { fingerprint, marker, writer: WriterState::None })
}

// Each file is seen, waits for the settle time, is due, and is ready.
#[library_benchmark]
#[bench::marked(candidates(MarkerState::Stands))]
fn settled((candidates, seen): (Vec<Candidate>, Observation)) -> Vec<Candidate> {
    let mut waiting = Waiting::new(10_000);
    let start = Instant::now();
    for candidate in &candidates {
        waiting.observe(candidate.clone(), &seen, Rules { settle: SETTLE }, start);
    }
    let mut ready = 0;
    while !waiting.is_empty() {
        for due in waiting.due(start + SETTLE, 256) {
            let decision = waiting.observe((*due).clone(), &seen, Rules { settle: SETTLE }, start + SETTLE);
            ready += u64::from(decision == Decision::Ready);
        }
    }
    assert_eq!(ready, FILES);
    candidates
}

fn on_ledger(path: &Path, work: impl AsyncFnOnce(&SqliteLedger) -> Result<(), Failed>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let ledger = SqliteLedger::open(config(path)).unwrap();
    runtime.block_on(work(&ledger)).unwrap();
}

async fn archive_all(ledger: &SqliteLedger) -> Result<(), Failed> {
    for batch in batches(FILES) {
        let claims = claim(ledger, batch).await?.into_iter();
        futures::future::try_join_all(claims.map(|(number, claim)| archived(ledger, number, claim))).await?;
    }
    Ok(())
}

fn make_known() {
    clear("known");
    on_ledger(&prepared("known").join("ledger.db"), archive_all);
}

// Claimed in batches, recorded side by side, each with its row.
#[library_benchmark]
#[bench::new(tempfile::tempdir().unwrap())]
fn recorded(place: TempDir) -> TempDir {
    on_ledger(&place.path().join("ledger.db"), archive_all);
    place
}

// The next night: all are on record.
#[library_benchmark]
#[bench::known(prepared("known"))]
fn looked_up(place: PathBuf) {
    on_ledger(&place.join("ledger.db"), async |ledger| {
        for batch in batches(FILES) {
            assert!(ledger.recorded(batch.map(key).collect()).await?.iter().all(Option::is_some));
        }
        Ok(())
    });
}

library_benchmark_group!(
    name = finding,
    setup = make_tree(),
    teardown = clear("tree"),
    benchmarks = [scanned, judged, settled]
);
library_benchmark_group!(
    name = recording,
    // The ledger's thread does the work, so all threads count, and with them the start of the process and the opening
    // of the ledger. Not its system calls: how many calls share a commit is a matter of timing (see benches/ledger.rs).
    config = figures(EntryPoint::None, &[EventKind::Ir]),
    setup = make_known(),
    teardown = clear("known"),
    benchmarks = [recorded, looked_up]
);

fn figures(entry_point: EntryPoint, events: &[EventKind]) -> LibraryBenchmarkConfig {
    LibraryBenchmarkConfig::default()
        .tool(
            Callgrind::with_args(["--collect-systime=yes", "--cache-sim=no"])
                .entry_point(entry_point.clone())
                .format(events.iter().copied()),
        )
        .tool(Dhat::default().entry_point(entry_point).format([DhatMetric::TotalBlocks, DhatMetric::TotalBytes]))
        .clone()
}

main!(
    config = figures(EntryPoint::Default, &[EventKind::Ir, EventKind::SysCount]),
    library_benchmark_groups = [finding, recording]
);
