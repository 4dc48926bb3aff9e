//! The summary as one JSON document, written row by row.

use std::fmt;
use std::future::Future;
use std::io::Write;

use chrono::SecondsFormat;
use serde::Serialize;

use super::{Pages, RowSet, SummaryError, SummaryHeader, Verbatim, hexadecimal, path_text, seconds};
use crate::domain::display::inert;
use crate::domain::{Row, Status};

/// The version of the document's shape. New keys may appear in it; a change of meaning makes a new version.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Head<'a> {
    version: u32,
    started_at: String,
    finished_at: String,
    /// The destination, or null where there are several.
    destination: Option<&'a str>,
    /// Only where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    destinations: Option<&'a [String]>,
    totals: Totals,
}

#[derive(Serialize)]
struct Totals {
    archived: u64,
    skipped: u64,
    deferred: u64,
    failed: u64,
    bytes: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct File<'a> {
    source: &'a str,
    path: &'a str,
    remote: Option<&'a str>,
    bytes: u64,
    sha256: Option<String>,
    status: Status,
    reason: Option<&'a str>,
    attempts: u32,
    seconds: f64,
    /// The exact bytes of a path that is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
}

pub(super) async fn write<Page, Pending, E>(
    out: &mut (dyn Write + Send),
    header: &SummaryHeader,
    pages: &mut Pages<Page>,
) -> Result<(), SummaryError>
where
    Page: FnMut(RowSet, i64) -> Pending,
    Pending: Future<Output = Result<(Vec<Row>, i64), E>>,
    E: fmt::Display,
{
    let head = text(&head(header))?;
    // The head's object is left open, and the files become its last key.
    write!(out, "{},\"files\":[", inert(head.strip_suffix('}').unwrap_or(&head)))?;
    let (mut after, mut separator) = (0, "\n");
    loop {
        let rows = pages.next(RowSet::All, &mut after).await?;
        if rows.is_empty() {
            break;
        }
        for row in &rows {
            write!(out, "{separator}{}", inert(&file(row)?))?;
            separator = ",\n";
        }
    }
    writeln!(out, "\n]}}")?;
    Ok(())
}

fn text(value: &impl Serialize) -> Result<String, SummaryError> {
    serde_json::to_string(value).map_err(|error| SummaryError::Write(error.into()))
}

fn head(header: &SummaryHeader) -> Head<'_> {
    let (destination, destinations) = match header.destinations.as_slice() {
        [one] => (Some(one.as_str()), None),
        [] => (None, None),
        several => (None, Some(several)),
    };
    let totals = header.totals;
    Head {
        version: VERSION,
        started_at: header.started_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        finished_at: header.finished_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        destination,
        destinations,
        totals: Totals {
            archived: totals.archived,
            skipped: totals.skipped,
            deferred: totals.deferred,
            failed: totals.failed,
            bytes: totals.bytes,
            seconds: seconds(header.elapsed),
        },
    }
}

fn file(row: &Row) -> Result<String, SummaryError> {
    let (path, verbatim) = path_text(&row.path);
    text(&File {
        source: &row.source,
        path: &path,
        remote: row.remote.as_deref(),
        bytes: row.bytes,
        sha256: row.sha256.map(|digest| digest.to_string()),
        status: row.status,
        reason: row.reason.as_deref(),
        attempts: row.attempts,
        seconds: seconds(row.elapsed),
        path_bytes: (verbatim == Verbatim::Escaped).then(|| hexadecimal(&row.path)),
    })
}
