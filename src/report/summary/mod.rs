//! The summary: what became of every candidate, as a table for people, or as JSON or CSV for programs.
//!
//! Rows are asked for page by page while the summary is written, so memory does not grow with their number.
//!
//! Paths in JSON and CSV are verbatim where they are UTF-8. A path that is not is written the way it is named on the
//! server ([`crate::domain::name`]: `%XX` for each foreign byte, and `%25` for a `%` that would read as such an escape);
//! JSON then has the key `path_bytes` too, with the exact bytes in lower-case hexadecimal.

mod csv;
mod file;
mod json;
mod table;

pub use file::SummaryFile;

use std::fmt;
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::console::{Colour, Stream};
use crate::config::settings::{SummaryFormat, SummaryRows};
use crate::domain::{Row, Status, Totals, name};

/// What stands around the rows.
#[derive(Debug, Clone)]
pub struct SummaryHeader {
    pub started_at: DateTime<Utc>,
    pub finished_at: DateTime<Utc>,
    /// The canonical URLs of all destinations of the run.
    pub destinations: Vec<String>,
    pub totals: Totals,
    /// From a monotonic clock, so not always the difference of the two times.
    pub elapsed: Duration,
}

/// Which rows a page is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowSet {
    /// All, in the order in which they came to be known.
    All,
    Only(Status),
}

/// A summary, ready to be written.
#[derive(Debug, Clone)]
pub struct Summary {
    pub header: SummaryHeader,
    pub format: SummaryFormat,
    /// Of the table only; JSON and CSV hold every row.
    pub rows: SummaryRows,
}

/// Where a summary goes: what a table may look like there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surface {
    /// Columns; `None` for as many as it takes.
    pub columns: Option<u16>,
    pub colour: Colour,
}

impl Surface {
    /// A file or a pipe.
    pub const PLAIN: Self = Self { columns: None, colour: Colour::Plain };

    /// Standard output, as it is now.
    pub fn stdout() -> Self {
        let stdout = io::stdout();
        if !stdout.is_terminal() {
            return Self::PLAIN;
        }
        let columns =
            rustix::termios::tcgetwinsize(&stdout).ok().map(|size| size.ws_col).filter(|columns| *columns > 0);
        Self { columns, colour: Colour::decide(Stream::of(&stdout), std::env::var_os("NO_COLOR").as_deref()) }
    }
}

/// Why a summary could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SummaryError {
    #[error("writing the summary: {0}")]
    Write(#[from] io::Error),
    #[error("writing the summary file {}: {source}", crate::domain::display::path(.path))]
    File { path: PathBuf, source: io::Error },
    #[error("reading the rows of the summary: {0}")]
    Rows(String),
}

impl SummaryError {
    /// Whether the reader went away (`archiver push … | head`), which is no fault of the run.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Write(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl Summary {
    /// Writes the summary to `out` and flushes it.
    ///
    /// `page(rows, after)` gives the next rows of a listing and the position behind them; a listing starts after 0
    /// and is over with the first empty page.
    pub async fn write<Page, Pending, E>(
        &self,
        out: &mut (dyn Write + Send),
        surface: Surface,
        page: Page,
    ) -> Result<(), SummaryError>
    where
        Page: FnMut(RowSet, i64) -> Pending,
        Pending: Future<Output = Result<(Vec<Row>, i64), E>>,
        E: fmt::Display,
    {
        let mut pages = Pages(page);
        // Standard output would make a system call for each line.
        let out = &mut io::BufWriter::new(out);
        match self.format {
            SummaryFormat::Table => table::write(out, surface, &self.header, self.rows, &mut pages).await?,
            SummaryFormat::Json => json::write(out, &self.header, &mut pages).await?,
            SummaryFormat::Csv => csv::write(out, &mut pages).await?,
            SummaryFormat::None => {}
        }
        Ok(out.flush()?)
    }

    /// Writes the summary to a file, which appears (or is replaced) complete or not at all. What is no regular file,
    /// such as a named pipe or `/dev/stderr`, is written to directly.
    pub async fn write_file<Page, Pending, E>(&self, path: &Path, page: Page) -> Result<(), SummaryError>
    where
        Page: FnMut(RowSet, i64) -> Pending,
        Pending: Future<Output = Result<(Vec<Row>, i64), E>>,
        E: fmt::Display,
    {
        let failed = |source| SummaryError::File { path: path.to_owned(), source };
        let mut file = file::SummaryFile::create(path).map_err(failed)?;
        match self.write(&mut file, Surface::PLAIN, page).await {
            Ok(()) => file.publish().map_err(failed),
            Err(SummaryError::Write(source)) => Err(failed(source)),
            Err(other) => Err(other),
        }
    }
}

/// Writes a text to a file as [`Summary::write_file`] does: it appears complete or not at all.
pub fn write_text_file(path: &Path, text: &str) -> Result<(), SummaryError> {
    let failed = |source| SummaryError::File { path: path.to_owned(), source };
    let mut file = file::SummaryFile::create(path).map_err(failed)?;
    io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)?;
    file.publish().map_err(failed)
}

/// Rows on demand.
struct Pages<Page>(Page);

impl<Page, Pending, E> Pages<Page>
where
    Page: FnMut(RowSet, i64) -> Pending,
    Pending: Future<Output = Result<(Vec<Row>, i64), E>>,
    E: fmt::Display,
{
    /// The page after `after`, which then stands behind it; empty at the end.
    async fn next(&mut self, rows: RowSet, after: &mut i64) -> Result<Vec<Row>, SummaryError> {
        let (page, behind) = (self.0)(rows, *after).await.map_err(|error| SummaryError::Rows(error.to_string()))?;
        *after = behind;
        Ok(page)
    }
}

/// A row's path for programs, and whether it is verbatim.
fn path_text(path: &Path) -> (String, Verbatim) {
    match path.to_str() {
        Some(text) => (text.to_owned(), Verbatim::Yes),
        None => (name::escape(path.as_os_str()), Verbatim::Escaped),
    }
}

/// A path for other documents: as text, and its exact bytes where it is not UTF-8.
pub fn path_for_programs(path: &Path) -> (String, Option<String>) {
    let (text, verbatim) = path_text(path);
    (text, (verbatim == Verbatim::Escaped).then(|| hexadecimal(path)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verbatim {
    Yes,
    Escaped,
}

/// Seconds to the millisecond.
fn seconds(elapsed: Duration) -> f64 {
    (elapsed.as_secs_f64() * 1000.0).round() / 1000.0
}

fn hexadecimal(path: &Path) -> String {
    path.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
