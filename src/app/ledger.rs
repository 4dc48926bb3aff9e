//! `ledger export` and `ledger import`: a ledger as a file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;

use super::archive::open_ledger;
use super::failed;
use super::inspect::{ledger_name, open_view, print_text, unreadable};
use crate::cli::ledger::{ExportArgs, ImportArgs, LedgerCommand};
use crate::config::Resolved;
use crate::domain::display;
use crate::exit::Exit;
use crate::inspect::moving::{self, Counts, ExportError, ImportError, ReadError, Source, Stillness};
use crate::ledger::{LedgerError, Life, Member};
use crate::report::summary::SummaryFile;
use crate::report::{Console, human};

const TOLD_EVERY: Duration = Duration::from_millis(200);
const A_CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub async fn run(resolved: Resolved, command: LedgerCommand, console: Console) -> Exit {
    match command {
        LedgerCommand::Export(args) => export(&resolved, &args, &console).await,
        LedgerCommand::Import(args) => import(&resolved, &args, &console).await,
    }
}

async fn export(resolved: &Resolved, args: &ExportArgs, console: &Console) -> Exit {
    let view = match open_view(&resolved.settings).await {
        Ok(view) => view,
        Err(error) => return unreadable(console, &error),
    };
    let stillness = if args.live { Stillness::NotWanted } else { Stillness::Wanted };
    let written = AtomicU64::new(0);
    let told = console.told_while(TOLD_EVERY, || told_of("exported", written.load(Ordering::Relaxed)));
    let exporting = async {
        let Some(path) = &args.output else {
            let mut out = BufWriter::new(io::stdout());
            return moving::export(&*view, &mut out, Utc::now(), stillness, &written).await;
        };
        let mut out = SummaryFile::create_private(path).map_err(ExportError::Write)?;
        moving::export(&*view, &mut out, Utc::now(), stillness, &written).await?;
        out.publish().map_err(ExportError::Write)
    };
    let exported = tokio::select! {
        exported = exporting => exported,
        never = told => match never {},
    };
    let hint = match exported {
        Ok(()) => {
            console.line(&told_of("exported", written.load(Ordering::Relaxed)));
            return Exit::Done;
        }
        Err(ExportError::Ledger(error)) => return unreadable(console, &error),
        Err(ExportError::Write(error)) => {
            let name = args.output.as_deref().map_or("standard output".into(), |path| display::path(path).to_string());
            return failed(console, &format!("{name} cannot be written"), &error.to_string(), None, Exit::SomeFailed);
        }
        Err(ExportError::Live(members)) => {
            for member in &members {
                console.line(&format!("  {}", at_work(member)));
            }
            "stop them and run this again; one that was killed counts until its lease is over; for a backup beside them: --live"
        }
        Err(ExportError::Changed) => {
            "somebody worked with it while it was written; stop all archivers and run this again"
        }
    };
    failed(console, "the ledger cannot be moved", "archivers are at work on it", Some(hint), Exit::Usage)
}

fn told_of(what: &str, entries: u64) -> String {
    format!("{} {} {what}", human::count(entries), if entries == 1 { "entry" } else { "entries" })
}

fn at_work(Member { hostname, pid, life, .. }: &Member) -> String {
    let lease = match life {
        Life::Live { lease_left } | Life::Ended { lease_left } => {
            format!("its lease has {} left", human::estimate(*lease_left))
        }
        Life::Hung { for_so_long } | Life::Lapsed { for_so_long } => {
            format!("it is alive, and its lease ran out {} ago", human::estimate(*for_so_long))
        }
    };
    format!("pid {pid} on {}: {lease}", display::escaped(hostname))
}

/// Standard input, or a file, of which it is known whether it can be read twice.
fn open(path: &Path) -> io::Result<(Box<dyn BufRead + Send>, bool)> {
    if path == Path::new("-") {
        return Ok((Box::new(BufReader::new(io::stdin())), false));
    }
    let file = File::open(path)?;
    let is_regular = file.metadata()?.is_file();
    Ok((Box::new(BufReader::with_capacity(1 << 16, file)), is_regular))
}

/// Why nothing more is imported.
enum Unimported {
    Ledger(LedgerError),
    Read(ReadError),
}

impl From<ImportError> for Unimported {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Ledger(error) => Self::Ledger(error),
            ImportError::Read(error) => Self::Read(error),
        }
    }
}

async fn import(resolved: &Resolved, args: &ImportArgs, console: &Console) -> Exit {
    let (checked, counts) = (Arc::new(AtomicU64::new(0)), Mutex::new(Counts::default()));
    let so_far = || *counts.lock().unwrap_or_else(PoisonError::into_inner);
    let told = console.told_while(TOLD_EVERY, || match so_far().all() {
        0 => told_of("checked", checked.load(Ordering::Relaxed)),
        entries => told_of("imported", entries),
    });
    let imported = tokio::select! {
        imported = take_in(resolved, args, &checked, &counts) => imported,
        never = told => match never {},
    };
    let counts = so_far();
    let name = || match args.file.as_path() {
        path if path == Path::new("-") => "standard input".to_owned(),
        path => display::path(path).to_string(),
    };
    let so_far = told_of("imported", counts.all());
    let (far, hint) = match counts.all() {
        0 => ("nothing was imported", None),
        _ => (so_far.as_str(), Some("run this again with the whole file: what is there already stays as it is")),
    };
    let stopped = |what: &str, why: &str| failed(console, what, &format!("{why}; {far}"), hint, Exit::Usage);
    match imported {
        Ok(()) if args.dry_run => print_text(&format!(
            "{}: the file is whole; nothing was changed\n",
            told_of("checked", checked.load(Ordering::Relaxed))
        )),
        Ok(()) => print_text(&conclusion(&counts, &ledger_name(&resolved.settings))),
        Err(Unimported::Ledger(error)) => stopped("the ledger cannot be used", &error.to_string()),
        Err(Unimported::Read(ReadError::Io(error))) => {
            stopped(&format!("{} cannot be read", name()), &error.to_string())
        }
        Err(Unimported::Read(ReadError::Mistake(mistake))) => {
            let why = display::escaped(&mistake.to_string()).to_string();
            stopped(&format!("{} cannot be imported", name()), &why)
        }
    }
}

async fn take_in(
    resolved: &Resolved,
    args: &ImportArgs,
    checked: &Arc<AtomicU64>,
    counts: &Mutex<Counts>,
) -> Result<(), Unimported> {
    let path = args.file.clone();
    let (checked, dry_run) = (checked.clone(), args.dry_run);
    // A pipe may be slow, and so may a disk.
    let opening = tokio::task::spawn_blocking(move || {
        let (mut input, is_regular) = open(&path).map_err(ReadError::Io)?;
        if is_regular || dry_run {
            Source::open(input)?.check(&checked)?;
            if dry_run {
                return Ok(None);
            }
            (input, _) = open(&path).map_err(ReadError::Io)?;
        }
        Source::open(input)?.begin().map(Some)
    });
    let opened = opening.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    let Some(source) = opened.map_err(Unimported::Read)? else { return Ok(()) };
    let mut settings = resolved.settings.clone();
    // The local files may be another host's: none of their records is forgotten for being gone here.
    settings.ledger.retention = A_CENTURY;
    let ledger = open_ledger(&settings).await.map_err(Unimported::Ledger)?;
    let imported = moving::import(&*ledger, source, counts).await;
    // Whatever became of it, nobody has to wait for a lease of ours.
    let finished = ledger.finish().await;
    imported?;
    finished.map_err(Unimported::Ledger)
}

fn conclusion(counts: &Counts, ledger: &str) -> String {
    let mut parts = vec![format!("{} added", human::count(counts.added))];
    for (count, what) in [
        (counts.completed, "completed"),
        (counts.known, "there already"),
        (counts.kept, "kept as they were, although the file says otherwise"),
    ] {
        if count > 0 {
            parts.push(format!("{} {what}", human::count(count)));
        }
    }
    format!("{} into {}: {}\n", told_of("imported", counts.all()), display::escaped(ledger), parts.join(", "))
}
