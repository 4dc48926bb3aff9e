//! The summary as a table. A row is one line, and its reason another line below it, so that a reason has the whole
//! width. Where there are more rows than the limit, those that need a person come first.

use std::fmt;
use std::future::Future;
use std::io::Write;

use super::{Pages, RowSet, SummaryError, SummaryHeader, Surface};
use crate::config::settings::SummaryRows;
use crate::domain::{Row, Status, Totals, display};
use crate::report::human;

const HEADER: [&str; 6] = ["file", "size", "remote path", "status", "tries", "time"];
const FILE: usize = 0;
const REMOTE: usize = 2;
/// The order of the rows where not all are shown.
const BY_URGENCY: [Status; 4] = [Status::Failed, Status::Deferred, Status::Archived, Status::Skipped];
/// Rows that are aligned with each other: so many are held in memory at once.
const ALIGNED: usize = 1000;
/// What a path keeps on the narrowest terminal.
const NARROWEST: usize = 12;
/// Where lines may be of any length, what is longer stands out of its column, whole, and does not widen it.
const WIDEST: usize = 80;

pub(super) async fn write<Page, Pending, E>(
    out: &mut (dyn Write + Send),
    surface: Surface,
    header: &SummaryHeader,
    limit: SummaryRows,
    pages: &mut Pages<Page>,
) -> Result<(), SummaryError>
where
    Page: FnMut(RowSet, i64) -> Pending,
    Pending: Future<Output = Result<(Vec<Row>, i64), E>>,
    E: fmt::Display,
{
    let limit = match limit {
        SummaryRows::All => u64::MAX,
        SummaryRows::Limit(rows) => rows as u64,
    };
    let sets: &[RowSet] = if header.totals.files() <= limit { &[RowSet::All] } else { &BY_URGENCY.map(RowSet::Only) };
    let mut aligned = Vec::new();
    let mut shown = Totals::default();
    for set in sets {
        let mut after = 0;
        while shown.files() < limit {
            let page = pages.next(*set, &mut after).await?;
            if page.is_empty() {
                break;
            }
            for row in page.into_iter().take((limit - shown.files()).try_into().unwrap_or(usize::MAX)) {
                shown.add(row.status, row.bytes);
                aligned.push(row);
                if aligned.len() == ALIGNED {
                    write_rows(out, surface, &aligned)?;
                    aligned.clear();
                }
            }
        }
    }
    if !aligned.is_empty() {
        write_rows(out, surface, &aligned)?;
    }
    if shown.files() == 0 && header.totals.files() == 0 {
        writeln!(out, "No candidates were found.")?;
    }
    if let Some(text) = left_out(&header.totals, &shown) {
        writeln!(out, "{text}")?;
    }
    writeln!(out, "\n{}", totals_line(header))?;
    Ok(())
}

/// `archived 2 · skipped 0 · deferred 0 · failed 0 · 1.2 KiB in 0.12 s · 10.0 KiB/s`.
fn totals_line(header: &SummaryHeader) -> String {
    let totals = header.totals;
    let mut line = Status::ALL.map(|status| format!("{status} {}", human::count(count(&totals, status)))).join(" · ");
    line.push_str(&format!(" · {} in {}", human::bytes(totals.bytes), human::duration(header.elapsed)));
    if let Some(rate) = human::rate(totals.bytes, header.elapsed) {
        line.push_str(&format!(" · {rate}"));
    }
    line
}

fn count(totals: &Totals, status: Status) -> u64 {
    match status {
        Status::Archived => totals.archived,
        Status::Skipped => totals.skipped,
        Status::Deferred => totals.deferred,
        Status::Failed => totals.failed,
    }
}

/// What the table does not show, and how to see it.
fn left_out(all: &Totals, shown: &Totals) -> Option<String> {
    let missing = BY_URGENCY
        .map(|status| (status, count(all, status).saturating_sub(count(shown, status))))
        .into_iter()
        .filter(|(_, rows)| *rows > 0)
        .map(|(status, rows)| format!("{} {status}", human::count(rows)))
        .collect::<Vec<_>>();
    let rows = all.files().saturating_sub(shown.files());
    (rows > 0).then(|| {
        let noun = if rows == 1 { "row is" } else { "rows are" };
        let (rows, missing) = (human::count(rows), missing.join(", "));
        format!("… {rows} more {noun} left out ({missing}); --summary-rows all shows every one")
    })
}

fn write_rows(out: &mut (dyn Write + Send), surface: Surface, rows: &[Row]) -> Result<(), SummaryError> {
    let mut cells = rows.iter().map(cells).collect::<Vec<_>>();
    if let Some(columns) = surface.columns {
        for (label, directory) in fit(&mut cells, columns.into()) {
            writeln!(out, "{}", surface.colour.paint("2", &format!("{label} {directory}")))?;
        }
    }
    let widest = if surface.columns.is_some() { usize::MAX } else { WIDEST };
    let widths: [usize; HEADER.len()] = std::array::from_fn(|column| {
        let cells = cells.iter().map(|row| human::width(&row[column])).filter(|width| *width <= widest);
        cells.chain([human::width(HEADER[column])]).max().unwrap_or_default()
    });
    writeln!(out, "{}", surface.colour.paint("1", &aligned(HEADER, widths)))?;
    for (row, cells) in rows.iter().zip(&cells) {
        // Control characters are escaped, so a row is exactly one line.
        let line = aligned(cells.each_ref().map(String::as_str), widths);
        let paint = |text: &str| match row.status {
            Status::Archived => text.to_owned(),
            Status::Skipped => surface.colour.paint("2", text),
            Status::Deferred => surface.colour.paint("33", text),
            Status::Failed => surface.colour.paint("31", text),
        };
        writeln!(out, "{}", paint(&line))?;
        if let Some(reason) = &row.reason {
            writeln!(out, "{}", paint(&format!("  └ {}", display::escaped(reason))))?;
        }
    }
    Ok(())
}

/// A line of the table, two columns between neighbours.
fn aligned(cells: [&str; HEADER.len()], widths: [usize; HEADER.len()]) -> String {
    let mut line = String::new();
    for (column, (cell, width)) in cells.into_iter().zip(widths).enumerate() {
        let blank = " ".repeat(width.saturating_sub(human::width(cell)));
        match HEADER[column] {
            "size" | "tries" | "time" => line.extend([blank.as_str(), cell, "  "]),
            _ => line.extend([cell, blank.as_str(), "  "]),
        }
    }
    line.truncate(line.trim_end().len());
    line
}

fn cells(row: &Row) -> [String; HEADER.len()] {
    [
        display::path(&row.path).to_string(),
        human::bytes(row.bytes),
        row.remote.as_deref().map_or_else(|| NO_PATH.to_owned(), |remote| display::escaped(remote).to_string()),
        row.status.to_string(),
        row.attempts.to_string(),
        human::duration(row.elapsed),
    ]
}

/// What stands where there is no remote path.
const NO_PATH: &str = "–";

/// Makes each line fit into `columns`: first what all paths of a column begin with is taken off and given back, to be
/// said once; then paths are shortened in their middle.
fn fit(rows: &mut [[String; HEADER.len()]], columns: usize) -> Vec<(&'static str, String)> {
    let widest = |rows: &[[String; HEADER.len()]], column: usize| {
        let cells = rows.iter().map(|row| human::width(&row[column]));
        cells.chain([human::width(HEADER[column])]).max().unwrap_or_default()
    };
    let others = (0..HEADER.len()).filter(|column| ![FILE, REMOTE].contains(column)).map(|column| widest(rows, column));
    let room = columns.saturating_sub(others.sum::<usize>() + 2 * (HEADER.len() - 1));
    let mut said = Vec::new();
    if widest(rows, FILE) + widest(rows, REMOTE) > room {
        for (column, label) in [(FILE, "from"), (REMOTE, "to  ")] {
            let directory = common_directory(rows.iter().map(|row| row[column].as_str())).to_owned();
            if !directory.is_empty() {
                rows.iter_mut().filter(|row| row[column] != NO_PATH).for_each(|row| {
                    row[column].drain(..directory.len());
                });
                said.push((label, directory));
            }
        }
    }
    let (file, remote) = (widest(rows, FILE), widest(rows, REMOTE));
    // The narrower of the two keeps its width where it needs no more than half.
    let file_room = if file + remote <= room { file } else { (room / 2).max(room.saturating_sub(remote)).min(file) };
    let file_room = file_room.max(NARROWEST);
    let remote_room = room.saturating_sub(file_room).max(NARROWEST);
    for row in rows {
        row[FILE] = human::shortened(&row[FILE], file_room).into_owned();
        row[REMOTE] = human::shortened(&row[REMOTE], remote_room).into_owned();
    }
    said
}

/// The longest directory, with the slash at its end, that all paths lie below. Nothing for a single path, whose name
/// would then stand alone, and nothing for the root.
fn common_directory<'a>(paths: impl Iterator<Item = &'a str>) -> &'a str {
    let mut paths = paths.filter(|path| *path != NO_PATH);
    let (Some(first), Some(second)) = (paths.next(), paths.next()) else { return "" };
    let common = [second].into_iter().chain(paths).fold(first, |common, path| {
        let same = common.bytes().zip(path.bytes()).take_while(|(a, b)| a == b).count();
        // A slash is one byte, so the cut is between two characters.
        common.as_bytes()[..same].iter().rposition(|byte| *byte == b'/').map_or("", |slash| &common[..=slash])
    });
    if common.len() > 1 { common } else { "" }
}
