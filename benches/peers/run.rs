//! Does what was asked for: row after row, each with its record.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::args::Args;
use crate::machine::{self, Machine};
use crate::place::NoRoom;
use crate::racers::NotInstalled;
use crate::record::{Record, Standing};
use crate::rows::{Findings, ROWS, Row};
use crate::site::Site;
use crate::{link, page, process, stop};

pub fn run(args: Args) -> Result<()> {
    if let (Some(port), Some(us)) = (args.relay, args.one_way_us) {
        return link::be(port, Duration::from_micros(us));
    }
    if args.list {
        ROWS.iter().for_each(|row| println!("{row}"));
        return Ok(());
    }
    if args.render {
        return page::write();
    }
    let Some(binary) = args.binary() else {
        // `cargo bench` and `cargo test --all-targets` start every benchmark, and this one takes an hour.
        println!("The benchmark beside peers is run with scripts/bench.");
        return Ok(());
    };
    known(&args.only)?;
    stop::listen()?;
    process::adopt_orphans()?;
    let site = Site::make(binary, args.against.as_deref())?;
    if !site.place.in_memory() {
        eprintln!("bench: /dev/shm is not in memory here; the disk of {} is measured too", site.place.name());
    }
    for row in ROWS.iter().filter(|row| row.is_asked_for(&args.only)) {
        match measure(row, &site, &args) {
            // The others are worth having, unless this is the very one that was asked for.
            Err(error) if (error.is::<NoRoom>() || error.is::<NotInstalled>()) && args.only.is_empty() => {
                eprintln!("bench: {} is left out: {error:#}", row.name);
                site.place.fresh("in")?;
            }
            result => result.with_context(|| format!("row {}", row.name))?,
        }
    }
    if args.write { page::write() } else { Ok(()) }
}

fn known(only: &[String]) -> Result<()> {
    match only.iter().find(|name| ROWS.iter().all(|row| row.name != name.as_str())) {
        Some(unknown) => bail!("there is no row `{unknown}`; `scripts/bench --list` names them"),
        None => Ok(()),
    }
}

fn measure(row: &Row, site: &Site, args: &Args) -> Result<()> {
    let load = machine::load()?;
    let measured_at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    eprintln!("bench: {} …", row.name);
    let Findings { title, table, commands, verdicts, notes, samples } = row.measure(site, args)?;
    let record = Record {
        row: row.name.into(),
        title,
        measured_at,
        archiver: machine::archiver(),
        machine: Machine::here()?,
        load,
        floor: process::own_peak()?,
        table,
        commands,
        verdicts,
        notes,
        samples,
    };
    println!("## {}: {}\n\n{record}", row.name, record.title);
    let part = args.quick || args.peers.is_some() || args.archiver.is_some() || args.against.is_some();
    let standing = if part { Standing::Trial } else { Standing::Whole };
    eprintln!("bench: {} is in {}", row.name, record.save(standing)?.display());
    site.place.fresh("in")?;
    Ok(())
}
