//! Rows in which the tools do the same work by turns: A B C, A B C, …, so that what disturbs the machine for a while
//! disturbs all of them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::args::Args;
use crate::link::Link;
use crate::markdown::Table;
use crate::process::{self, Cost};
use crate::racers::{Lands, Ledger, Pace, Racer};
use crate::record::{Outcome, Verdict};
use crate::rows::{Findings, Sizes};
use crate::shared::SharedLedger;
use crate::site::{Binary, Dirs, Site};
use crate::workload::Tree;
use crate::{place, statistics, verify};

#[derive(Debug, Clone, Copy)]
pub struct Race {
    pub tree: Sizes<Tree>,
    /// Through the relay.
    pub round_trip: Option<Duration>,
    /// Counted runs, unless `--runs` says otherwise.
    pub runs: Sizes<u32>,
    /// The longest that one command may take; then it is ended, and has lost.
    pub bound: Duration,
    /// The first is the archiver.
    pub racers: &'static [Racer],
    pub targets: &'static [Target],
}

/// The archiver's time as a share of a peer's.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub at_most: f64,
    /// Another one than the first.
    pub ours: Option<Racer>,
    pub of: Racer,
}

/// A racer's counted runs.
struct Runs {
    racer: Racer,
    /// With the round that each belongs to.
    costs: Vec<(u32, Cost)>,
    gave_up: bool,
}

impl Race {
    pub fn run(&self, site: &Site, args: &Args) -> Result<Findings> {
        let tree = self.tree.of(args);
        site.place.has_room_for(tree.room())?;
        let source = site.place.fresh("in")?;
        tree.make(&source)?;
        let link = self.round_trip.map(|round_trip| Link::start(site.port(), round_trip)).transpose()?;
        let port = link.as_ref().map_or(site.port(), Link::port);

        let mut notes = Vec::new();
        let mut field = self.field(args, &mut notes);
        for Runs { racer, .. } in &field {
            if let Ledger::Redis { away_ms: Some(ms) } = racer.ledger {
                let took = SharedLedger::start(Some(Duration::from_millis(ms)))?.round_trip()?;
                notes.push(format!("{}: PING took {:.2} ms", racer.name, took.as_secs_f64() * 1000.0));
            }
        }
        let rounds = args.runs.unwrap_or(self.runs.of(args));
        for round in 0..=rounds {
            for runs in field.iter_mut().filter(|runs| runs.takes_part(round)) {
                let cost = one_run(site, &source, &runs.racer, port, self.bound)
                    .with_context(|| format!("{}, round {round}", runs.racer.name))?;
                match cost {
                    None => runs.gave_up = true,
                    // The first round warms up.
                    Some(_) if round == 0 => {}
                    Some(cost) => runs.costs.push((round, cost)),
                }
            }
        }
        Ok(self.findings(tree, &field, notes))
    }

    /// Who takes part; `notes` hears of those who do not.
    fn field(&self, args: &Args, notes: &mut Vec<String>) -> Vec<Runs> {
        let mut field = Vec::new();
        for racer in self.racers {
            let ours = racer.program() == "archiver";
            let wanted = |peers: &Vec<String>| peers.iter().any(|peer| peer == racer.program());
            match racer.missing() {
                _ if !ours && !args.peers.as_ref().is_none_or(wanted) => {}
                Some(program) => notes.push(format!("{} is left out: {program} is not installed", racer.name)),
                None => field.push(Runs { racer: *racer, costs: Vec::new(), gave_up: false }),
            }
        }
        if args.against.is_some() {
            let racer = Racer { name: "archiver, the other one", binary: Binary::Other, ..self.racers[0] };
            field.insert(1, Runs { racer, costs: Vec::new(), gave_up: false });
        }
        field
    }

    fn findings(&self, tree: Tree, field: &[Runs], mut notes: Vec<String>) -> Findings {
        let ours = &field[0];
        let mut table = Table::new(&["tool", "wall s", "min–max", "archiver ÷ tool", "CPU s", "peak MiB", "runs"]);
        field.iter().for_each(|runs| table.push(runs.line(ours, self.bound)));
        let names = |of: fn(&Racer) -> bool| {
            let racers = field.iter().map(|runs| &runs.racer).filter(|racer| of(racer));
            racers.map(|racer| racer.name).collect::<Vec<_>>().join("; ")
        };
        let (slow, unseen) = (names(|racer| racer.pace == Pace::Slow), names(|racer| racer.lands == Lands::Nowhere));
        let of_redis = names(|racer| matches!(racer.ledger, Ledger::Redis { .. }));
        if !of_redis.is_empty() {
            notes.push(format!("what the Redis server needs is not in CPU s, but on the same machine: {of_redis}"));
        }
        if !slow.is_empty() {
            notes.push(format!("slow, and so run once without a run to warm up: {slow}"));
        }
        if !unseen.is_empty() {
            notes.push(format!("stores nothing, so that nothing is verified: {unseen}"));
        }
        Findings {
            title: self.title(tree),
            table,
            commands: field.iter().map(|runs| (runs.racer.name.into(), runs.racer.script.into())).collect(),
            verdicts: self.targets.iter().map(|target| target.verdict(ours, field)).collect(),
            notes,
            samples: field.iter().map(Runs::samples).collect(),
        }
    }

    fn title(&self, tree: Tree) -> String {
        match self.round_trip {
            None => tree.to_string(),
            Some(round_trip) => format!("{tree}, {} ms round trip", round_trip.as_millis()),
        }
    }
}

impl Target {
    fn verdict(&self, first: &Runs, field: &[Runs]) -> Verdict {
        let found = |racer: Racer| field.iter().find(|runs| runs.racer.name == racer.name);
        let limit = format!("≤ {:.2} × {}", self.at_most, self.of.name);
        let target = self.ours.map_or(limit.clone(), |ours| format!("{}: {limit}", ours.name));
        let Some(ours) = self.ours.map_or(Some(first), found) else {
            return Verdict { target, measured: "–".into(), outcome: Outcome::NotMeasured };
        };
        let peer = found(self.of);
        match peer.and_then(|peer| peer.ratio(ours)) {
            Some(ratio) => {
                Verdict { target, measured: format!("{ratio:.3}"), outcome: Outcome::of(ratio <= self.at_most) }
            }
            None if ours.gave_up => {
                Verdict { target, measured: "archiver was ended".into(), outcome: Outcome::NotReached }
            }
            // A peer that did not come to an end was beaten by more than anyone can say.
            None if peer.is_some_and(|peer| peer.gave_up) => {
                Verdict { target, measured: "the peer was ended".into(), outcome: Outcome::Reached }
            }
            None => Verdict { target, measured: "–".into(), outcome: Outcome::NotMeasured },
        }
    }
}

impl Runs {
    fn takes_part(&self, round: u32) -> bool {
        !self.gave_up && (self.racer.pace == Pace::Normal || round == 1)
    }

    /// The archiver's time as a share of this one's, over the rounds that both ran in.
    fn ratio(&self, ours: &Self) -> Option<f64> {
        let of_round = |round| ours.costs.iter().find(|(of, _)| *of == round).map(|(_, cost)| cost.wall.as_secs_f64());
        let pairs = self.costs.iter().filter_map(|(round, cost)| Some((of_round(*round)?, cost.wall.as_secs_f64())));
        let (ours, theirs): (Vec<_>, Vec<_>) = pairs.unzip();
        (!theirs.is_empty()).then(|| statistics::ratio(&ours, &theirs))
    }

    fn line(&self, ours: &Self, bound: Duration) -> Vec<String> {
        let name = self.racer.name.to_owned();
        if self.costs.is_empty() {
            let over = format!("> {}", bound.as_secs());
            return vec![name, over, "–".into(), "–".into(), "–".into(), "–".into(), "ended".into()];
        }
        let of = |figure: fn(&Cost) -> f64| self.costs.iter().map(|(_, cost)| figure(cost)).collect::<Vec<_>>();
        let (wall, cpu) = (of(|cost| cost.wall.as_secs_f64()), of(|cost| cost.cpu.as_secs_f64()));
        let peak = of(|cost| cost.peak as f64 / f64::from(1 << 20));
        vec![
            name,
            format!("{:.2}", statistics::median(&wall)),
            format!("{:.2}–{:.2}", statistics::smallest(&wall), statistics::largest(&wall)),
            self.ratio(ours).map_or("–".into(), |ratio| format!("{ratio:.3}")),
            format!("{:.2}", statistics::median(&cpu)),
            format!("{:.1}", statistics::largest(&peak)),
            wall.len().to_string(),
        ]
    }

    fn samples(&self) -> serde_json::Value {
        let samples: Vec<_> = self
            .costs
            .iter()
            .map(|(round, cost)| {
                json!({"round": round, "wall_s": cost.wall.as_secs_f64(), "cpu_s": cost.cpu.as_secs_f64(), "peak_bytes": cost.peak})
            })
            .collect();
        json!({"tool": self.racer.name, "gave_up": self.gave_up, "runs": samples})
    }
}

/// Into a fresh target, with a fresh ledger, and verified. `None` where it took too long.
pub fn one_run(site: &Site, source: &Path, racer: &Racer, port: u16, bound: Duration) -> Result<Option<Cost>> {
    let mut dirs = Dirs::fresh(site, source)?;
    let disk = (racer.ledger == Ledger::OnDisk)
        .then(|| tempfile::Builder::new().prefix("ledger-").tempdir_in(env!("CARGO_TARGET_TMPDIR")))
        .transpose()?;
    if let Some(disk) = &disk {
        dirs.state = disk.path().to_owned();
    }
    let shared = match racer.ledger {
        Ledger::Redis { away_ms } => Some(SharedLedger::start(away_ms.map(Duration::from_millis))?),
        Ledger::InMemory | Ledger::OnDisk => None,
    };
    let mut command = site.command(racer.script, racer.binary, port, &dirs)?;
    if let Some(shared) = &shared {
        command.env("LEDGER", shared.url());
    }
    let cost = process::run(&mut command, &site.errors(), bound)?;
    if cost.is_some() {
        check(racer.lands, &dirs)?;
    }
    place::remove(&dirs.target)?;
    Ok(cost)
}

fn check(lands: Lands, dirs: &Dirs) -> Result<()> {
    let top = match lands {
        Lands::Nowhere => return Ok(()),
        Lands::Directly => dirs.target.clone(),
        Lands::UnderName => dirs.target.join(dirs.source.file_name().context("the source has a name")?),
        Lands::Dated => return verify::same(&dirs.source, &dirs.target, &verify::dated(&dirs.target)?).map(drop),
    };
    verify::same(&dirs.source, &dirs.target, &[top]).map(drop)
}
