//! The summary in its three forms, for rows that are hard to write.

use std::ffi::OsStr;

use super::*;
use crate::domain::Sha256Digest;

fn row(path: impl AsRef<OsStr>, status: Status) -> Row {
    let archived = status == Status::Archived;
    Row {
        source: "reports".into(),
        path: PathBuf::from(path.as_ref()),
        remote: archived.then(|| "/upload/2026/11/21/a.csv".into()),
        bytes: 617,
        sha256: archived.then_some(Sha256Digest([0xab; 32])),
        status,
        reason: (!archived).then(|| "still open for writing".into()),
        attempts: u32::from(archived),
        elapsed: Duration::from_micros(30_400),
    }
}

fn header(rows: &[Row]) -> SummaryHeader {
    let mut totals = Totals::default();
    rows.iter().for_each(|row| totals.add(row.status, row.bytes));
    SummaryHeader {
        started_at: "2026-11-21T03:00:00Z".parse().unwrap(),
        finished_at: "2026-11-21T03:00:01.5Z".parse().unwrap(),
        destinations: vec!["sftp://pine@sftp:22/upload".into()],
        totals,
        elapsed: Duration::from_millis(120),
    }
}

/// Serves rows in pages of three, as a ledger would.
async fn written(
    rows: &[Row],
    header: SummaryHeader,
    format: SummaryFormat,
    limit: SummaryRows,
    at: Surface,
) -> String {
    let mut out = Vec::new();
    let summary = Summary { header, format, rows: limit };
    summary.write(&mut out, at, |set, after| std::future::ready(page(rows, set, after))).await.unwrap();
    String::from_utf8(out).unwrap()
}

fn page(rows: &[Row], set: RowSet, after: i64) -> Result<(Vec<Row>, i64), String> {
    let mut page = Vec::new();
    let mut behind = after;
    for (position, row) in rows.iter().enumerate().skip(after as usize) {
        if page.len() < 3 && (set == RowSet::All || set == RowSet::Only(row.status)) {
            page.push(row.clone());
            behind = position as i64 + 1;
        }
    }
    Ok((page, behind))
}

async fn table(rows: &[Row], limit: SummaryRows, surface: Surface) -> String {
    written(rows, header(rows), SummaryFormat::Table, limit, surface).await
}

fn odd_rows() -> Vec<Row> {
    vec![
        row("/r/plain.csv", Status::Archived),
        row("/r/new\nline, \"quoted\" \x1b[31m\u{9b}.csv", Status::Skipped),
        row(OsStr::from_bytes(b"/r/caf\xe9%E9.csv"), Status::Deferred),
        row("/r/caf%E9.csv", Status::Failed),
    ]
}

#[tokio::test]
async fn json_has_the_contract_s_keys_in_its_order() {
    let rows = [row("/var/pine/reports/a.csv", Status::Archived), row("/var/pine/reports/b.csv", Status::Deferred)];
    let text = written(&rows, header(&rows), SummaryFormat::Json, SummaryRows::Limit(1), Surface::PLAIN).await;
    insta::assert_snapshot!(text, @r#"
    {"version":1,"started_at":"2026-11-21T03:00:00.000Z","finished_at":"2026-11-21T03:00:01.500Z","destination":"sftp://pine@sftp:22/upload","totals":{"archived":1,"skipped":0,"deferred":1,"failed":0,"bytes":617,"seconds":0.12},"files":[
    {"source":"reports","path":"/var/pine/reports/a.csv","remote":"/upload/2026/11/21/a.csv","bytes":617,"sha256":"abababababababababababababababababababababababababababababababab","status":"archived","reason":null,"attempts":1,"seconds":0.03},
    {"source":"reports","path":"/var/pine/reports/b.csv","remote":null,"bytes":617,"sha256":null,"status":"deferred","reason":"still open for writing","attempts":0,"seconds":0.03}
    ]}
    "#);
}

#[tokio::test]
async fn json_is_one_document_whatever_the_rows() {
    for rows in [vec![], odd_rows(), vec![row("/x", Status::Failed); 10]] {
        let text = written(&rows, header(&rows), SummaryFormat::Json, SummaryRows::Limit(100), Surface::PLAIN).await;
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["files"].as_array().unwrap().len(), rows.len());
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text}");
    }
}

#[tokio::test]
async fn json_paths_lead_back_to_the_exact_bytes() {
    let rows = odd_rows();
    let text = written(&rows, header(&rows), SummaryFormat::Json, SummaryRows::All, Surface::PLAIN).await;
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["files"][1]["path"], rows[1].path.to_str().unwrap());
    assert_eq!(document["files"][2]["path"], "/r/caf%E9%25E9.csv");
    assert_eq!(name::unescape("/r/caf%E9%25E9.csv"), rows[2].path.as_os_str().as_bytes());
    assert_eq!(document["files"][2]["path_bytes"], "2f722f636166e92545392e637376");
    assert_eq!(document["files"][3]["path"], "/r/caf%E9.csv");
    assert!(document["files"][3].get("path_bytes").is_none());
}

#[tokio::test]
async fn json_names_several_destinations() {
    let header = SummaryHeader { destinations: vec!["sftp://a/".into(), "sftp://b/".into()], ..header(&[]) };
    let text = written(&[], header, SummaryFormat::Json, SummaryRows::All, Surface::PLAIN).await;
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(document["destination"].is_null());
    assert_eq!(document["destinations"], serde_json::json!(["sftp://a/", "sftp://b/"]));
}

#[tokio::test]
async fn csv_follows_rfc_4180() {
    let rows = odd_rows();
    let text = written(&rows, header(&rows), SummaryFormat::Csv, SummaryRows::Limit(1), Surface::PLAIN).await;
    assert!(text.starts_with("source,path,remote,bytes,sha256,status,reason,attempts,seconds\r\n"));
    let records = ::csv::Reader::from_reader(text.as_bytes()).into_records().collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!(records.len(), rows.len());
    assert_eq!(&records[1][1], r#"/r/new\nline, "quoted" \x1b[31m\x9b.csv"#);
    assert_eq!(&records[2][1], "/r/caf%E9%25E9.csv");
    assert_eq!(
        records[3].iter().skip(2).collect::<Vec<_>>(),
        ["", "617", "", "failed", "still open for writing", "0", "0.03"]
    );
}

#[tokio::test]
async fn the_table_has_a_line_a_row_and_a_line_a_reason() {
    let text = table(&odd_rows(), SummaryRows::Limit(100), Surface::PLAIN).await;
    insta::assert_snapshot!(text, @r#"
    file                                      size  remote path               status    tries    time
    /r/plain.csv                             617 B  /upload/2026/11/21/a.csv  archived      1  0.03 s
    /r/new\nline, "quoted" \x1b[31m\x9b.csv  617 B  –                         skipped       0  0.03 s
      └ still open for writing
    /r/caf\xe9%E9.csv                        617 B  –                         deferred      0  0.03 s
      └ still open for writing
    /r/caf%E9.csv                            617 B  –                         failed        0  0.03 s
      └ still open for writing

    archived 1 · skipped 1 · deferred 1 · failed 1 · 617 B in 0.12 s · 5.0 KiB/s
    "#);
}

#[tokio::test]
async fn what_all_paths_begin_with_is_said_once_where_room_is_short() {
    let mut rows = vec![
        row("/var/pine/reports/daily/orders-é.csv", Status::Archived),
        row("/var/pine/reports/daily/orders-è.csv", Status::Archived),
        row("/var/pine/reports/logs/shipping.log", Status::Deferred),
    ];
    rows[1].remote = Some("/upload/2026/11/21/daily/orders-è.csv".into());
    let narrow = Surface { columns: Some(80), colour: Colour::Plain };
    insta::assert_snapshot!(table(&rows, SummaryRows::All, narrow).await, @r"
    from /var/pine/reports/
    to   /upload/2026/11/21/
    file                 size  remote path         status    tries    time
    daily/orders-é.csv  617 B  a.csv               archived      1  0.03 s
    daily/orders-è.csv  617 B  daily/orders-è.csv  archived      1  0.03 s
    logs/shipping.log   617 B  –                   deferred      0  0.03 s
      └ still open for writing

    archived 2 · skipped 0 · deferred 1 · failed 0 · 1.2 KiB in 0.12 s · 10.0 KiB/s
    ");
    let wide = table(&rows, SummaryRows::All, Surface { columns: Some(200), colour: Colour::Plain }).await;
    assert!(wide.starts_with("file ") && wide.contains("/var/pine/reports/logs/"), "{wide}");
    let alone = table(&rows[..1], SummaryRows::All, Surface { columns: Some(60), colour: Colour::Plain }).await;
    assert!(alone.starts_with("file "), "{alone}");
}

#[tokio::test]
async fn one_long_name_does_not_widen_every_row_of_a_file() {
    let long = format!("/r/{}", "long".repeat(63));
    let rows = [row("/r/a.csv", Status::Archived), row(&long, Status::Archived), row("/r/b.csv", Status::Archived)];
    let text = table(&rows, SummaryRows::All, Surface::PLAIN).await;
    let lines: Vec<_> = text.lines().take(4).collect();
    assert!(lines[2].starts_with(&format!("{long}  617 B  ")), "{text}");
    for line in [lines[0], lines[1], lines[3]] {
        assert!(line.len() < 120, "{text}");
    }
    assert_eq!(lines[1].find("617 B"), lines[3].find("617 B"));
}

#[tokio::test]
async fn the_table_fits_the_terminal() {
    let mut rows = odd_rows();
    rows.push(row(format!("/var/log/{}/日本語レポート.csv", "deep/".repeat(40)), Status::Archived));
    for columns in [70, 80, 100, 132, 200] {
        let surface = Surface { columns: Some(columns), colour: Colour::Plain };
        let text = table(&rows, SummaryRows::All, surface).await;
        // The totals' line may be broken by the terminal; a row must not be.
        for line in text.lines().take_while(|line| !line.is_empty()) {
            let width = unicode_width::UnicodeWidthStr::width(line);
            assert!(width <= columns.max(70).into(), "{width} columns on {columns}: {line}");
        }
        assert!(text.contains("…") && text.contains("レポート.csv"), "{text}");
    }
}

#[tokio::test]
async fn past_the_limit_the_urgent_rows_come_first() {
    let mut rows = vec![row("/r/fine", Status::Archived); 7];
    rows.push(row("/r/seen", Status::Skipped));
    rows.push(row("/r/open", Status::Deferred));
    rows.push(row("/r/broken", Status::Failed));
    let text = table(&rows, SummaryRows::Limit(5), Surface::PLAIN).await;
    let files = text.lines().filter(|line| line.starts_with("/r/")).map(|line| &line[..6]).collect::<Vec<_>>();
    assert_eq!(files, ["/r/bro", "/r/ope", "/r/fin", "/r/fin", "/r/fin"]);
    let note = "… 5 more rows are left out (4 archived, 1 skipped); --summary-rows all shows every one";
    assert!(text.contains(note), "{text}");
    assert!(text.contains("archived 7 · skipped 1 · deferred 1 · failed 1"));

    let all = table(&rows, SummaryRows::All, Surface::PLAIN).await;
    assert_eq!(all.lines().filter(|line| line.starts_with("/r/")).count(), 10);
    assert!(!all.contains("left out"));
    let none = table(&rows, SummaryRows::Limit(0), Surface::PLAIN).await;
    assert!(none.starts_with("… 10 more rows are left out"), "{none}");
}

#[tokio::test]
async fn many_rows_come_in_aligned_parts() {
    let rows = vec![row("/r/fine", Status::Archived); 2500];
    let text = table(&rows, SummaryRows::All, Surface::PLAIN).await;
    assert_eq!(text.lines().filter(|line| line.starts_with("/r/")).count(), 2500);
    assert_eq!(text.lines().filter(|line| line.starts_with("file ")).count(), 3);
}

#[tokio::test]
async fn an_empty_run_says_so() {
    let header = SummaryHeader { elapsed: Duration::ZERO, ..header(&[]) };
    let text = written(&[], header, SummaryFormat::Table, SummaryRows::Limit(100), Surface::PLAIN).await;
    let expected = "No candidates were found.\n\narchived 0 · skipped 0 · deferred 0 · failed 0 · 0 B in 0.00 s\n";
    assert_eq!(text, expected);
}

#[tokio::test]
async fn colours_only_where_wanted() {
    let rows = odd_rows();
    assert!(!table(&rows, SummaryRows::All, Surface::PLAIN).await.contains('\x1b'));
    let surface = Surface { columns: Some(100), colour: Colour::Ansi };
    let text = table(&rows, SummaryRows::All, surface).await;
    assert!(text.contains("\x1b[31m/r/caf%E9.csv"), "{text}");
}

fn json_of(rows: &[Row]) -> Summary {
    Summary { header: header(rows), format: SummaryFormat::Json, rows: SummaryRows::All }
}

#[tokio::test]
async fn a_summary_file_appears_complete_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("summary.json");
    std::fs::write(&path, "before").unwrap();
    let rows = odd_rows();

    let failing =
        |_, after| std::future::ready(if after == 0 { page(&rows, RowSet::All, 0) } else { Err("gone".into()) });
    let error = json_of(&rows).write_file(&path, failing).await.unwrap_err();
    assert_eq!(error.to_string(), "reading the rows of the summary: gone");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "before");

    json_of(&rows).write_file(&path, |set, after| std::future::ready(page(&rows, set, after))).await.unwrap();
    serde_json::from_str::<serde_json::Value>(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
}

#[tokio::test]
async fn a_summary_file_that_cannot_be_written_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let nothing = |_, _| std::future::ready(page(&[], RowSet::All, 0));
    let missing = directory.path().join("missing/summary.json");
    let error = json_of(&[]).write_file(&missing, nothing).await.unwrap_err().to_string();
    assert!(error.contains("missing/summary.json") && error.contains("No such file"), "{error}");
    let error = json_of(&[]).write_file(directory.path(), nothing).await.unwrap_err().to_string();
    assert!(error.contains("is a directory"), "{error}");
}

#[tokio::test]
async fn links_are_followed_and_devices_written_to() {
    let directory = tempfile::tempdir().unwrap();
    let (target, link) = (directory.path().join("target"), directory.path().join("link"));
    std::fs::write(&target, "").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let nothing = |_, _| std::future::ready(page(&[], RowSet::All, 0));
    json_of(&[]).write_file(&link, nothing).await.unwrap();
    assert!(link.is_symlink() && std::fs::read_to_string(&target).unwrap().starts_with('{'));

    json_of(&[]).write_file(Path::new("/dev/null"), nothing).await.unwrap();
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
}

#[tokio::test]
async fn a_reader_that_goes_away_is_recognised() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let rows = odd_rows();
    for format in [SummaryFormat::Table, SummaryFormat::Json, SummaryFormat::Csv] {
        let summary = Summary { format, ..json_of(&rows) };
        let pages = |set, after| std::future::ready(page(&rows, set, after));
        assert!(summary.write(&mut Closed, Surface::PLAIN, pages).await.unwrap_err().is_broken_pipe(), "{format:?}");
    }
}
