//! From an application's write to "this file is finished": watch, selection, readiness and opening together.

use std::fs::File;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use archiver::config::settings::WatcherKind;
use archiver::localfs::{Thoroughness, writer_of};
use archiver::readiness::{Decision, MarkerState, Observation, Rules, Waiting};
use archiver::selection::{MarkedBy, MarkerPattern, Selection};
use archiver::source::scan::{Found, scan, scan_below};
use archiver::source::watch::{SourceEvent, Watch, WatchOptions, Watched};
use archiver::source::{Candidate, Root};

/// The least that a pipeline does: looks at what events and scans name until it is ready, and reads it then.
struct Consumer {
    watched: Watched,
    watch: Watch,
    waiting: Waiting<Candidate>,
    rules: Rules,
    finished: Vec<(String, String)>,
}

impl Consumer {
    fn new(dir: &Path, kind: WatcherKind, settle: Duration, marker: Option<&str>) -> Self {
        let marker: Option<MarkerPattern> = marker.map(|text| text.parse().unwrap());
        let selection = Arc::new(Selection::new(&[], &[], marker.as_ref()).unwrap());
        let watched = Watched { root: Arc::new(Root::open(0, dir).unwrap()), selection };
        let options = WatchOptions {
            poll_interval: Duration::from_millis(50),
            ..WatchOptions::new(kind, Duration::from_secs(300))
        };
        let watch = Watch::start(vec![watched.clone()], options, 7).unwrap();
        Self { watched, watch, waiting: Waiting::new(1000), rules: Rules { settle }, finished: Vec::new() }
    }

    fn look(&mut self, candidate: Candidate) {
        let root = &candidate.root;
        let Ok(mut opened) = root.dir.open_file(&candidate.path) else {
            self.waiting.forget(&candidate);
            return;
        };
        let marker = self.watched.selection.marker().map(|pattern| pattern.marker_of(candidate.path.as_path()));
        let seen = Observation {
            fingerprint: opened.fingerprint,
            marker: match marker {
                None => MarkerState::NotAsked,
                Some(marker) if root.dir.exists(&marker) => MarkerState::Stands,
                Some(marker) => MarkerState::Missing(marker.display().to_string()),
            },
            writer: writer_of(&opened.file, Thoroughness::LeaseThenProc),
        };
        let name = candidate.path.as_path().display().to_string();
        if self.waiting.observe(candidate, &seen, self.rules, Instant::now()) == Decision::Ready {
            let mut text = String::new();
            opened.file.read_to_string(&mut text).unwrap();
            self.finished.push((name, text));
        }
    }

    fn take(&mut self, event: SourceEvent) {
        let mut found = Vec::new();
        let mut visit = |seen| {
            if let Found::Candidate(candidate) = seen {
                found.push(candidate);
            }
            ControlFlow::Continue(())
        };
        let selection = &self.watched.selection;
        let _ = match &event {
            SourceEvent::Rescan { root, .. } => scan(root, selection, &mut visit),
            SourceEvent::NewDirectory { root, path } => scan_below(root, path, selection, &mut visit),
            _ => ControlFlow::Continue(()),
        };
        match event {
            SourceEvent::Changed(candidate) | SourceEvent::Closed(candidate) => found.push(candidate),
            SourceEvent::Marker { root, path } => {
                if let Some(MarkedBy::File(data)) = selection.marker().and_then(|one| one.data_of(path.as_path())) {
                    found.extend(archiver::source::BelowRoot::new(data).map(|path| Candidate { root, path }));
                }
            }
            _ => {}
        }
        found.into_iter().for_each(|candidate| self.look(candidate));
    }

    /// Until so many files have been called finished.
    async fn until(&mut self, count: usize) {
        let end = tokio::time::Instant::now() + Duration::from_secs(30);
        while self.finished.len() < count {
            let due = self.waiting.next_due().map_or(end, |due| end.min(due.into()));
            tokio::select! {
                event = self.watch.recv() => self.take(event.expect("the watch goes on")),
                () = tokio::time::sleep_until(due) => {
                    assert!(due < end, "still waiting for {:?}", self.waiting);
                    for candidate in self.waiting.due(Instant::now(), 100) {
                        self.look((*candidate).clone());
                    }
                }
            }
        }
    }
}

/// A writer that takes its time, with pauses around the settle time: the file is finished once, and whole.
async fn slow_writer(kind: WatcherKind, settle: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let mut consumer = Consumer::new(dir.path(), kind, settle, None);
    let path = dir.path().join("sub/report.csv");
    let writer = std::thread::spawn(move || {
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let mut file = File::create(&path).unwrap();
        for line in 0..20 {
            writeln!(file, "line {line}").unwrap();
            // The writer's own pace is what is tested.
            #[expect(clippy::disallowed_methods, reason = "a writer that takes its time")]
            std::thread::sleep(Duration::from_millis(30));
        }
    });
    consumer.until(1).await;
    writer.join().unwrap();
    let whole: String = (0..20).map(|line| format!("line {line}\n")).collect();
    assert_eq!(consumer.finished, [("sub/report.csv".to_owned(), whole)]);
    assert!(consumer.waiting.is_empty());
}

#[tokio::test]
async fn a_slow_writers_file_is_whole_when_it_is_called_finished() {
    slow_writer(WatcherKind::Auto, Duration::from_millis(200)).await;
}

#[tokio::test]
async fn so_it_is_when_polled() {
    slow_writer(WatcherKind::Poll, Duration::from_millis(200)).await;
}

#[tokio::test]
async fn a_marker_that_comes_last_finishes_its_file_and_only_that() {
    let dir = tempfile::tempdir().unwrap();
    let mut consumer = Consumer::new(dir.path(), WatcherKind::Auto, Duration::from_millis(50), Some("{name}.done"));
    for name in ["a.csv", "b.csv"] {
        std::fs::write(dir.path().join(name), name).unwrap();
    }
    std::fs::write(dir.path().join("b.csv.done"), "").unwrap();
    consumer.until(1).await;
    assert_eq!(consumer.finished, [("b.csv".to_owned(), "b.csv".to_owned())]);
    std::fs::write(dir.path().join("a.csv.done"), "").unwrap();
    consumer.until(2).await;
    assert_eq!(consumer.finished[1].0, "a.csv");
}
