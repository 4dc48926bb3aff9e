//! What an audit found, as a table for people or as one JSON document.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use super::census_report::{document_text, noun};
use crate::domain::display::escaped;
use crate::report::Surface;
use crate::report::human;
use crate::report::table::{Column, lines};

const VERSION: u32 = 1;
/// Findings of one destination that are named; more are only counted, so that memory is bounded.
const NAMED: usize = 100_000;
/// Rows of a table for people.
const ROWS: usize = 100;

/// Something that is not as the ledger says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub what: What,
    pub remote: String,
}

/// In the order in which they are told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// On record, and not there.
    Missing,
    WrongSize {
        expected: u64,
        found: u64,
    },
    /// Its size is right, its bytes are others.
    WrongHash {
        size: u64,
    },
    /// A directory, link or device has its name.
    NotAFile,
    /// The server does not let us look.
    Unreadable {
        why: String,
    },
    /// On the server, and not on record.
    Extra {
        bytes: u64,
    },
    /// A temporary name of ours that nobody is at.
    Leftover {
        bytes: u64,
    },
}

impl What {
    pub const LABELS: [&'static str; 7] =
        ["missing", "wrong-size", "wrong-hash", "not-a-file", "unreadable", "extra", "leftover"];

    fn index(&self) -> usize {
        match self {
            Self::Missing => 0,
            Self::WrongSize { .. } => 1,
            Self::WrongHash { .. } => 2,
            Self::NotAFile => 3,
            Self::Unreadable { .. } => 4,
            Self::Extra { .. } => 5,
            Self::Leftover { .. } => 6,
        }
    }

    pub fn label(&self) -> &'static str {
        Self::LABELS[self.index()]
    }

    fn detail(&self) -> String {
        match self {
            Self::Missing => String::new(),
            Self::WrongSize { expected, found } => {
                format!("{} bytes instead of {}", human::count(*found), human::count(*expected))
            }
            Self::WrongHash { size } => format!("other content in {} bytes", human::count(*size)),
            Self::NotAFile => "a directory, link or device".into(),
            Self::Unreadable { why } => escaped(why).to_string(),
            Self::Extra { bytes } => format!("{} bytes, not in the ledger", human::count(*bytes)),
            Self::Leftover { bytes } => format!("{} bytes, a temporary name of ours", human::count(*bytes)),
        }
    }
}

#[derive(Debug, Default)]
pub struct Findings {
    pub checked_files: u64,
    pub checked_bytes: u64,
    /// Files that came up while somebody archived them.
    pub in_hand: u64,
    pub counts: [u64; What::LABELS.len()],
    pub named: Vec<Finding>,
    pub root: Root,
}

/// Whether the directory that an audit begins with could be listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Root {
    #[default]
    Listed,
    /// It is not there, or no directory.
    NotListed,
}

impl Findings {
    pub fn checked(&mut self, bytes: u64) {
        self.checked_files += 1;
        self.checked_bytes += bytes;
    }

    pub fn in_hand(&mut self) {
        self.in_hand += 1;
    }

    pub fn add(&mut self, finding: Finding) {
        self.counts[finding.what.index()] += 1;
        if self.named.len() < NAMED {
            self.named.push(finding);
        }
    }

    /// Neither the ledger nor the server has anything here.
    pub fn is_nowhere(&self) -> bool {
        self.checked_files + self.in_hand + self.differences() == 0 && self.root == Root::NotListed
    }

    pub fn differences(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The findings of one destination.
#[derive(Debug)]
pub struct Audited {
    pub destination: String,
    pub root: String,
    pub findings: Findings,
}

pub fn text(audited: &[Audited], surface: Surface) -> String {
    let mut text = String::new();
    for Audited { destination, root, findings } in audited {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("{}\n", escaped(destination)));
        if findings.differences() > 0 {
            let header = [("found", Column::Text), ("remote path", Column::Path), ("detail", Column::Text)];
            let rows = findings.named.iter().take(ROWS).map(|finding| {
                [finding.what.label().to_owned(), escaped(&finding.remote).to_string(), finding.what.detail()]
            });
            let rows: Vec<_> = rows.collect();
            let left_out = findings.differences() - rows.len() as u64;
            text.push_str(&format!("\n{}", lines(header, rows, surface)));
            if left_out > 0 {
                text.push_str(&format!("… {} more; --format json names them\n", human::count(left_out)));
            }
            text.push('\n');
        }
        let said: Vec<_> = What::LABELS
            .iter()
            .zip(findings.counts)
            .filter(|(_, count)| *count > 0)
            .map(|(label, count)| format!("{} {label}", human::count(count)))
            .collect();
        let verdict = if said.is_empty() { "all as recorded".to_owned() } else { said.join(" · ") };
        let root = if root.is_empty() { "the login directory".into() } else { escaped(root).to_string() };
        text.push_str(&format!(
            "checked {}, {}, below {root}: {verdict}\n",
            noun(findings.checked_files),
            human::bytes(findings.checked_bytes)
        ));
    }
    text
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    started_at: String,
    finished_at: String,
    ledger: &'a str,
    check: &'static str,
    destinations: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    destination: &'a str,
    root: &'a str,
    checked: Checked,
    counts: serde_json::Map<String, serde_json::Value>,
    findings: Vec<FindingEntry<'a>>,
    /// Findings that are only counted.
    left_out: u64,
}

#[derive(Serialize)]
struct Checked {
    files: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct FindingEntry<'a> {
    found: &'static str,
    remote: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

pub fn json(
    audited: &[Audited],
    ledger: &str,
    check: &'static str,
    started_at: DateTime<Utc>,
    finished_at: DateTime<Utc>,
) -> String {
    let entry = |finding: &'_ Finding| {
        let (expected_bytes, bytes) = match finding.what {
            What::WrongSize { expected, found } => (Some(expected), Some(found)),
            What::WrongHash { size } => (Some(size), Some(size)),
            What::Extra { bytes } | What::Leftover { bytes } => (None, Some(bytes)),
            What::Missing | What::NotAFile | What::Unreadable { .. } => (None, None),
        };
        (expected_bytes, bytes)
    };
    let destinations = audited.iter().map(|Audited { destination, root, findings }| Entry {
        destination,
        root,
        checked: Checked { files: findings.checked_files, bytes: findings.checked_bytes },
        counts: What::LABELS
            .iter()
            .zip(findings.counts)
            .map(|(label, count)| ((*label).into(), count.into()))
            .collect(),
        findings: findings
            .named
            .iter()
            .map(|finding| {
                let (expected_bytes, bytes) = entry(finding);
                let reason = match &finding.what {
                    What::Unreadable { why } => Some(why.as_str()),
                    _ => None,
                };
                FindingEntry { found: finding.what.label(), remote: &finding.remote, expected_bytes, bytes, reason }
            })
            .collect(),
        left_out: findings.differences() - findings.named.len() as u64,
    });
    document_text(&Document {
        version: VERSION,
        started_at: started_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        finished_at: finished_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        ledger,
        check,
        destinations: destinations.collect(),
    })
}
