//! Progress on standard error: one line for the run, and one for each of a few large files in flight.
//!
//! A thread of its own looks at the [`Reporter`]'s counters ten times a second; the pipeline never waits for a terminal.

use std::collections::VecDeque;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::claimed::LargeTransfer;
use super::console::{Colour, Console, Drawing};
use super::events::{Phase, Reporter, Snapshot};
use super::human;

/// Between two looks at the counters while bars are drawn.
const FRAME: Duration = Duration::from_millis(100);
/// Between two plain lines, where progress is wanted and bars are impossible.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// Large files shown at once.
const LARGE_LINES: usize = 4;
/// What rates are taken over.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// The drawing thread. It ends, and takes its bars away, when this is dropped.
#[derive(Debug)]
pub struct Progress(Option<(mpsc::Sender<()>, JoinHandle<()>)>);

impl Progress {
    /// Begins to draw, where the console has something drawn at all.
    pub fn start(console: &Console, reporter: Reporter) -> Self {
        let console = console.clone();
        let interval = match console.drawing {
            Drawing::Nothing => return Self(None),
            Drawing::Bars => FRAME,
            Drawing::Lines => LINE_INTERVAL,
        };
        let (stop, stopped) = mpsc::channel();
        let draw = move || {
            let mut display = Display::new(&console);
            let mut rates = Rates::default();
            loop {
                let snapshot = reporter.snapshot();
                let now = Instant::now();
                rates.observe(now, &snapshot);
                display.show(&console, &snapshot, &rates);
                // Nobody ever sends: the channel closes when the run is over.
                if stopped.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                    break display.end(&console, &reporter.snapshot(), &rates);
                }
            }
        };
        // A run without progress is better than no run, should the system refuse a thread.
        Self(std::thread::Builder::new().name("progress".into()).spawn(draw).ok().map(|thread| (stop, thread)))
    }

    /// Takes the bars away, so that the summary begins on a clean line.
    pub fn finish(self) {}
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            if thread.join().is_err() {
                tracing::error!("the progress display crashed");
            }
        }
    }
}

enum Display {
    Bars { overall: ProgressBar, large: Vec<ProgressBar>, large_style: ProgressStyle },
    Lines { shown: Option<String> },
}

impl Display {
    fn new(console: &Console) -> Self {
        if console.drawing == Drawing::Lines {
            return Self::Lines { shown: None };
        }
        let coloured = console.colour == Colour::Ansi;
        let style = |with: &str, without: &str| {
            let template = if coloured { with } else { without };
            // The templates are constants, and each is drawn by a test.
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━╸─")
        };
        let overall = console.bars.add(ProgressBar::new(0));
        overall
            .set_style(style("{spinner:.cyan} {bar:20.cyan/black.bright} {wide_msg}", "{spinner} {bar:20} {wide_msg}"));
        let large_style =
            style("  {bar:20.blue/black.bright} {percent:>3}% {wide_msg}", "  {bar:20} {percent:>3}% {wide_msg}");
        Self::Bars { overall, large: Vec::new(), large_style }
    }

    fn show(&mut self, console: &Console, snapshot: &Snapshot, rates: &Rates) {
        match self {
            Self::Bars { overall, large, large_style } => {
                overall.set_length(known(snapshot));
                overall.set_position(snapshot.totals.files());
                // 1 + 1 + 20 + 1 columns stand to the left.
                overall.set_message(overall_text(snapshot, rates, columns().saturating_sub(23)));
                overall.tick();
                let wanted = snapshot.large.len().min(LARGE_LINES);
                for bar in large.drain(wanted.min(large.len())..) {
                    console.bars.remove(&bar);
                }
                while large.len() < wanted {
                    let bar = console.bars.add(ProgressBar::new(0));
                    bar.set_style(large_style.clone());
                    large.push(bar);
                }
                for (bar, transfer) in large.iter().zip(&snapshot.large) {
                    bar.set_length(transfer.size);
                    bar.set_position(transfer.sent.min(transfer.size));
                    // 2 + 20 + 1 + 4 + 1 columns stand to the left.
                    bar.set_message(large_text(transfer, columns().saturating_sub(29)));
                    bar.tick();
                }
            }
            Self::Lines { shown } => {
                let text = overall_text(snapshot, rates, usize::MAX);
                if snapshot.discovered > 0 && shown.as_ref() != Some(&text) {
                    console.line(&format!("progress: {text}"));
                    *shown = Some(text);
                }
            }
        }
    }

    fn end(mut self, console: &Console, snapshot: &Snapshot, rates: &Rates) {
        match &self {
            // Bars in the middle of a frame would come back with a later one; removed, they cannot.
            Self::Bars { overall, large, .. } => {
                large.iter().chain([overall]).for_each(|bar| console.bars.remove(bar));
                // A terminal that went away needs no cleaning.
                let _ = console.bars.clear();
            }
            Self::Lines { .. } => self.show(console, snapshot, rates),
        }
    }
}

fn columns() -> usize {
    rustix::termios::tcgetwinsize(std::io::stderr())
        .ok()
        .map(|size| size.ws_col.into())
        .filter(|c| *c > 0)
        .unwrap_or(80)
}

/// Files that are known: seen, at work, waiting or done.
fn known(snapshot: &Snapshot) -> u64 {
    snapshot.discovered.max(snapshot.totals.files() + snapshot.in_flight + snapshot.waiting)
}

/// How far a run is, in one line.
pub fn interim(snapshot: &Snapshot) -> String {
    overall_text(snapshot, &Rates::default(), usize::MAX)
}

/// `123/500 files · 1.2 GiB · 35.0 MiB/s · ETA 12 s · 1 failed · 2 waiting · 64 in flight`, as far as each applies: what
/// matters more comes first, and what does not fit into `columns` is left out from the end.
fn overall_text(snapshot: &Snapshot, rates: &Rates, columns: usize) -> String {
    let done = snapshot.totals.files();
    let known = match snapshot.phase {
        Phase::Scanning => format!("{}+", human::count(snapshot.discovered)),
        _ => human::count(known(snapshot)),
    };
    let mut text = format!("{}/{known} files", human::count(done));
    if let Some(outage) = snapshot.outages.values().next() {
        // It may be cut: its beginning says enough.
        text.push_str(&format!(" · destination down: {}", crate::domain::display::escaped(&outage.reason)));
    }
    let mut parts = vec![human::bytes(snapshot.sent_bytes)];
    parts.extend(rates.bytes_per_second().map(|rate| format!("{}/s", human::bytes(rate as u64))));
    match snapshot.phase {
        Phase::Scanning => parts.push("scanning".into()),
        Phase::Uploading => parts.extend(rates.remaining(snapshot).map(|eta| format!("ETA {}", human::estimate(eta)))),
        Phase::Watching => parts.push("watching".into()),
        Phase::Draining => parts.push("draining".into()),
    }
    for (count, what) in
        [(snapshot.totals.failed, "failed"), (snapshot.waiting, "waiting"), (snapshot.in_flight, "in flight")]
    {
        if count > 0 {
            parts.push(format!("{} {what}", human::count(count)));
        }
    }
    for part in parts {
        if human::width(&text) + 3 + human::width(&part) > columns {
            break;
        }
        text.push_str(&format!(" · {part}"));
    }
    text
}

/// `1.2/3.0 GiB  /var/…/big.bin`.
fn large_text(transfer: &LargeTransfer, columns: usize) -> String {
    let sizes = format!("{} of {}  ", human::bytes(transfer.sent), human::bytes(transfer.size));
    let name = human::shortened(&transfer.name, columns.saturating_sub(human::width(&sizes)).max(8));
    format!("{sizes}{name}")
}

/// Rates over the last few seconds.
#[derive(Debug, Default)]
struct Rates(VecDeque<(Instant, u64, u64)>);

impl Rates {
    fn observe(&mut self, now: Instant, snapshot: &Snapshot) {
        self.0.push_back((now, snapshot.sent_bytes, snapshot.totals.files()));
        while self.0.len() > 2 && now.duration_since(self.0[0].0) > RATE_WINDOW {
            self.0.pop_front();
        }
    }

    /// Of bytes and of files, a second; `None` before there is a second observation.
    fn per_second(&self) -> Option<(f64, f64)> {
        let ((then, bytes_then, files_then), (now, bytes, files)) = (self.0.front()?, self.0.back()?);
        let seconds = now.duration_since(*then).as_secs_f64();
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        (seconds > 0.0).then(|| (rate(*bytes_then, *bytes), rate(*files_then, *files)))
    }

    fn bytes_per_second(&self) -> Option<f64> {
        self.per_second().map(|(bytes, _)| bytes)
    }

    /// How long the known files will take: as long as their number at the present rate, and no less than the large
    /// ones under way.
    fn remaining(&self, snapshot: &Snapshot) -> Option<Duration> {
        let (bytes_rate, files_rate) = self.per_second()?;
        let files = snapshot.discovered.saturating_sub(snapshot.totals.files()) as f64;
        let bytes = snapshot.large.iter().map(|large| large.size.saturating_sub(large.sent)).sum::<u64>() as f64;
        let quotient = |amount: f64, rate: f64| if amount > 0.0 { amount / rate } else { 0.0 };
        let small_files = files - snapshot.large.len() as f64;
        let seconds = quotient(small_files, files_rate).max(quotient(bytes, bytes_rate));
        // Not for a standstill, nor for so long that it is a guess.
        (files > 0.0 && seconds < 1e6).then(|| Duration::from_secs_f64(seconds.max(1.0)))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;
    use crate::domain::{Recount, Row, Status};
    use crate::report::{Claimed, Transfer};

    /// A terminal that keeps what is written to it, and tells whether the cursor stands on an empty line.
    #[derive(Debug, Clone, Default)]
    struct Tape(Arc<Mutex<Vec<u8>>>);

    impl Tape {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }

        fn put(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().extend(text.as_bytes());
            Ok(())
        }
    }

    impl TermLike for Tape {
        fn width(&self) -> u16 {
            100
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.put(text)?;
            self.put("\n")
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.put(text)
        }
        fn clear_line(&self) -> io::Result<()> {
            self.put("<clear>")
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    impl io::Write for Tape {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn console(drawing: Drawing, colour: Colour) -> (Console, Tape) {
        let tape = Tape::default();
        let target = match drawing {
            Drawing::Bars => ProgressDrawTarget::term_like(Box::new(tape.clone())),
            _ => ProgressDrawTarget::hidden(),
        };
        (Console::new(drawing, colour, target, Arc::new(Mutex::new(tape.clone()))), tape)
    }

    fn row(status: Status, bytes: u64) -> Row {
        let (source, path, remote, sha256, reason) = Default::default();
        Row { source, path, remote, bytes, sha256, status, reason, attempts: 1, elapsed: Duration::ZERO }
    }

    fn busy() -> (Reporter, Vec<(Transfer, Claimed)>) {
        let reporter = Reporter::default();
        reporter.discovered(1500);
        for row in [row(Status::Archived, 2048), row(Status::Failed, 1)] {
            reporter.finished(&row, &Recount::first(&row), chrono::DateTime::UNIX_EPOCH);
        }
        let transfers = (0..6).map(|n| {
            let path = format!("/var/big\x1b{n}.bin");
            let claimed = reporter.claimed(&"".into(), Path::new(&path), 10 << 20, Instant::now());
            (claimed.started(), claimed)
        });
        let transfers = transfers.collect();
        (reporter, transfers)
    }

    fn rates(observations: &[(u64, u64, u64)]) -> Rates {
        let start = Instant::now();
        Rates(observations.iter().map(|(s, bytes, files)| (start + Duration::from_secs(*s), *bytes, *files)).collect())
    }

    #[test]
    fn the_line_says_what_applies() {
        let (reporter, transfers) = busy();
        transfers[0].0.sent(4 << 20);
        let rates = rates(&[(0, 0, 0), (2, 4 << 20, 2)]);
        let text = |columns| overall_text(&reporter.snapshot(), &rates, columns);
        assert_eq!(text(80), "2/1,500+ files · 4.0 MiB · 2.0 MiB/s · scanning · 1 failed · 6 in flight");
        assert_eq!(text(60), "2/1,500+ files · 4.0 MiB · 2.0 MiB/s · scanning · 1 failed");
        assert_eq!(text(0), "2/1,500+ files");
        drop(transfers);
        reporter.phase(Phase::Uploading);
        reporter.destination_down("sftp://h/", "connection\nrefused");
        let expected =
            "2/1,500 files · destination down: connection\\nrefused · 4.0 MiB · 2.0 MiB/s · ETA 24m 58s · 1 failed";
        assert_eq!(text(usize::MAX), expected);
    }

    #[test]
    fn no_guess_at_the_end_of_a_standstill() {
        let (reporter, transfers) = busy();
        assert_eq!(rates(&[(0, 5, 2), (4, 5, 2)]).remaining(&reporter.snapshot()), None);
        assert_eq!(rates(&[(0, 5, 2)]).remaining(&reporter.snapshot()), None);
        drop(transfers);
        let idle = Reporter::default();
        assert_eq!(rates(&[(0, 0, 0), (1, 9, 9)]).remaining(&idle.snapshot()), None);
    }

    #[test]
    fn rates_forget_what_is_long_ago() {
        let mut rates = Rates::default();
        let start = Instant::now();
        for second in 0..60 {
            let snapshot = Snapshot { sent_bytes: second * second, ..Snapshot::default() };
            rates.observe(start + Duration::from_secs(second), &snapshot);
        }
        assert_eq!(rates.bytes_per_second(), Some(f64::from(59 * 59 - 54 * 54) / 5.0));
        assert!(rates.0.len() < 10);
    }

    #[test]
    fn large_files_have_lines_and_escaped_names() {
        let (console, tape) = console(Drawing::Bars, Colour::Plain);
        let (reporter, mut transfers) = busy();
        transfers[0].0.sent(5 << 20);
        let mut display = Display::new(&console);
        display.show(&console, &reporter.snapshot(), &Rates::default());
        let text = tape.text();
        assert!(text.contains(" 50% 5.0 MiB of 10.0 MiB  /var/big\\x1b0.bin"), "{text}");
        assert!(text.contains("big\\x1b3.bin") && !text.contains("big\\x1b4.bin"), "{text}");
        transfers.clear();
        display.show(&console, &reporter.snapshot(), &Rates::default());
        let Display::Bars { large, .. } = &display else { panic!("bars were asked for") };
        assert!(large.is_empty());
        assert!(!tape.text().contains("\x1b["), "a plain console gets no colours");
    }

    #[test]
    fn a_log_line_stands_on_a_line_of_its_own() {
        let (console, tape) = console(Drawing::Bars, Colour::Plain);
        let (reporter, _transfers) = busy();
        let progress = Progress::start(&console, reporter);
        for number in 0..50 {
            console.line(&format!("log line {number}"));
        }
        progress.finish();
        let text = tape.text();
        for number in 0..50 {
            let line = format!("log line {number}\n");
            let at = text.find(&line).unwrap();
            assert!(at == 0 || text[..at].ends_with('\n') || text[..at].ends_with("<clear>"), "{text}");
        }
        assert!(text.ends_with("<clear>") || text.ends_with('\n'), "the bars are gone at the end: {text:?}");
    }

    #[test]
    fn without_a_terminal_progress_is_plain_lines() {
        let (console, tape) = console(Drawing::Lines, Colour::Plain);
        let (reporter, transfers) = busy();
        let progress = Progress::start(&console, reporter.clone());
        drop(transfers);
        reporter.phase(Phase::Draining);
        progress.finish();
        let text = tape.text();
        assert!(text.lines().all(|line| line.starts_with("progress: 2/1,500")), "{text}");
        assert!(text.lines().last().is_some_and(|line| line.contains(" · draining")), "{text}");
    }

    #[test]
    fn nothing_is_drawn_unless_wanted() {
        let (console, tape) = console(Drawing::Nothing, Colour::Plain);
        Progress::start(&console, busy().0).finish();
        assert_eq!(tape.text(), "");
    }
}
