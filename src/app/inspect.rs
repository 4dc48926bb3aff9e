//! `status` and `retry`: asked of the ledger, beside whoever works with it.

use std::sync::Arc;

use chrono::Utc;

use super::archive::open_ledger;
use super::{failed, print};
use crate::cli::{RetryArgs, StatusArgs};
use crate::config::Resolved;
use crate::config::settings::{AnswerFormat, LedgerLocation, Settings};
use crate::domain::{AfterFailure, OwnerId, display};
use crate::exit::Exit;
use crate::inspect::capacity::{Flow, History};
use crate::inspect::census::Census;
use crate::inspect::census_report::{self, About, Told, noun};
use crate::inspect::replicas::replicas;
use crate::inspect::retry::{Standing, Wanted, standing, why_left};
use crate::inspect::{capacity_report, each_entry};
use crate::ledger::{
    Cursor, EntryFilter, EntryInfo, EntryState, Ledger, LedgerError, LedgerView, RedisConfig, RedisView, SqliteView,
};
use crate::report::{Console, Surface, human};

/// Failed files that are named: in passing, and where they are asked for.
const SOME_FAILED: usize = 5;
const ALL_FAILED: usize = 10_000;
/// Entries put back together.
const PUT_BACK: usize = 500;

/// A view of the ledger that the settings name.
pub(super) async fn open_view(settings: &Settings) -> Result<Arc<dyn LedgerView>, LedgerError> {
    let (retention, lease) = (settings.ledger.retention, settings.ledger.lease);
    Ok(match &settings.ledger.location {
        LedgerLocation::File(path) => Arc::new(SqliteView::open(path, Arc::new(Utc::now))?),
        LedgerLocation::Redis(settings) => {
            let (settings, owner) = (settings.clone(), OwnerId(rand::random()));
            Arc::new(RedisView::open(RedisConfig { settings, retention, lease, owner }).await?)
        }
    })
}

/// Where the ledger is, for people and programs.
pub(super) fn ledger_name(settings: &Settings) -> String {
    match &settings.ledger.location {
        LedgerLocation::File(path) => {
            std::path::absolute(path).unwrap_or_else(|_| path.clone()).to_string_lossy().into_owned()
        }
        LedgerLocation::Redis(settings) => settings.url.to_string(),
    }
}

pub(super) fn unreadable(console: &Console, error: &LedgerError) -> Exit {
    failed(console, "the ledger cannot be read", &error.to_string(), None, Exit::Usage)
}

pub async fn status(resolved: Resolved, args: StatusArgs, console: Console) -> Exit {
    let answer = if args.capacity { capacity(&resolved, &args).await } else { census(&resolved, &args).await };
    match answer {
        Ok(text) => print_text(&text),
        Err(error) => unreadable(&console, &error),
    }
}

async fn census(resolved: &Resolved, args: &StatusArgs) -> Result<String, LedgerError> {
    let view = open_view(&resolved.settings).await?;
    let told = if args.failed { Told::Failed } else { Told::All };
    let (keep, filter) = match (told, args.format) {
        (Told::Failed, _) => (ALL_FAILED, EntryFilter::Failed),
        (Told::All, AnswerFormat::Table) => (SOME_FAILED, EntryFilter::All),
        (Told::All, AnswerFormat::Json) => (ALL_FAILED, EntryFilter::All),
    };
    let mut census = Census::new(keep);
    each_entry(&*view, filter, |entry| census.add(entry)).await?;
    let ledger = ledger_name(&resolved.settings);
    let replicas = replicas(&census, &view.outline().await?.members);
    let about = About { ledger: &ledger, now: Utc::now(), told, replicas: &replicas };
    Ok(match args.format {
        AnswerFormat::Table => census_report::text(&census, &about, Surface::stdout()),
        AnswerFormat::Json => census_report::json(&census, &about),
    })
}

async fn capacity(resolved: &Resolved, args: &StatusArgs) -> Result<String, LedgerError> {
    let view = open_view(&resolved.settings).await?;
    let (now, window) = (Utc::now(), args.window);
    let since = window.and_then(|window| now.checked_sub_signed(chrono::Duration::from_std(window).ok()?));
    let (mut history, mut backlog) = (History::new(since), Flow::default());
    let count = |entry: EntryInfo| {
        let bytes = entry.key.fingerprint.size;
        if let Some(record) = &entry.record {
            history.add(record.recorded_at, bytes);
        }
        if matches!(entry.state, EntryState::Held { .. } | EntryState::Waiting { .. }) {
            backlog += Flow::of(bytes);
        }
    };
    each_entry(&*view, EntryFilter::All, count).await?;
    let capacity = history.capacity(now, backlog, args.outage);
    let ledger = ledger_name(&resolved.settings);
    Ok(match args.format {
        AnswerFormat::Table => capacity_report::text(capacity.as_ref(), &ledger, window, backlog, Surface::stdout()),
        AnswerFormat::Json => capacity_report::json(capacity.as_ref(), &ledger, now, window),
    })
}

pub async fn retry(resolved: Resolved, args: RetryArgs, console: Console) -> Exit {
    let settings = &resolved.settings;
    let mut wanted = match Wanted::new(&args.patterns) {
        Ok(wanted) => wanted,
        Err(mistakes) => {
            for mistake in mistakes {
                failed(&console, "a pattern cannot be used", &mistake, None, Exit::Usage);
            }
            return Exit::Usage;
        }
    };
    let view = match open_view(settings).await {
        Ok(view) => view,
        Err(error) => return unreadable(&console, &error),
    };
    let mut task = Retrying { settings, args: &args, ledger: None, put_back: Flow::default(), left: 0 };
    let mut after = Cursor::default();
    loop {
        let (page, next) = match view.entries(EntryFilter::Failed, after, PUT_BACK).await {
            Ok(page) => page,
            Err(error) => return unreadable(&console, &error),
        };
        let last = page.len() < PUT_BACK;
        after = next;
        let lines = match task.put_back(page.into_iter().filter(|entry| wanted.means(entry)).collect()).await {
            Ok(lines) => lines,
            Err(error) => {
                return failed(&console, "the ledger cannot be used", &error.to_string(), None, Exit::Usage);
            }
        };
        if print_text(&lines) != Exit::Done {
            return Exit::SomeFailed;
        }
        if last {
            break;
        }
    }
    if let Some(ledger) = task.ledger.take()
        && let Err(error) = ledger.finish().await
    {
        tracing::warn!(%error, "the ledger could not be closed in order; the next run tidies up");
    }
    let printed = print_text(&task.conclusion());
    let unmatched: Vec<_> = wanted.unmatched().collect();
    for pattern in &unmatched {
        console.line(&format!("error: no failed file matches `{}`", display::escaped(pattern)));
    }
    match printed {
        Exit::Done if !unmatched.is_empty() || task.left > 0 => Exit::SomeFailed,
        printed => printed,
    }
}

/// Failed files on their way back into the queue.
struct Retrying<'a> {
    settings: &'a Settings,
    args: &'a RetryArgs,
    /// Opened once there is something to put back: as an owner like any other.
    ledger: Option<Arc<dyn Ledger>>,
    put_back: Flow,
    left: u64,
}

impl Retrying<'_> {
    /// Puts entries back, and says which.
    async fn put_back(&mut self, meant: Vec<EntryInfo>) -> Result<String, LedgerError> {
        let looked = tokio::task::spawn_blocking(move || {
            meant.into_iter().map(|entry| (standing(&entry.local_path, &entry.key), entry)).collect::<Vec<_>>()
        });
        let looked = looked.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        let (ready, others): (Vec<_>, Vec<_>) =
            looked.into_iter().partition(|(standing, _)| *standing == Standing::Unchanged);
        let mut lines: String = others.iter().map(|(standing, entry)| self.leave(entry, standing)).collect();
        if ready.is_empty() {
            return Ok(lines);
        }
        if self.args.dry_run {
            lines.extend(ready.iter().map(|(_, entry)| self.done(entry, "would go")));
            return Ok(lines);
        }
        let ledger = match &self.ledger {
            Some(ledger) => ledger.clone(),
            None => self.ledger.insert(open_ledger(self.settings).await?).clone(),
        };
        let changed = ledger.retry(ready.iter().map(|(_, entry)| entry.key.clone()).collect()).await?;
        for ((standing, entry), changed) in ready.iter().zip(changed) {
            lines.push_str(&if changed { self.done(entry, "put back") } else { self.leave(entry, standing) });
        }
        Ok(lines)
    }

    fn done(&mut self, entry: &EntryInfo, what: &str) -> String {
        self.put_back += Flow::of(entry.key.fingerprint.size);
        let reason = match &entry.state {
            EntryState::Failed { reason, .. } => reason,
            _ => "",
        };
        line(what, entry, &format!("it had failed: {reason}"))
    }

    fn leave(&mut self, entry: &EntryInfo, standing: &Standing) -> String {
        self.left += 1;
        let quarantine = self.settings.sources.iter().find_map(|source| match &source.after_failure {
            AfterFailure::Move(directory) if *source.name == *entry.key.source => Some(directory),
            _ => None,
        });
        line("left", entry, &why_left(standing, quarantine))
    }

    fn conclusion(&self) -> String {
        let (done, then) = match self.args.dry_run {
            true => ("would go back into the queue", "nothing was changed"),
            false => (
                "back in the queue",
                "a running `watch` takes up what is there within half a minute, `push` when it is run again",
            ),
        };
        let left = match self.left {
            0 => String::new(),
            left => format!(", {} left as they are", human::count(left)),
        };
        match (self.put_back.files, self.left) {
            (0, 0) if self.args.all => "Nothing has failed.\n".into(),
            (0, 0) => String::new(),
            (0, _) => format!("no file {done}{left}\n"),
            (files, _) => format!("{} ({}) {done}{left}; {then}\n", noun(files), human::bytes(self.put_back.bytes)),
        }
    }
}

fn line(what: &str, entry: &EntryInfo, why: &str) -> String {
    format!("{what:<8}  {}\n  └ {}\n", display::path(&entry.local_path), display::escaped(why))
}

pub(super) fn print_text(text: &str) -> Exit {
    print(|out| {
        out.extend_from_slice(text.as_bytes());
        Ok(())
    })
}
