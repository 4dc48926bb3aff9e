//! What is printed at the end, and where.

use super::{Bench, Pushed};
use crate::support::env::write;

/// One file archived, one that waits for its marker.
fn mixed() -> (Bench, crate::support::openssh::OpenSsh) {
    let (bench, server) = Bench::plain();
    write(&bench.env.local(), "a,\"quoted\".csv", "12345");
    write(&bench.env.local(), "a,\"quoted\".csv.done", "");
    write(&bench.env.local(), "waits", "w");
    (bench, server)
}

const MARKER: [&str; 2] = ["--marker", "{name}.done"];

#[test]
fn a_table_shows_every_file_and_the_totals() {
    let (bench, _server) = mixed();
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(MARKER).args(["--summary", "table"])).expect(4);
    let table = &pushed.finished.stdout;
    for text in ["quoted", "archived", "waits", "deferred", "waits.done", "/in/"] {
        assert!(table.contains(text), "no {text:?} in\n{table}");
    }
    // Not a terminal: neither colours nor progress, on either stream.
    assert!(!table.contains('\x1b') && !pushed.finished.stderr.contains('\x1b'));
    assert_eq!(pushed.finished.stderr, "");
}

#[test]
fn colours_are_never_drawn_where_no_color_is_set() {
    let (bench, _server) = mixed();
    let mut command = bench.push([bench.env.local()]);
    command.args(MARKER).args(["--summary", "table", "--progress", "always"]).env("NO_COLOR", "1");
    let pushed = Pushed::run(&mut command).expect(4);
    assert!(!pushed.finished.stdout.contains("\x1b["), "{:?}", pushed.finished.stdout);
    assert!(!pushed.finished.stderr.contains("\x1b[3"), "{:?}", pushed.finished.stderr);
}

#[test]
fn csv_is_read_back_as_it_was_meant() {
    let (bench, _server) = mixed();
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(MARKER).args(["--summary", "csv"])).expect(4);
    let mut reader = csv::Reader::from_reader(pushed.finished.stdout.as_bytes());
    assert_eq!(reader.headers().unwrap().iter().next(), Some("source"));
    let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 2);
    let archived = rows.iter().find(|row| &row[5] == "archived").unwrap();
    assert!(archived[1].ends_with("/a,\"quoted\".csv") && &archived[3] == "5");
}

#[test]
fn none_prints_nothing() {
    let (bench, _server) = mixed();
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(MARKER).args(["--summary", "none"])).expect(4);
    assert_eq!((pushed.finished.stdout.as_str(), pushed.finished.stderr.as_str()), ("", ""));
}

#[test]
fn a_file_holds_the_summary_and_standard_output_nothing() {
    let (bench, _server) = mixed();
    let file = bench.env.path().join("summary.json");
    let mut command = bench.push([bench.env.local()]);
    let pushed = Pushed::run(command.args(MARKER).arg("--summary-file").arg(&file)).expect(4);
    assert_eq!(pushed.finished.stdout, "");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!((&json["totals"]["archived"], &json["totals"]["deferred"]), (&1.into(), &1.into()));
    for time in ["started_at", "finished_at"] {
        assert!(chrono::DateTime::parse_from_rfc3339(json[time].as_str().unwrap()).is_ok());
    }
}

#[test]
fn a_summary_file_that_cannot_be_written_is_an_error_and_the_files_are_safe() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), "a", "a");
    let mut command = bench.push([bench.env.local()]);
    let pushed = Pushed::run(command.args(["--summary-file", "/no/such/dir/summary"]));
    assert!(matches!(pushed.finished.code(), Some(1 | 2)), "{}", pushed.finished.stderr);
    pushed.says(&["/no/such/dir/summary"]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let (bench, _server) = Bench::plain();
    for number in 0..50 {
        write(&bench.env.local(), number.to_string(), "x");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = bench.push([bench.env.local()]);
    let status = command.stdout(writer).stderr(std::process::Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(bench.archived().len(), 50);
}

#[test]
fn logs_are_json_where_asked_and_never_on_standard_output() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), "a", "a");
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(["--log-format", "json", "-vv"])).expect(0);
    assert!(!pushed.json.is_null(), "standard output is no JSON:\n{}", pushed.finished.stdout);
    assert!(!pushed.finished.stderr.is_empty());
    for line in pushed.finished.stderr.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
}

#[test]
fn a_long_table_shows_failures_first_and_says_what_it_left_out() {
    let (bench, _server) = Bench::plain();
    for number in 0..120 {
        write(&bench.env.local(), format!("{number:03}"), "x");
    }
    write(&bench.env.local(), "zz blocked/file", "x");
    write(&bench.base, "in/zz blocked", "a file in the way");
    let arguments = ["--summary", "table", "--retries", "1"];
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(arguments)).expect(1);
    let table = &pushed.finished.stdout;
    let failed = table.find("zz blocked/file").unwrap_or_else(|| panic!("{table}"));
    assert!(table[failed..].contains("005") || table[failed..].contains("archived"), "{table}");
    assert!(table.contains("21 more") || table.contains("21 rows"), "{table}");
    let all = ["--summary", "table", "--summary-rows", "all", "--retries", "1"];
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(all)).expect(1);
    assert!((0..120).all(|number| pushed.finished.stdout.contains(&format!("{number:03}"))));
}
