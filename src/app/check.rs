//! `check`: run the probes, show them, and turn them into an exit code.

use std::io::{self, Write};
use std::time::Instant;

use chrono::Utc;

use super::wishes::Wishes;
use super::{failed, settings};
use crate::check::report::{Live, Report};
use crate::config::Typed;
use crate::config::settings::SummaryFormat;
use crate::exit::Exit;
use crate::report::Surface;
use crate::report::summary::write_text_file;
use crate::shutdown::Shutdown;
use crate::signals::Signals;

pub async fn run(typed: Typed, signals: Signals) -> Exit {
    let (started_at, began) = (Utc::now(), Instant::now());
    let shutdown = Shutdown::new();
    tokio::spawn(Wishes::default().follow(signals, shutdown.clone()));
    let resolved = tokio::select! {
        resolved = settings(&typed) => resolved,
        () = shutdown.now().cancelled() => return Exit::Interrupted,
    };
    let (resolved, console) = match resolved {
        Ok(resolved) => resolved,
        Err(unsettled) => return unsettled.tell(),
    };
    let settings = &resolved.settings;
    let output = &settings.output;
    let live = match (output.summary, &output.summary_file) {
        (SummaryFormat::Table, None) => Some(Live { out: Box::new(io::stdout()), colour: Surface::stdout().colour }),
        _ => None,
    };
    let shown_live = live.is_some();
    let destinations = settings.destinations.iter().map(|destination| destination.url.to_string()).collect();
    let mut report = Report::new(destinations, live);
    let exit = crate::check::run(settings, resolved.file.as_deref(), rand::random, &mut report, &shutdown).await;
    report.conclude(began.elapsed());
    if shown_live {
        return exit;
    }
    let text = report.document(output.summary, started_at, Utc::now());
    let written = match &output.summary_file {
        Some(path) => write_text_file(path, &text).map_err(|error| error.to_string()),
        None => match io::stdout().write_all(text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
            _ => Ok(()),
        },
    };
    match written {
        Ok(()) => exit,
        Err(why) => {
            let exit = if exit == Exit::Done { Exit::SomeFailed } else { exit };
            failed(&console, "the report cannot be written", &why, None, exit)
        }
    }
}
