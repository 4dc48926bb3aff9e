//! Rows about `archiver watch`: what it takes while nothing happens, and how soon a finished file is visible.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::json;

use crate::args::Args;
use crate::arrivals::Arrivals;
use crate::live::Usage;
use crate::markdown::Table;
use crate::process::{Process, Waited};
use crate::record::Verdict;
use crate::rows::{Findings, Sizes};
use crate::site::{Binary, Dirs, Site};
use crate::statistics::{largest, median, percentile};
use crate::workload::{Tree, noise};
use crate::{stop, verify};

pub const WATCH: &str = r#"exec archiver watch "$SRC" --to "sftp://bench$DST" -F "$SSH_CONFIG""#;
const MIB: f64 = (1 << 20) as f64;
/// The longest that any one file may take to arrive, settle time included, and any stop may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a process is looked at that is coming to rest.
const LOOK: Duration = Duration::from_millis(500);
/// Looks in a row in which it did next to nothing, until it counts as at rest.
const LOOKS: u32 = 6;
const NEXT_TO_NOTHING: Duration = Duration::from_millis(5);
/// Between a closed file and its final name, beyond the settle time.
const LAG_TARGET_MS: f64 = 100.0;
const IDLE_TARGET_BYTES: u64 = 16 << 20;
/// "No measurable CPU": less than one part in a thousand of one core.
const IDLE_SHARE: f64 = 0.001;

/// A running `archiver watch`, and what arrives from it.
pub struct Watching<'a> {
    process: Process,
    pub arrivals: Arrivals,
    dirs: &'a Dirs,
}

impl<'a> Watching<'a> {
    /// Starts it, and waits until a first file, written by us, has been archived.
    pub fn start(site: &Site, dirs: &'a Dirs, options: &str, patience: Duration) -> Result<(Self, Duration)> {
        let arrivals = Arrivals::below(&dirs.target)?;
        let mut command = site.command(&format!("{WATCH} {options}"), Binary::Ours, site.port(), dirs)?;
        let process = Process::start(&mut command, &site.errors())?;
        let mut watching = Self { process, arrivals, dirs };
        write_file(&dirs.source.join("first"), b"the first")?;
        watching.wait_for("first", patience)?;
        let ready = watching.process.begin().elapsed();
        Ok((watching, ready))
    }

    fn wait_for(&mut self, name: &str, patience: Duration) -> Result<Instant> {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            match self.arrivals.next(LOOK)? {
                Some(arrival) if arrival.path.file_name().is_some_and(|found| found == name) => return Ok(arrival.at),
                Some(_) => {}
                None => ensure!(!self.process.has_ended()?, "watch ended:\n{}", self.process.said()),
            }
        }
        bail!("`{name}` did not arrive within {patience:?}:\n{}", self.process.said())
    }

    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.process.pid())
    }

    /// Waits until it does next to nothing; gives the time from its start until then.
    pub fn rest(&self) -> Result<Duration> {
        let mut quiet = 0;
        let mut before = self.usage()?.cpu;
        let mut since = self.process.begin().elapsed();
        while quiet < LOOKS {
            stop::pause(LOOK)?;
            let now = self.usage()?.cpu;
            if now.saturating_sub(before) < NEXT_TO_NOTHING {
                quiet += 1;
            } else {
                (quiet, since) = (0, self.process.begin().elapsed());
            }
            before = now;
        }
        Ok(since)
    }

    /// How many lines of its log have that text.
    pub fn lines_with(&self, text: &str) -> Result<usize> {
        self.process.lines_with(text)
    }

    /// Asks it to end, and looks whether everything has arrived as it should. Says how long it took to end.
    pub fn end(mut self, patience: Duration) -> Result<Duration> {
        let asked = Instant::now();
        self.process.signal(Signal::TERM)?;
        match self.process.wait(patience)? {
            Waited::Ended(status, _) => ensure!(status.success(), "{status}\n{}", self.process.said()),
            Waited::Running => bail!("it did not end within {patience:?} of SIGTERM"),
        }
        let took = asked.elapsed();
        verify::same(&self.dirs.source, &self.dirs.target, &verify::dated(&self.dirs.target)?)?;
        Ok(took)
    }
}

pub fn write_file(path: &Path, content: &[u8]) -> Result<Instant> {
    let mut file = File::create_new(path).with_context(|| format!("writing {}", path.display()))?;
    file.write_all(content)?;
    drop(file);
    Ok(Instant::now())
}

/// What nothing costs, over a while.
pub struct Rest {
    pub resident: u64,
    cpu: Duration,
    switches: u64,
    during: Duration,
}

pub fn nothing(watching: &Watching, during: Duration) -> Result<Rest> {
    let before = watching.usage()?;
    stop::pause(during)?;
    let after = watching.usage()?;
    Ok(Rest {
        resident: after.resident,
        cpu: after.cpu.saturating_sub(before.cpu),
        switches: after.switches_since(&before),
        during,
    })
}

impl Rest {
    /// Of one core.
    fn share(&self) -> f64 {
        self.cpu.as_secs_f64() / self.during.as_secs_f64()
    }

    pub fn cpu_text(&self) -> String {
        format!("{:.3} ms/s", self.share() * 1000.0)
    }

    fn verdicts(&self) -> [Verdict; 2] {
        let resident = format!("{:.1} MiB", self.resident as f64 / MIB);
        [
            Findings::verdict("≤ 16 MiB resident".into(), resident, self.resident <= IDLE_TARGET_BYTES),
            Findings::verdict(
                format!("no measurable CPU: ≤ {:.1} ms a second", IDLE_SHARE * 1000.0),
                self.cpu_text(),
                self.share() <= IDLE_SHARE,
            ),
        ]
    }

    pub fn json(&self) -> serde_json::Value {
        let (cpu, seconds) = (self.cpu.as_secs_f64(), self.during.as_secs_f64());
        json!({"resident_bytes": self.resident, "cpu_s": cpu, "switches": self.switches, "seconds": seconds})
    }
}

pub struct Idle {
    pub tree: Tree,
    pub look: Sizes<Duration>,
}

impl Idle {
    pub fn run(&self, site: &Site, args: &Args) -> Result<Findings> {
        let dirs = Dirs::fresh(site, &site.place.fresh("in")?)?;
        self.tree.make(&dirs.source)?;
        let (watching, _) = Watching::start(site, &dirs, "", PATIENCE)?;
        watching.rest()?;
        let rest = nothing(&watching, self.look.of(args))?;
        let peak = watching.usage()?.peak;
        watching.end(PATIENCE)?;
        let mut table = Table::new(&["watched", "resident MiB", "peak MiB", "CPU", "context switches/s"]);
        table.push([
            self.tree.to_string(),
            format!("{:.1}", rest.resident as f64 / MIB),
            format!("{:.1}", peak as f64 / MIB),
            rest.cpu_text(),
            format!("{:.1}", rest.switches as f64 / rest.during.as_secs_f64()),
        ]);
        Ok(Findings {
            title: format!("watch, at rest for {} s", rest.during.as_secs()),
            table,
            commands: vec![("archiver watch".into(), WATCH.into())],
            verdicts: rest.verdicts().into(),
            notes: vec!["the tree was archived by the same process before".into()],
            samples: json!([rest.json()]),
        })
    }
}

pub struct Lag {
    pub files: Sizes<u32>,
    pub bytes: u64,
    /// As the option takes it, and in seconds.
    pub settle: &'static [(&'static str, u32)],
}

/// Between one file and the next, give or take, so that the files do not beat in time with anything.
const PAUSE: Duration = Duration::from_millis(120);
const JITTER_MS: u64 = 61;

impl Lag {
    pub fn run(&self, site: &Site, args: &Args) -> Result<Findings> {
        let files = self.files.of(args);
        let mut table = Table::new(&["settle", "p50 ms", "p99 ms", "max ms"]);
        let (mut verdicts, mut samples) = (Vec::new(), Vec::new());
        for (settle, seconds) in self.settle {
            let lags = self.lags(site, files, settle)?;
            let [middle, high, most] = [median(&lags), percentile(&lags, 99.0), largest(&lags)];
            table.push([(*settle).to_owned(), ms(middle), ms(high), ms(most)]);
            let limit = f64::from(*seconds) * 1000.0 + LAG_TARGET_MS;
            let target = format!("settle {settle}: p99 ≤ {limit:.0} ms");
            verdicts.push(Findings::verdict(target, format!("{} ms", ms(high)), high <= limit));
            samples.push(json!({"settle": settle, "lag_ms": lags}));
        }
        Ok(Findings {
            title: format!("{files} files, written one at a time"),
            table,
            commands: vec![("archiver watch".into(), format!("{WATCH} --settle …"))],
            verdicts,
            notes: vec!["from the return of close() to the final name's appearance at the server".into()],
            samples: samples.into(),
        })
    }

    /// In milliseconds.
    fn lags(&self, site: &Site, files: u32, settle: &str) -> Result<Vec<f64>> {
        let dirs = Dirs::fresh(site, &site.place.fresh("in")?)?;
        let (mut watching, _) = Watching::start(site, &dirs, &format!("--settle {settle}"), PATIENCE)?;
        watching.rest()?;
        let content = noise(0, self.bytes);
        let mut waiting = HashMap::new();
        let mut lags = Vec::new();
        for number in 0..files {
            let name = format!("{number}.dat");
            waiting.insert(PathBuf::from(&name), write_file(&dirs.source.join(&name), &content)?);
            let pause = PAUSE + Duration::from_millis(u64::from(number) * 37 % JITTER_MS);
            collect(&mut watching.arrivals, &mut waiting, &mut lags, Instant::now() + pause)?;
        }
        let end = Instant::now() + PATIENCE;
        while !waiting.is_empty() {
            ensure!(Instant::now() < end, "{} files did not arrive:\n{}", waiting.len(), watching.process.said());
            collect(&mut watching.arrivals, &mut waiting, &mut lags, Instant::now() + LOOK)?;
        }
        watching.end(PATIENCE)?;
        Ok(lags)
    }
}

fn ms(figure: f64) -> String {
    format!("{figure:.1}")
}

/// Until `end`, notes how long each file took that arrives.
fn collect(
    arrivals: &mut Arrivals,
    waiting: &mut HashMap<PathBuf, Instant>,
    lags: &mut Vec<f64>,
    end: Instant,
) -> Result<()> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let Some(arrival) = arrivals.next(left)? else { return Ok(()) };
        let name = arrival.path.file_name().map(PathBuf::from).unwrap_or_default();
        if let Some(closed) = waiting.remove(&name) {
            lags.push(arrival.at.saturating_duration_since(closed).as_secs_f64() * 1000.0);
        }
    }
}
