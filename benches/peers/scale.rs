//! Rows about size: the memory of push, and its pace as the tree grows.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::json;

use crate::args::Args;
use crate::arrivals::Arrivals;
use crate::markdown::Table;
use crate::process::{Cost, Process, Waited};
use crate::racers::ARCHIVER;
use crate::rows::{Findings, Sizes};
use crate::site::{Dirs, Site};
use crate::workload::{Tree, number, size};
use crate::{place, statistics, verify};

const MIB: f64 = (1 << 20) as f64;
/// How often a wait for a file looks whether the program still runs.
const LOOK: Duration = Duration::from_millis(200);

pub struct Memory {
    /// With the most that each may take, in bytes.
    pub trees: Sizes<&'static [(Tree, Option<u64>)]>,
    pub bound: Duration,
}

impl Memory {
    pub fn run(&self, site: &Site, args: &Args) -> Result<Findings> {
        let trees = self.trees.of(args);
        trees.iter().try_for_each(|(tree, _)| site.place.has_room_for(tree.room()))?;
        let mut table = Table::new(&["work", "peak MiB", "wall s", "CPU s"]);
        let (mut verdicts, mut samples) = (Vec::new(), Vec::new());
        for (tree, most) in trees {
            let source = site.place.fresh("in")?;
            tree.make(&source)?;
            let (cost, _) = push(site, &source, self.bound)?;
            let peak = cost.peak as f64 / MIB;
            let (wall, cpu) = (cost.wall.as_secs_f64(), cost.cpu.as_secs_f64());
            table.push([tree.to_string(), format!("{peak:.1}"), format!("{wall:.2}"), format!("{cpu:.2}")]);
            if let Some(most) = most {
                let target = format!("≤ {} MiB for {tree}", most >> 20);
                verdicts.push(Findings::verdict(target, format!("{peak:.1} MiB"), cost.peak <= *most));
            }
            samples.push(json!({"work": tree.to_string(), "peak_bytes": cost.peak, "wall_s": wall, "cpu_s": cpu}));
        }
        Ok(Findings {
            title: "peak memory of push".into(),
            table,
            commands: vec![(ARCHIVER.name.into(), ARCHIVER.script.into())],
            verdicts,
            notes: vec!["each was run once".into()],
            samples: samples.into(),
        })
    }
}

pub struct Growth {
    /// With the number of runs.
    pub trees: Sizes<&'static [(Tree, u32)]>,
    pub bound: Duration,
}

/// Files a second at the largest tree may be that much fewer than at the smallest.
const SLOWER: f64 = 0.90;
const FIRST_BYTE_SECONDS: f64 = 1.0;

impl Growth {
    pub fn run(&self, site: &Site, args: &Args) -> Result<Findings> {
        let trees = self.trees.of(args);
        trees.iter().try_for_each(|(tree, _)| site.place.has_room_for(tree.room()))?;
        let mut table = Table::new(&["files", "files/s", "wall s", "files/s beyond the row above", "first byte ms"]);
        let (mut rates, mut rates_beyond, mut samples) = (Vec::<f64>::new(), Vec::new(), Vec::new());
        let mut before: Option<(u64, f64)> = None;
        let mut first_byte = 0.0;
        for (tree, times) in trees {
            let source = site.place.fresh("in")?;
            tree.make(&source)?;
            let (mut walls, mut firsts) = (Vec::new(), Vec::new());
            for _ in 0..args.runs.unwrap_or(*times) {
                let (cost, first) = push(site, &source, self.bound)?;
                walls.push(cost.wall.as_secs_f64());
                firsts.push(first.as_secs_f64());
            }
            let wall = statistics::median(&walls);
            first_byte = statistics::median(&firsts);
            rates.push(tree.files as f64 / wall);
            let beyond = before.map(|(files, less)| (tree.files - files) as f64 / (wall - less));
            rates_beyond.extend(beyond);
            table.push([
                number(tree.files),
                format!("{:.0}", tree.files as f64 / wall),
                format!("{wall:.2}"),
                beyond.map_or("–".into(), |rate| format!("{rate:.0}")),
                format!("{:.0}", first_byte * 1000.0),
            ]);
            samples.push(json!({"files": tree.files, "wall_s": walls, "first_byte_s": firsts}));
            before = Some((tree.files, wall));
        }
        let slowest = statistics::smallest(&rates) / rates[0];
        let steady = statistics::smallest(&rates_beyond) / statistics::largest(&rates_beyond);
        let (largest, _) = trees.last().context("there are trees")?;
        let verdicts = vec![
            Findings::verdict(
                format!("files a second at every size ≥ {SLOWER:.2} × those at the smallest"),
                format!("{slowest:.2}"),
                slowest >= SLOWER,
            ),
            Findings::verdict(
                format!("the same without what every run needs once: slowest ≥ {SLOWER:.2} × fastest"),
                format!("{steady:.2}"),
                steady >= SLOWER,
            ),
            Findings::verdict(
                format!("first byte at {} files within {FIRST_BYTE_SECONDS} s", number(largest.files)),
                format!("{first_byte:.2} s"),
                first_byte <= FIRST_BYTE_SECONDS,
            ),
        ];
        Ok(Findings {
            title: format!("files of {}, {} in a directory", size(largest.bytes), largest.per_directory),
            table,
            commands: vec![(ARCHIVER.name.into(), ARCHIVER.script.into())],
            verdicts,
            notes: vec![
                "the first byte is there when the first temporary name appears at the server".into(),
                "files/s counts from start to exit; the column beside it leaves out what every run needs once".into(),
            ],
            samples: samples.into(),
        })
    }
}

/// One verified push; also says how long after its start the first file appeared at the server.
fn push(site: &Site, source: &Path, bound: Duration) -> Result<(Cost, Duration)> {
    let dirs = Dirs::fresh(site, source)?;
    let mut arrivals = Arrivals::below(&dirs.target)?;
    let mut command = site.command(ARCHIVER.script, ARCHIVER.binary, site.port(), &dirs)?;
    let mut process = Process::start(&mut command, &site.errors())?;
    let first = loop {
        match arrivals.next(LOOK)? {
            Some(arrival) => break Some(arrival.at.saturating_duration_since(process.begin())),
            None if process.has_ended()? => break None,
            None => {}
        }
    };
    // Watching on would cost time that the archiver needs.
    drop(arrivals);
    let Waited::Ended(status, cost) = process.wait(bound)? else {
        process.signal(Signal::KILL)?;
        bail!("it took longer than {bound:?}");
    };
    ensure!(status.success(), "{status}\n{}", process.said());
    verify::same(source, &dirs.target, &verify::dated(&dirs.target)?)?;
    place::remove(&dirs.target)?;
    Ok((cost, first.context("nothing arrived")?))
}
