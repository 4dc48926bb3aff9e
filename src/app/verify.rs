//! `verify`: each destination is audited, and what was found is told.

use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::Utc;

use super::failed;
use super::inspect::{ledger_name, open_view, print_text, unreadable};
use crate::cli::VerifyArgs;
use crate::config::Resolved;
use crate::config::settings::{AnswerFormat, DestinationSettings, Settings};
use crate::destination::DestinationError;
use crate::destination::sftp::{Connector, OutagePolicy, Pool, PoolConfig, Timeouts};
use crate::domain::Verify;
use crate::exit::Exit;
use crate::inspect::findings::{self, Audited};
use crate::inspect::verify::{Audit, AuditError, Depth, Progress, root};
use crate::report::{Console, Surface};

const TOLD_EVERY: Duration = Duration::from_millis(200);

pub async fn run(resolved: Resolved, args: Box<VerifyArgs>, console: Console) -> Exit {
    let settings = &resolved.settings;
    let started_at = Utc::now();
    let view = match open_view(settings) {
        Ok(view) => view,
        Err(error) => return unreadable(&console, &error),
    };
    let mut audited = Vec::new();
    let mut check = "size";
    for destination in &settings.destinations {
        let root = match root(&destination.url.base, &args.prefix) {
            Ok(root) => root,
            Err(mistake) => return failed(&console, "the prefix cannot be used", &mistake, None, Exit::Usage),
        };
        let depth = match destination.verify {
            Verify::Readback => Depth::Content,
            Verify::Size | Verify::None => Depth::Size,
        };
        if depth == Depth::Content {
            check = "readback";
        }
        let pool = match pool(destination, settings) {
            Ok(pool) => pool,
            Err(error) => return lost(&console, &error),
        };
        let (name, progress) = (destination.url.to_string(), Progress::default());
        let audit = Audit {
            view: &*view,
            pool: &pool,
            destination: name.clone(),
            root: root.clone(),
            depth,
            attempts: settings.retry.max_attempts,
            progress: &progress,
        };
        let told = console.told_while(TOLD_EVERY, || {
            let (checked, listed) = (&progress.checked, &progress.listed);
            format!("{} checked, {} listed", checked.load(Ordering::Relaxed), listed.load(Ordering::Relaxed))
        });
        let result = tokio::select! {
            result = audit.run() => result,
            never = told => match never {},
        };
        pool.close().await;
        match result {
            Ok(findings) => audited.push(Audited { destination: name, root, findings }),
            Err(AuditError::Ledger(error)) => return unreadable(&console, &error),
            Err(AuditError::Destination(error)) => return lost(&console, &error),
        }
    }
    if audited.iter().all(|audited| audited.findings.is_nowhere()) {
        let what = format!("nothing is known below {}", audited.first().map_or("", |audited| &audited.root));
        let why = "neither the ledger nor the server has anything there";
        return failed(&console, &what, why, Some("give what follows the base, such as 2026/11/21"), Exit::Usage);
    }
    let text = match args.format {
        AnswerFormat::Table => findings::text(&audited, Surface::stdout()),
        AnswerFormat::Json => findings::json(&audited, &ledger_name(settings), check, started_at, Utc::now()),
    };
    let differs = audited.iter().any(|audited| audited.findings.differences() > 0);
    let printed = print_text(&text);
    if printed == Exit::Done && differs { Exit::SomeFailed } else { printed }
}

fn lost(console: &Console, error: &DestinationError) -> Exit {
    failed(console, &error.what, &error.why, error.hint.as_deref(), Exit::Destination)
}

fn pool(destination: &DestinationSettings, settings: &Settings) -> Result<Pool, DestinationError> {
    let connector = Connector::new(destination, Timeouts::from(&settings.pool))?;
    let config = PoolConfig {
        connections: settings.pool.connections,
        backoff: settings.retry.backoff,
        outage: OutagePolicy::GiveUpAfter(settings.retry.max_attempts),
        ..PoolConfig::default()
    };
    Ok(Pool::new(connector, config))
}
