//! Replicas that share one tree and one ledger: does the time fall as they get more, and what does each of them do?

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::args::Args;
use crate::link::Link;
use crate::live;
use crate::markdown::Table;
use crate::process::{self, Cost};
use crate::racers::NotInstalled;
use crate::rows::{Findings, Sizes};
use crate::shared::SharedLedger;
use crate::site::{Binary, Dirs, Site};
use crate::statistics::{median, smallest};
use crate::workload::{Tree, number};
use crate::{place, verify};

/// `$REPLICAS` of them at once; each says in a file what it did. One that leaves files to another after it waited a while
/// for them ends with 4.
macro_rules! script {
    ($limits:literal) => {
        concat!(
            r#"for n in $(seq "$REPLICAS"); do archiver push "$SRC" --to "sftp://bench$DST" -F "$SSH_CONFIG" --ledger "$LEDGER""#,
            $limits,
            r#" --termination-log "$TOLD/$n" & done; for job in $(jobs -p); do wait "$job" || [ $? -eq 4 ] || exit 1; done"#
        )
    };
}

/// What each replica may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    name: &'static str,
    script: &'static str,
    /// The most that the time of so many replicas may be, as a share of one's.
    targets: &'static [(u32, f64)],
}

/// One replica alone is held back by the link only.
pub const BOUND_BY_LINK: Limits = Limits {
    name: "one connection, 128 files in flight",
    script: script!(" --connections 1 --jobs 128"),
    targets: &[(2, 0.55), (4, 0.30)],
};
/// One replica alone takes all that the server and this machine have, so more of them must only do no harm.
pub const AS_IT_COMES: Limits = Limits { name: "as it comes", script: script!(""), targets: &[(2, 1.10), (4, 1.10)] };

pub struct Replicas {
    pub tree: Sizes<Tree>,
    pub round_trip: Duration,
    pub counts: &'static [u32],
    pub limits: &'static [Limits],
    pub runs: Sizes<u32>,
    pub bound: Duration,
}

/// What one run came to.
struct Sample {
    cost: Cost,
    /// Files that each replica archived.
    shares: Vec<u64>,
    /// Files that each replica left to another that had them.
    left: Vec<u64>,
    /// Processor seconds of what ran beside the replicas, by its program.
    beside: BTreeMap<String, f64>,
}

impl Replicas {
    pub fn run(&self, site: &Site, args: &Args) -> Result<Findings> {
        NotInstalled::check(&["redis-server", "redis-cli"])?;
        let tree = self.tree.of(args);
        site.place.has_room_for(tree.room())?;
        let source = site.place.fresh("in")?;
        tree.make(&source)?;
        let link = Link::start(site.port(), self.round_trip)?;
        let fields = self.limits.iter().flat_map(|limits| self.counts.iter().map(move |count| (limits, *count)));
        let mut field: Vec<(&Limits, u32, Vec<Sample>)> = fields.map(|(of, count)| (of, count, Vec::new())).collect();
        for round in 0..args.runs.unwrap_or(self.runs.of(args)) {
            for (limits, count, samples) in &mut field {
                let sample = self.one_run(site, &source, tree, limits, *count, link.port());
                samples.push(sample.with_context(|| format!("{count} replicas, {}, round {round}", limits.name))?);
            }
        }
        Ok(self.findings(tree, &field))
    }

    /// Into a fresh target, with an empty ledger: each file is there once, and was sent by one of them.
    fn one_run(
        &self,
        site: &Site,
        source: &Path,
        tree: Tree,
        limits: &Limits,
        count: u32,
        port: u16,
    ) -> Result<Sample> {
        let dirs = Dirs::fresh(site, source)?;
        let told = site.place.fresh("told")?;
        let ledger = SharedLedger::start(None)?;
        let mut command = site.command(limits.script, Binary::Ours, port, &dirs)?;
        command.env("LEDGER", ledger.url()).env("REPLICAS", count.to_string()).env("TOLD", &told);
        let before = live::children_times()?;
        let cost = process::run(&mut command, &site.errors(), self.bound)?;
        let cost = cost.with_context(|| format!("it took longer than {:?}", self.bound))?;
        let beside = beside(&before)?;
        verify::same(source, &dirs.target, &verify::dated(&dirs.target)?)?;
        let ends = (1..=count).map(|n| told_at_end(&told.join(n.to_string()))).collect::<Result<Vec<_>>>()?;
        let (shares, left): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
        let sent = shares.iter().sum::<u64>();
        ensure!(sent == tree.files, "{sent} files were sent, and there are {}", tree.files);
        place::remove(&dirs.target)?;
        Ok(Sample { cost, shares, left, beside })
    }

    fn findings(&self, tree: Tree, field: &[(&Limits, u32, Vec<Sample>)]) -> Findings {
        let mut table = Table::new(&[
            "replicas",
            "wall s",
            "÷ one",
            "files/s",
            "share of each %",
            "CPU s",
            "server's CPU s",
            "Redis's",
            "link's",
            "cores busy",
            "runs",
        ]);
        let (mut verdicts, mut samples) = (Vec::new(), Vec::new());
        let left: Vec<_> =
            field.iter().flat_map(|(_, _, runs)| runs).flat_map(|run| run.left.iter().copied()).collect();
        for (limits, count, runs) in field {
            let alone = field.iter().find(|(of, count, _)| of.name == limits.name && *count == 1);
            let ratio = alone.map(|(_, _, alone)| ratio(runs, alone));
            table.push(line(limits, *count, ratio, tree.files, runs));
            if let (Some((_, most)), Some(ratio)) = (limits.targets.iter().find(|(of, _)| of == count), ratio) {
                let target = format!("{count} replicas, {}: ≤ {most:.2} × one", limits.name);
                verdicts.push(Findings::verdict(target, format!("{ratio:.3}"), ratio <= *most));
            }
            samples.push(json!({"limits": limits.name, "replicas": count, "runs": runs.iter().map(Sample::json).collect::<Vec<_>>()}));
        }
        Findings {
            title: format!("{tree}, one ledger on Redis, {} ms round trip to the server", self.round_trip.as_millis()),
            table,
            commands: self.limits.iter().map(|limits| (limits.name.into(), limits.script.into())).collect(),
            verdicts,
            notes: vec![
                "wall s is the time until the last replica ended; each run had an empty ledger, and no run warmed up".into(),
                format!(
                    "after each run every one of the {} files was there once, and the files that the replicas say they sent add up to as many",
                    number(tree.files)
                ),
                match left.iter().filter(|left| **left > 0).count() {
                    0 => "every replica saw all files archived, and ended with 0".into(),
                    some => format!(
                        "{some} of {} replicas ended with 4, for they left up to {} files to another that had them in hand",
                        left.len(),
                        number(left.iter().copied().max().unwrap_or_default())
                    ),
                },
                "cores busy: processor seconds of the replicas, the server, Redis and the link, a second; where that is all cores of the machine, these are the limit and not the link".into(),
            ],
            samples: samples.into(),
        }
    }
}

/// Of times, by rounds.
fn ratio(runs: &[Sample], alone: &[Sample]) -> f64 {
    let ratios: Vec<_> = runs.iter().zip(alone).map(|(of, one)| of.wall() / one.wall()).collect();
    median(&ratios)
}

fn line(limits: &Limits, count: u32, ratio: Option<f64>, files: u64, runs: &[Sample]) -> Vec<String> {
    let of = |figure: &dyn Fn(&Sample) -> f64| median(&runs.iter().map(figure).collect::<Vec<_>>());
    let beside = |program: &'static str| format!("{:.2}", of(&|sample| sample.beside(program)));
    let wall = of(&Sample::wall);
    let share = |sample: &Sample, of: fn(&[f64]) -> f64| {
        of(&sample.shares.iter().map(|share| *share as f64).collect::<Vec<_>>())
    };
    let percent = |share: f64| 100.0 * share / files as f64;
    let least = percent(of(&|sample| share(sample, smallest)));
    let most = percent(of(&|sample| share(sample, crate::statistics::largest)));
    vec![
        format!("{count}, {}", limits.name),
        format!("{wall:.2}"),
        ratio.map_or("–".into(), |ratio| format!("{ratio:.3}")),
        format!("{:.0}", files as f64 / wall),
        if count == 1 { "100".into() } else { format!("{least:.0}–{most:.0}") },
        format!("{:.2}", of(&|sample| sample.cost.cpu.as_secs_f64())),
        beside(SERVER),
        beside(REDIS),
        beside(LINK),
        format!("{:.2}", of(&Sample::cores)),
        runs.len().to_string(),
    ]
}

const SERVER: &str = "sshd";
const REDIS: &str = "redis-server";
/// A process of this program.
const LINK: &str = "link";

impl Sample {
    fn wall(&self) -> f64 {
        self.cost.wall.as_secs_f64()
    }

    fn beside(&self, program: &str) -> f64 {
        self.beside.get(program).copied().unwrap_or_default()
    }

    fn cores(&self) -> f64 {
        (self.cost.cpu.as_secs_f64() + self.beside.values().sum::<f64>()) / self.wall()
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "wall_s": self.wall(), "cpu_s": self.cost.cpu.as_secs_f64(), "peak_bytes": self.cost.peak,
            "shares": self.shares, "left": self.left, "beside_cpu_s": self.beside,
        })
    }
}

/// What those that still run have used since.
fn beside(before: &BTreeMap<i32, (String, Duration)>) -> Result<BTreeMap<String, f64>> {
    let mut beside = BTreeMap::new();
    for (pid, (program, time)) in live::children_times()? {
        let Some((_, begun)) = before.get(&pid) else { continue };
        let program = if [SERVER, REDIS].contains(&program.as_str()) { program } else { LINK.to_owned() };
        *beside.entry(program).or_default() += time.saturating_sub(*begun).as_secs_f64();
    }
    Ok(beside)
}

/// How many files a replica says at its end that it archived, and left to another that had them.
fn told_at_end(told: &Path) -> Result<(u64, u64)> {
    let text = std::fs::read_to_string(told).with_context(|| format!("reading {}", told.display()))?;
    let told: serde_json::Value = serde_json::from_str(&text)?;
    let total = |name: &str| told["totals"][name].as_u64().with_context(|| format!("a replica does not say {name}"));
    Ok((total("archived")?, total("deferred")?))
}
