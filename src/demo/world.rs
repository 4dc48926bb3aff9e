//! The demo's world: the files of an imaginary application, some finished and some not yet, and what happens to them
//! while the archiver watches.
//!
//! ```text
//! reports/    finished when nobody writes any more
//! exports/    finished when `NAME.done` stands beside
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{Days, NaiveDate};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::content;

/// The files and those who work on them. Paths are relative to the directory that [`World::create`] was given.
pub struct World {
    root: PathBuf,
    ready: Vec<PathBuf>,
    late: PathBuf,
    late_content: String,
    /// Held open for writing from the very start, so that no scan can come before the writer.
    slow: File,
    slow_rest: Vec<String>,
}

/// What the actor did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The file that was open for writing all the time is complete and closed.
    WriterFinished,
    /// The marker of the export that waited for it stands.
    MarkerArrived,
    /// A report that was not there at the start was moved into place.
    LateReportArrived,
}

/// When the steps happen, counted from the call of [`World::act`].
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    pub writer_finishes: Duration,
    pub marker_arrives: Duration,
    pub late_report_arrives: Duration,
}

impl Default for Timing {
    /// Long enough to see each of them on a progress bar, short enough for nobody to wait.
    fn default() -> Self {
        Self {
            marker_arrives: Duration::from_millis(800),
            late_report_arrives: Duration::from_millis(1400),
            writer_finishes: Duration::from_millis(2000),
        }
    }
}

const REPORTS: &str = "reports";
const EXPORTS: &str = "exports";
const SLOW: &str = "reports/logs/shipping.log";
const WAITING: &str = "exports/stock.csv";
/// Pieces in which the slow writer writes.
const PIECES: usize = 20;

impl World {
    /// The marker pattern of [`World::exports`].
    pub const MARKER: &'static str = "{name}.done";

    /// Makes the tree in `root`, which must exist and be empty. The bytes depend on nothing but `today`.
    pub fn create(root: &Path, today: NaiveDate) -> io::Result<Self> {
        let random = &mut StdRng::seed_from_u64(0x0061_7263_6869_7665);
        let yesterday = today.checked_sub_days(Days::new(1)).unwrap_or(today);
        let mut ready = Vec::new();
        let mut make = |path: String, content: &[u8]| {
            write(root, path.as_ref(), content)?;
            ready.push(path.into());
            io::Result::Ok(())
        };

        for (region, rows) in [("emea", 2400), ("amer", 1500), ("apac", 90)] {
            let orders = content::orders(random, region, yesterday, rows);
            make(format!("reports/daily/{yesterday}/orders-{region}.csv"), orders.as_bytes())?;
        }
        make(format!("reports/daily/{yesterday}/returns.csv"), b"")?;
        for (hall, rows) in [("a", 60_000), ("b", 8640)] {
            let readings = content::readings(random, yesterday, rows);
            make(format!("reports/sensors/hall-{hall}.csv"), readings.as_bytes())?;
        }
        for number in 10_041..10_047 {
            let invoice = content::invoice(random, number, yesterday);
            make(format!("reports/invoices/invoice-{number}.json"), invoice.as_bytes())?;
        }
        make(
            "reports/invoices/Pöytä & Söhne – final (2).json".into(),
            content::invoice(random, 9_999, today).as_bytes(),
        )?;
        let billing = content::log(random, "billing", yesterday, 4000);
        make("reports/logs/billing.log.1.gz".into(), &content::gzip(billing.as_bytes()))?;
        make("reports/logs/billing.log".into(), content::log(random, "billing", today, 700).as_bytes())?;
        make("exports/ledger.csv".into(), content::orders(random, "all", yesterday, 900).as_bytes())?;

        write(root, "exports/ledger.csv.done".as_ref(), b"")?;
        write(root, WAITING.as_ref(), content::orders(random, "stock", today, 600).as_bytes())?;
        for path in Self::left_alone() {
            write(root, &path, b"in flight, or nobody's business\n")?;
        }
        let slow_rest: Vec<String> = (0..PIECES).map(|_| content::log(random, "shipping", today, 120)).collect();
        write(root, SLOW.as_ref(), b"")?;
        let mut slow = File::options().append(true).open(root.join(SLOW))?;
        slow.write_all(content::log(random, "shipping", today, 120).as_bytes())?;
        let late = PathBuf::from(format!("reports/daily/{today}/orders-emea.csv"));
        let late_content = content::orders(random, "emea", today, 1200);
        Ok(Self { root: root.to_owned(), ready, late, late_content, slow, slow_rest })
    }

    /// The source whose files are finished when nobody writes any more.
    pub fn reports(&self) -> PathBuf {
        self.root.join(REPORTS)
    }

    /// The source whose files wait for [`World::MARKER`].
    pub fn exports(&self) -> PathBuf {
        self.root.join(EXPORTS)
    }

    /// Files that are finished from the start.
    pub fn ready(&self) -> &[PathBuf] {
        &self.ready
    }

    /// Files that are finished once [`World::act`] is over: the one being written, the one without its marker, the
    /// one that is not there yet.
    pub fn to_come(&self) -> [PathBuf; 3] {
        [SLOW.into(), WAITING.into(), self.late.clone()]
    }

    /// Files that nobody should ever archive: hidden or named as in flight.
    pub fn left_alone() -> [PathBuf; 2] {
        ["reports/.cache/index.json".into(), "reports/daily/upload.csv.part".into()]
    }

    /// Lets it all happen, and tells of each step when it is done. Ends after the last one. Dropped before, it leaves
    /// the slow file incomplete and closed.
    pub async fn act(self, timing: Timing, told: impl Fn(Step)) -> io::Result<()> {
        let Self { root, late, late_content, mut slow, slow_rest, .. } = self;
        // The pieces are small and the filesystem is local: no thread is worth its while.
        let writer = async {
            let pause = timing.writer_finishes / PIECES as u32;
            for piece in slow_rest {
                tokio::time::sleep(pause).await;
                slow.write_all(piece.as_bytes())?;
            }
            drop(slow);
            told(Step::WriterFinished);
            Ok(())
        };
        let marker = async {
            tokio::time::sleep(timing.marker_arrives).await;
            write(&root, format!("{WAITING}.done").as_ref(), b"")?;
            told(Step::MarkerArrived);
            Ok(())
        };
        let late_report = async {
            tokio::time::sleep(timing.late_report_arrives).await;
            // As a well-behaved application does it: under another name, then renamed.
            let partial = late.with_extension("csv.tmp");
            write(&root, &partial, late_content.as_bytes())?;
            std::fs::rename(root.join(partial), root.join(&late))?;
            told(Step::LateReportArrived);
            io::Result::Ok(())
        };
        futures::try_join!(writer, marker, late_report).map(|((), (), ())| ())
    }
}

fn write(root: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let path = root.join(path);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    const TODAY: NaiveDate = NaiveDate::from_ymd_opt(2026, 11, 21).unwrap();
    const AT_ONCE: Timing =
        Timing { writer_finishes: Duration::ZERO, marker_arrives: Duration::ZERO, late_report_arrives: Duration::ZERO };

    #[tokio::test]
    async fn what_is_to_come_comes_and_nothing_else_changes() {
        let root = tempfile::tempdir().unwrap();
        let world = World::create(root.path(), TODAY).unwrap();
        let (ready, [slow, waiting, late]) = (world.ready().to_vec(), world.to_come());
        assert!(ready.len() >= 15);
        let size = |path: &Path| std::fs::metadata(root.path().join(path)).map(|found| found.len()).ok();
        let before: Vec<_> = ready.iter().map(|path| size(path).unwrap()).collect();
        assert!(before.contains(&0) && before.iter().any(|bytes| *bytes > 1 << 20), "{before:?}");
        let begun = size(&slow).unwrap();
        assert!(begun > 0 && size(&waiting).is_some() && size(&late).is_none());
        let marker = root.path().join("exports/stock.csv.done");
        assert!(!marker.exists() && world.exports().join("ledger.csv.done").exists());
        // A read lease is what tells that somebody writes (fcntl(2), "Leases"); /proc is the way to see it here.
        let open = |path: &Path| {
            let path = root.path().join(path).canonicalize().unwrap();
            let handles = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            handles.filter_map(|handle| std::fs::read_link(handle.path()).ok()).any(|target| target == path)
        };
        assert!(open(&slow) && world.reports().join("logs/shipping.log").exists());

        let steps = RefCell::new(Vec::new());
        world.act(AT_ONCE, |step| steps.borrow_mut().push(step)).await.unwrap();
        assert_eq!(steps.borrow().len(), 3);
        assert!(marker.exists() && size(&late).unwrap() > 1000 && size(&slow).unwrap() > 10 * begun && !open(&slow));
        assert_eq!(before, ready.iter().map(|path| size(path).unwrap()).collect::<Vec<_>>());
        assert!(World::left_alone().iter().all(|path| size(path).is_some()));
    }

    #[test]
    fn two_worlds_of_one_day_are_the_same() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let worlds = [&one, &two].map(|root| World::create(root.path(), TODAY).unwrap());
        for path in worlds[0].ready() {
            assert_eq!(std::fs::read(one.path().join(path)).unwrap(), std::fs::read(two.path().join(path)).unwrap());
        }
    }

    #[test]
    fn the_rotated_log_is_a_gzip_file() {
        let root = tempfile::tempdir().unwrap();
        let world = World::create(root.path(), TODAY).unwrap();
        let rotated = world.reports().join("logs/billing.log.1.gz");
        let gunzip = std::process::Command::new("gzip").arg("-dc").arg(rotated).output().unwrap();
        assert!(gunzip.status.success());
        assert!(gunzip.stdout.starts_with(b"2026-11-20T00:00:00Z ") && gunzip.stdout.ends_with(b"ms\n"));
    }
}
