//! The summary's three forms, of rows that are hard to write.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use futures::FutureExt;

use super::Input;
use super::domain::is_inert;
use crate::config::settings::{SummaryFormat, SummaryRows};
use crate::domain::{Row, Sha256Digest, Status, Totals, display, name};
use crate::report::console::Colour;
use crate::report::summary::{RowSet, Summary, SummaryHeader, Surface};

pub(super) const WORDS: &[&str] = &[
    "\n",
    "\r\n",
    "\"",
    ",",
    "/",
    "\u{1b}[31m",
    "\u{202e}",
    "\u{61c}",
    "\u{e0041}",
    "\u{9b}",
    "\u{2028}",
    "日本語",
    "e\u{301}",
    "\u{fffd}",
    "%E9",
    "=cmd()",
    "/var/reports/",
    "\0",
    "\\",
    "👩\u{200d}👩",
];

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let columns = input.one_of(&[None, Some(0), Some(1), Some(20), Some(80), Some(u16::MAX)]);
    let limit = input.one_of(&[SummaryRows::All, SummaryRows::Limit(0), SummaryRows::Limit(2)]);
    let mut rows = Vec::new();
    while !input.is_empty() && rows.len() < 8 {
        rows.push(row(&mut input));
    }
    let mut totals = Totals::default();
    rows.iter().for_each(|row| totals.add(row.status, row.bytes));
    let header = SummaryHeader {
        started_at: "2026-11-21T03:00:00Z".parse().unwrap(),
        finished_at: "2026-11-21T03:00:01.5Z".parse().unwrap(),
        destinations: vec!["sftp://pine@sftp/upload".into()],
        totals,
        elapsed: Duration::from_millis(120),
    };
    let written = |format, rows_shown| {
        let mut out = Vec::new();
        let surface = Surface { columns, colour: Colour::Plain };
        let summary = Summary { header: header.clone(), format, rows: rows_shown };
        let page = |set, after| std::future::ready(page(&rows, set, after));
        summary.write(&mut out, surface, page).now_or_never().expect("nothing waits").unwrap();
        String::from_utf8(out).unwrap()
    };

    let table = written(SummaryFormat::Table, limit);
    assert!(table.lines().all(is_inert), "{table:?}");
    if limit == SummaryRows::All && columns.is_none() && !rows.is_empty() {
        let reasons = rows.iter().filter(|row| row.reason.is_some()).count();
        // The header, the rows with their reasons, an empty line, the totals.
        assert_eq!(table.lines().count(), 1 + rows.len() + reasons + 2, "{table}");
    }

    let json = written(SummaryFormat::Json, limit);
    assert!(json.lines().all(is_inert), "{json:?}");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let files = json["files"].as_array().unwrap();
    assert_eq!(files.len(), rows.len());
    for (file, row) in files.iter().zip(&rows) {
        assert_eq!(file["path"], path_text(row));
        assert_eq!(file["source"], row.source);
        assert_eq!(file["remote"].as_str(), row.remote.as_deref());
        assert_eq!(file["reason"].as_str(), row.reason.as_deref());
        assert_eq!(file["bytes"], row.bytes);
        let bytes = row.path.as_os_str().as_bytes();
        let exact = file.get("path_bytes").map(|hex| hex.as_str().unwrap().to_owned());
        let expected =
            row.path.to_str().is_none().then(|| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>());
        assert_eq!(exact, expected);
    }

    let csv = written(SummaryFormat::Csv, limit);
    assert!(csv.lines().all(is_inert), "{csv:?}");
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let records: Vec<_> = reader.records().map(Result::unwrap).collect();
    assert_eq!(records.len(), rows.len());
    for (record, row) in records.iter().zip(&rows) {
        let digest = row.sha256.map(|digest| digest.to_string()).unwrap_or_default();
        // People open it in whatever they have: what steers is escaped; JSON is exact.
        let text = |text: Option<&str>| display::escaped(text.unwrap_or_default()).to_string();
        let expected = [
            text(Some(&row.source)),
            text(Some(&path_text(row))),
            text(row.remote.as_deref()),
            row.bytes.to_string(),
            digest,
            row.status.as_str().to_owned(),
            text(row.reason.as_deref()),
            row.attempts.to_string(),
        ];
        assert_eq!(record.iter().take(expected.len()).collect::<Vec<_>>(), expected);
    }
}

fn path_text(row: &Row) -> String {
    row.path.to_str().map_or_else(|| name::escape(row.path.as_os_str()), str::to_owned)
}

fn row(input: &mut Input<'_>) -> Row {
    let status = input.one_of(&Status::ALL);
    let bytes = input.number() >> (16 + input.below(48));
    let attempts = u32::from(input.byte());
    let path = PathBuf::from(OsStr::from_bytes(field(input)));
    let text = |input: &mut Input<'_>| String::from_utf8_lossy(field(input)).into_owned();
    Row {
        source: text(input),
        path,
        remote: (input.below(2) == 0).then(|| text(input)),
        bytes,
        sha256: (input.below(2) == 0).then_some(Sha256Digest([attempts as u8; 32])),
        status,
        reason: (input.below(2) == 0).then(|| text(input)),
        attempts,
        elapsed: Duration::from_nanos(bytes),
    }
}

fn field<'a>(input: &mut Input<'a>) -> &'a [u8] {
    let length = input.below(48);
    input.bytes(length)
}

/// Serves rows three at a time, as a ledger would.
fn page(rows: &[Row], set: RowSet, after: i64) -> Result<(Vec<Row>, i64), String> {
    let wanted = |row: &Row| set == RowSet::All || set == RowSet::Only(row.status);
    let found = rows.iter().enumerate().skip(after as usize).filter(|(_, row)| wanted(row)).take(3);
    let (positions, page): (Vec<_>, Vec<_>) = found.map(|(position, row)| (position as i64 + 1, row.clone())).unzip();
    Ok((page, positions.last().copied().unwrap_or(after)))
}
