//! `archiver watch` over a large tree that was archived before, and a burst of new files into it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::args::Args;
use crate::arrivals::Arrivals;
use crate::markdown::Table;
use crate::process;
use crate::racers::ARCHIVER;
use crate::rows::{Findings, Sizes};
use crate::site::{Dirs, Site};
use crate::statistics::{largest, median, percentile};
use crate::stop;
use crate::watching::{WATCH, Watching, nothing, write_file};
use crate::workload::{Tree, noise, number};

const MIB: f64 = (1 << 20) as f64;
/// The last scan of so large a tree takes longer than the default, and what it would find is to be found.
const LONG_GRACE: &str = "--grace 10m";
const LOOK: Duration = Duration::from_millis(200);

pub struct Scale {
    pub old: Sizes<Tree>,
    /// New files, as large as the old ones, each into the next directory.
    pub burst: Sizes<u64>,
    pub idle: Sizes<Duration>,
    /// For each step.
    pub bound: Duration,
}

impl Scale {
    pub fn run(&self, site: &Site, args: &Args) -> Result<Findings> {
        let (tree, burst) = (self.old.of(args), self.burst.of(args));
        let all = Tree { files: tree.files + burst, ..tree };
        let source = site.place.fresh("in")?;
        site.place.has_room_for(all.room())?;
        tree.make(&source)?;
        let dirs = Dirs::fresh(site, &source)?;
        let mut push = site.command(ARCHIVER.script, ARCHIVER.binary, site.port(), &dirs)?;
        process::run(&mut push, &site.errors(), self.bound)?.context("the first push took too long")?;

        let (mut watching, ready) = Watching::start(site, &dirs, LONG_GRACE, self.bound)?;
        let rested = watching.rest()?;
        let before = watching.usage()?;
        let rest = nothing(&watching, self.idle.of(args))?;
        let (lags, written, archived) = self.burst(&mut watching.arrivals, &source, tree, burst)?;
        let usage = watching.usage()?;
        let scans = watching.lines_with("scanning")?;
        let overflows = watching.lines_with("Overflow")?;
        let ended = watching.end(self.bound)?;

        let mut table = Table::new(&["what", "figure"]);
        let mut line = |what: &str, figure: String| table.push([what.to_owned(), figure]);
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        line("start to the first new file archived, settle included", seconds(ready));
        line("start to at rest", seconds(rested));
        line("CPU until then", seconds(before.cpu));
        line("resident at rest", format!("{:.1} MiB", rest.resident as f64 / MIB));
        line("CPU at rest", rest.cpu_text());
        line("burst: files written in", seconds(written));
        line("burst: all archived after", seconds(archived));
        line("burst: lag p50", format!("{:.2} s", median(&lags)));
        line("burst: lag p99", format!("{:.2} s", percentile(&lags, 99.0)));
        line("burst: lag max", format!("{:.2} s", largest(&lags)));
        line("burst: scans (of them after an overflow)", format!("{scans} ({overflows})"));
        line("SIGTERM to the end, a last scan included", seconds(ended));
        line("peak", format!("{:.1} MiB", usage.peak as f64 / MIB));
        Ok(Findings {
            title: format!("{tree}, all archived before, then {} new ones", number(burst)),
            table,
            commands: vec![
                (ARCHIVER.name.into(), ARCHIVER.script.into()),
                ("archiver watch".into(), format!("{WATCH} {LONG_GRACE}")),
            ],
            verdicts: vec![Findings::verdict("the burst is archived completely".into(), "all of it".into(), true)],
            notes: vec!["settle is the default, 2 s, and part of every lag".into()],
            samples: json!({
                "ready_s": ready.as_secs_f64(), "rest_s": rested.as_secs_f64(), "rest": rest.json(),
                "written_s": written.as_secs_f64(), "archived_s": archived.as_secs_f64(),
                "lag_s": {"p50": median(&lags), "p99": percentile(&lags, 99.0), "max": largest(&lags)},
                "ended_s": ended.as_secs_f64(), "scans": scans, "overflows": overflows, "peak_bytes": usage.peak,
            }),
        })
    }

    /// Writes the burst while a thread takes the arrivals: the lag of each file in seconds, and how long writing and
    /// everything took.
    fn burst(
        &self,
        arrivals: &mut Arrivals,
        source: &Path,
        tree: Tree,
        burst: u64,
    ) -> Result<(Vec<f64>, Duration, Duration)> {
        let begin = Instant::now();
        let content = noise(tree.files, tree.bytes);
        std::thread::scope(|scope| {
            let arrived = scope.spawn(|| arrive(arrivals, burst, begin + self.bound));
            let mut closed = Vec::with_capacity(burst as usize);
            for number in 0..burst {
                stop::check()?;
                let beside = tree.path(number * tree.per_directory % tree.files);
                closed.push(write_file(&source.join(beside).with_file_name(name(number)), &content)?);
            }
            let written = begin.elapsed();
            let arrived = arrived.join().expect("it does not panic")?;
            let last = arrived.iter().max().context("nothing was written")?.saturating_duration_since(begin);
            let lag =
                |(arrived, closed): (&Instant, &Instant)| arrived.saturating_duration_since(*closed).as_secs_f64();
            Ok((arrived.iter().zip(&closed).map(lag).collect(), written, last))
        })
    }
}

fn name(number: u64) -> String {
    format!("burst-{number}.dat")
}

/// When each of the burst's files got its final name.
fn arrive(arrivals: &mut Arrivals, burst: u64, end: Instant) -> Result<Vec<Instant>> {
    let mut arrived: Vec<Option<Instant>> = vec![None; burst as usize];
    let mut missing = burst;
    while missing > 0 {
        ensure!(Instant::now() < end, "{missing} of {burst} files have not arrived");
        let Some(arrival) = arrivals.next(LOOK)? else { continue };
        let name = arrival.path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix("burst-")?.strip_suffix(".dat")?.parse::<usize>().ok());
        if let Some(slot @ None) = number.and_then(|number| arrived.get_mut(number)) {
            *slot = Some(arrival.at);
            missing -= 1;
        }
    }
    Ok(arrived.into_iter().flatten().collect())
}
