//! What `archiver check` says of a server, compared with what is expected of it and with `docs/interoperability.md`.

use std::fs::File;
use std::io::{Read, Seek, Write};

use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use super::{Commit, Expected, Keeps, Rename, Resume, SERVERS, Site};
use crate::support::env::{files, run};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/interoperability.md");
const BEGIN: &str = "<!-- written by the test from here -->\n";
const END: &str = "<!-- to here -->";
const HEAD: &str = "| server | tested with | extensions | rename | final names appear | data in a request | times and modes \
                    | free space | after a cut | notes |\n\
                    | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";

pub fn check_tells_it_apart(expected: &'static Expected) {
    let Some(site) = Site::start(expected) else { return };
    let mut command = site.bench.check();
    if expected.commit == Commit::Direct {
        command.args(["--publish", "direct"]);
    }
    let finished = run(&mut command);
    finished.assert_code(0);
    assert!(files(&site.bench.base).is_empty(), "check left something behind");
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    let probe = |name: &str| {
        let mut probes = report["probes"].as_array().unwrap().iter();
        let found = probes.find(|probe| probe["probe"] == name).unwrap_or_else(|| panic!("no {name}: {report:#}"));
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        (text("verdict"), text("detail"), text("hint"))
    };
    assert!(report["probes"].as_array().unwrap().iter().all(|probe| probe["verdict"] != "fail"), "{report:#}");

    let (verdict, rename, hint) = probe("rename");
    let says = |text: &str| assert!(rename.contains(text) || hint.contains(text), "no {text:?} in {rename} / {hint}");
    match expected.rename {
        Rename::Refuses => says("works, and refuses a name that is taken"),
        Rename::Overwrites => says("works, but overwrites a name that is taken"),
        Rename::Unsupported => says("unsupported"),
    }
    let appear = match (expected.commit, expected.rename) {
        (Commit::Atomic, _) if rename.ends_with("by it") => "by rename",
        (Commit::Atomic, _) => {
            says("by a hard link");
            "by a hard link"
        }
        (Commit::Look, Rename::Refuses) => {
            says("after a look");
            "by rename, after a look"
        }
        (Commit::Look, _) => {
            says("the archiver looks before it renames; another client that takes the same name in between loses");
            assert_eq!(verdict, "warn");
            "by rename, after a look: **not atomic**"
        }
        (Commit::Direct, _) => "written in place",
    };
    let (_, setstat, _) = probe("setstat");
    let keeps = match expected.keeps {
        Keeps::TimesAndModes => "modification time and mode are kept",
        Keeps::Times => "the modification time is kept; mode",
        Keeps::Nothing => "refused",
    };
    assert!(setstat.contains(keeps), "{setstat}");
    let (verdict, sessions, _) = probe("sessions");
    assert_eq!((verdict.as_str(), sessions.as_str()), ("ok", "4 of 4 connections at the same time"));

    let (_, sftp, _) = probe("sftp");
    let extensions = sftp.split_once(": ").map(|(_, extensions)| extensions).unwrap_or_default();
    let (_, limits, _) = probe("limits");
    let limits = limits.split(" bytes").next().unwrap_or_default().trim_start_matches("write ").to_owned();
    let rename = match expected.rename {
        Rename::Refuses => "refuses a taken name",
        Rename::Overwrites => "overwrites",
        Rename::Unsupported => "none",
    };
    let keeps = match expected.keeps {
        Keeps::TimesAndModes => "kept",
        Keeps::Times => "times only",
        Keeps::Nothing => "refused",
    };
    let space = if probe("space").0 == "ok" { "told" } else { "not told" };
    let resume = if expected.resume == Resume::GoesOn { "goes on" } else { "begins anew" };
    let cells =
        [expected.name, &site.version, extensions, rename, appear, &limits, keeps, space, resume, expected.notes];
    in_document(expected.name, &format!("| {} |", cells.join(" | ")));
}

/// The row stands in the document, whatever version it names; or it is written there.
#[track_caller]
fn in_document(name: &str, row: &str) {
    let update = std::env::var_os("UPDATE_DOCS").is_some();
    let mut file = File::options().read(true).write(update).open(PATH).unwrap();
    // Tests of other servers write their rows at the same time.
    flock(&file, FlockOperation::LockExclusive).unwrap();
    let mut document = String::new();
    file.read_to_string(&mut document).unwrap();
    let start = document.find(BEGIN).expect("a marker") + BEGIN.len();
    let stop = start + document[start..].find(END).expect("a marker");
    let stands = |name: &str| {
        let rows = document[start..stop].lines();
        rows.filter(|row| row.starts_with(&format!("| {name} |"))).collect::<Vec<_>>().join("\n")
    };
    if update {
        let rows = SERVERS.iter().map(|server| if server.name == name { row.to_owned() } else { stands(server.name) });
        let rows: Vec<_> = rows.filter(|row| !row.is_empty()).collect();
        let document = format!("{}{HEAD}{}\n{}", &document[..start], rows.join("\n"), &document[stop..]);
        file.rewind().unwrap();
        file.set_len(0).unwrap();
        file.write_all(document.as_bytes()).unwrap();
        return;
    }
    let without_version = |row: &str| {
        let mut cells: Vec<_> = row.split(" | ").map(str::to_owned).collect();
        if cells.len() > 1 {
            cells.remove(1);
        }
        cells.join(" | ")
    };
    assert_eq!(
        without_version(&stands(name)),
        without_version(row),
        "docs/interoperability.md is stale; run `UPDATE_DOCS=1 cargo test --test integration tells_it_apart`, and \
         commit it"
    );
}
