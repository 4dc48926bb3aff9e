//! The census as a table for people, or as one JSON document.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use super::capacity::Flow;
use super::census::{Census, Counts, Failed, Item, ago};
use super::replicas::{self, Replica, ReplicaEntry};
use crate::domain::display::{escaped, inert, path};
use crate::report::Surface;
use crate::report::human;
use crate::report::summary::path_for_programs;
use crate::report::table::{Column, lines};

/// The version of the document's shape. New keys may appear in it; a change of meaning makes a new version.
const VERSION: u32 = 1;

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// How many of everything, and the newest failures.
    All,
    /// The failed files alone.
    Failed,
}

/// What it is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    pub ledger: &'a str,
    pub now: DateTime<Utc>,
    pub told: Told,
    pub replicas: &'a [Replica],
}

pub fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn stamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// `2026-11-21T03:00:00Z (2h 05m ago)`.
pub fn time_and_age(now: DateTime<Utc>, at: DateTime<Utc>) -> String {
    format!("{} ({} ago)", time(at), human::duration(ago(now, at)))
}

pub fn noun(files: u64) -> String {
    format!("{} {}", human::count(files), if files == 1 { "file" } else { "files" })
}

pub fn text(census: &Census, about: &About<'_>, surface: Surface) -> String {
    let mut text = String::new();
    if about.told == Told::All {
        text.push_str(&format!("ledger {}\n\n", escaped(about.ledger)));
        text.push_str(&counted(census, surface));
        text.push('\n');
        text.push_str(&remarkable(census, about));
        text.push('\n');
        text.push_str(&replicas::text(about.replicas, about.now, surface));
    }
    text.push_str(&failures(census, about, surface));
    text
}

fn counted(census: &Census, surface: Surface) -> String {
    if census.sources.is_empty() {
        return "No file has come so far.\n".into();
    }
    let header = [
        ("source", Column::Text),
        ("destination", Column::Path),
        ("state", Column::Text),
        ("files", Column::Number),
        ("bytes", Column::Number),
    ];
    let row = |source: &str, destination: &str, state: &str, flow: Flow| {
        [
            source.to_owned(),
            destination.to_owned(),
            state.to_owned(),
            human::count(flow.files),
            human::bytes(flow.bytes),
        ]
    };
    let mut rows = Vec::new();
    for ((source, destination), counts) in &census.sources {
        // Said once, in the first of its rows.
        let mut names = (source_name(source), escaped(destination).to_string());
        for (state, flow) in states(counts).into_iter().filter(|(state, flow)| *state == "archived" || flow.files > 0) {
            rows.push(row(&names.0, &names.1, state, flow));
            names = (String::new(), String::new());
        }
    }
    if census.sources.len() > 1 {
        let mut name = "all";
        for (state, flow) in states(&census.totals()).into_iter().filter(|(_, flow)| flow.files > 0) {
            rows.push(row(name, "", state, flow));
            name = "";
        }
    }
    lines(header, rows, surface)
}

fn states(counts: &Counts) -> [(&'static str, Flow); 6] {
    [
        ("archived", counts.recorded),
        ("duplicates", counts.duplicates),
        ("in hand", counts.held),
        ("waiting", counts.waiting),
        ("failed", counts.failed),
        ("disposal pending", counts.disposal_pending),
    ]
}

/// Paths of a command line belong to no named source.
fn source_name(source: &Arc<str>) -> String {
    if source.is_empty() { "–".into() } else { escaped(source).to_string() }
}

fn remarkable(census: &Census, about: &About<'_>) -> String {
    let mut text = String::new();
    let mut say = |label: &str, said: String| text.push_str(&format!("{label:<15} {said}\n"));
    match &census.last_archived {
        Some((at, item)) => {
            say("last archived", time_and_age(about.now, *at));
            say("", escaped(&item.remote).to_string());
        }
        None => say("last archived", "nothing yet".into()),
    }
    if let Some((queued, item)) = &census.oldest_waiting {
        say("oldest waiting", format!("since {}, {}", time_and_age(about.now, *queued), human::bytes(item.bytes)));
        say("", path(&item.path).to_string());
    }
    if census.in_hand.is_empty() && census.totals().waiting.files > 0 {
        say("", "nobody has in hand what waits: a running `watch` takes it up, or `push` when it is run again".into());
    }
    text
}

fn failures(census: &Census, about: &About<'_>, surface: Surface) -> String {
    let failed = census.failed();
    let all = census.totals().failed.files;
    if all == 0 {
        return if about.told == Told::Failed { "Nothing has failed.\n".into() } else { String::new() };
    }
    let mut text = String::new();
    if about.told == Told::All {
        text.push_str(&format!("\n{}\n", surface.colour.paint("1", "failed, the newest first")));
    }
    for Failed { item, reason, attempts, at } in &failed {
        let at = at.map_or_else(|| "at an unknown time".into(), |at| time_and_age(about.now, at));
        let tries = if *attempts == 1 { "1 try".into() } else { format!("{attempts} tries") };
        let line = format!("{}  {}, {tries}, {at}", path(&item.path), human::bytes(item.bytes));
        text.push_str(&format!("{}\n  └ {}\n", surface.colour.paint("31", &line), escaped(reason)));
    }
    let left_out = all.saturating_sub(failed.len() as u64);
    if left_out > 0 {
        let hint = if about.told == Told::All { "; `archiver status --failed` names them" } else { "" };
        text.push_str(&format!("… {} more{hint}\n", human::count(left_out)));
    }
    text.push_str(
        "Mend the reason; then `archiver retry --all`, or `archiver retry PATTERN`, puts them back into the queue.\n",
    );
    text
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    ledger: &'a str,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sources: Option<Vec<SourceCounts<'a>>>,
    totals: Totals,
    #[serde(skip_serializing_if = "Option::is_none")]
    holders: Option<Vec<HolderEntry<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<Vec<ReplicaEntry<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_waiting: Option<ItemAt<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_archived: Option<ItemAt<'a>>,
    failed: Vec<FailedEntry<'a>>,
    /// Failed files that are not named.
    failed_left_out: u64,
}

#[derive(Serialize)]
struct Totals {
    archived: Flow,
    duplicates: Flow,
    in_hand: Flow,
    waiting: Flow,
    failed: Flow,
    disposal_pending: Flow,
    last_archived_at: Option<String>,
}

#[derive(Serialize)]
struct SourceCounts<'a> {
    source: &'a str,
    destination: &'a str,
    #[serde(flatten)]
    counts: Totals,
}

#[derive(Serialize)]
struct HolderEntry<'a> {
    owner: String,
    hostname: &'a str,
    pid: u32,
    files: u64,
    bytes: u64,
    since: Option<String>,
    lease_seconds_left: f64,
}

#[derive(Serialize)]
struct ItemAt<'a> {
    at: String,
    seconds_ago: f64,
    #[serde(flatten)]
    item: ItemEntry<'a>,
}

#[derive(Serialize)]
struct ItemEntry<'a> {
    source: &'a str,
    destination: &'a str,
    path: String,
    remote: &'a str,
    bytes: u64,
    /// The exact bytes of a path that is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
}

#[derive(Serialize)]
struct FailedEntry<'a> {
    #[serde(flatten)]
    item: ItemEntry<'a>,
    reason: &'a str,
    attempts: u32,
    failed_at: Option<String>,
}

fn totals(counts: &Counts) -> Totals {
    Totals {
        archived: counts.recorded,
        duplicates: counts.duplicates,
        in_hand: counts.held,
        waiting: counts.waiting,
        failed: counts.failed,
        disposal_pending: counts.disposal_pending,
        last_archived_at: counts.last_archived.map(stamp),
    }
}

fn item_entry(item: &Item) -> ItemEntry<'_> {
    let (path, path_bytes) = path_for_programs(&item.path);
    let Item { source, destination, remote, bytes, .. } = item;
    ItemEntry { source, destination, path, remote, bytes: *bytes, path_bytes }
}

pub fn json(census: &Census, about: &About<'_>) -> String {
    let item_at = |found: &'_ Option<(DateTime<Utc>, Item)>| {
        found.as_ref().map(|(at, item)| (stamp(*at), ago(about.now, *at).as_secs_f64(), item.clone()))
    };
    let (oldest, last) = (item_at(&census.oldest_waiting), item_at(&census.last_archived));
    fn told<'a>(found: &'a Option<(String, f64, Item)>) -> Option<ItemAt<'a>> {
        found.as_ref().map(|(at, seconds, item)| ItemAt {
            at: at.clone(),
            seconds_ago: *seconds,
            item: item_entry(item),
        })
    }
    let failed = census.failed();
    let counted = census.totals();
    let all = about.told == Told::All;
    let sources = census.sources.iter().map(|((source, destination), counts)| SourceCounts {
        source,
        destination,
        counts: totals(counts),
    });
    let holders = census.in_hand.values().map(|in_hand| HolderEntry {
        owner: in_hand.holder.owner.to_string(),
        hostname: &in_hand.holder.hostname,
        pid: in_hand.holder.pid,
        files: in_hand.flow.files,
        bytes: in_hand.flow.bytes,
        since: in_hand.since.map(stamp),
        lease_seconds_left: in_hand.holder.lease_left.as_secs_f64(),
    });
    let document = Document {
        version: VERSION,
        ledger: about.ledger,
        at: stamp(about.now),
        sources: all.then(|| sources.collect()),
        totals: totals(&counted),
        holders: all.then(|| holders.collect()),
        replicas: all.then(|| replicas::entries(about.replicas)),
        oldest_waiting: told(&oldest).filter(|_| all),
        last_archived: told(&last).filter(|_| all),
        failed_left_out: counted.failed.files.saturating_sub(failed.len() as u64),
        failed: failed
            .into_iter()
            .map(|failed| FailedEntry {
                item: item_entry(&failed.item),
                reason: &failed.reason,
                attempts: failed.attempts,
                failed_at: failed.at.map(stamp),
            })
            .collect(),
    };
    document_text(&document)
}

/// One JSON document, safe to look at.
pub fn document_text(document: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(document).expect("strings, numbers and lists become JSON");
    format!("{}\n", inert(&text))
}
