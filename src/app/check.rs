//! `check`: run the probes, show them, and turn them into an exit code.

use std::io::{self, Write};
use std::time::Instant;

use chrono::Utc;

use super::failed;
use crate::check::report::{Live, Report};
use crate::config::Resolved;
use crate::config::settings::SummaryFormat;
use crate::exit::Exit;
use crate::report::summary::write_text_file;
use crate::report::{Console, Surface};
use crate::shutdown::Shutdown;

pub async fn run(resolved: Resolved, console: Console) -> Exit {
    let (started_at, began) = (Utc::now(), Instant::now());
    let shutdown = Shutdown::new();
    let listener = match shutdown.listen() {
        Ok(listener) => listener,
        Err(error) => return failed(&console, "signals cannot be handled", &error.to_string(), None, Exit::Usage),
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
    drop(listener);
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
