//! The summary as CSV (RFC 4180): a header, then one record a row. Unknown values are empty.
//!
//! CSV has no escapes of its own, and people look at it on terminals: control characters of names are shown as the table
//! shows them. Who needs exact names reads JSON.

use std::fmt;
use std::future::Future;
use std::io::Write;

use super::{Pages, RowSet, SummaryError, path_text, seconds};
use crate::domain::Row;
use crate::domain::display::escaped;

const HEADER: [&str; 9] = ["source", "path", "remote", "bytes", "sha256", "status", "reason", "attempts", "seconds"];

pub(super) async fn write<Page, Pending, E>(
    out: &mut (dyn Write + Send),
    pages: &mut Pages<Page>,
) -> Result<(), SummaryError>
where
    Page: FnMut(RowSet, i64) -> Pending,
    Pending: Future<Output = Result<(Vec<Row>, i64), E>>,
    E: fmt::Display,
{
    let mut records = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(out);
    records.write_record(HEADER).map_err(io_error)?;
    let mut after = 0;
    loop {
        let rows = pages.next(RowSet::All, &mut after).await?;
        if rows.is_empty() {
            return Ok(records.flush()?);
        }
        for row in &rows {
            records.write_record(record(row)).map_err(io_error)?;
        }
    }
}

fn record(row: &Row) -> [String; HEADER.len()] {
    [
        shown(&row.source),
        shown(&path_text(&row.path).0),
        row.remote.as_deref().map(shown).unwrap_or_default(),
        row.bytes.to_string(),
        row.sha256.map(|digest| digest.to_string()).unwrap_or_default(),
        row.status.to_string(),
        row.reason.as_deref().map(shown).unwrap_or_default(),
        row.attempts.to_string(),
        seconds(row.elapsed).to_string(),
    ]
}

fn shown(text: &str) -> String {
    escaped(text).to_string()
}

/// The only other errors are of records of unequal length.
fn io_error(error: csv::Error) -> SummaryError {
    SummaryError::Write(error.into())
}
