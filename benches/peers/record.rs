//! What became of a row, kept as JSON below the build directory, so that the page can be written from rows that were
//! measured on different days, each with its own date.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::markdown::Table;

/// One measured row.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    pub row: String,
    /// The work in a few words.
    pub title: String,
    /// RFC 3339, in UTC.
    pub measured_at: String,
    /// Version and commit.
    pub archiver: String,
    pub machine: Machine,
    /// The load average before it, for it says whether the machine was busy with something else.
    pub load: String,
    /// The most that the harness itself took, in bytes: no peak of a tool in this row can be lower.
    pub floor: u64,
    pub table: Table,
    /// Name and line of shell of each tool.
    pub commands: Vec<(String, String)>,
    pub verdicts: Vec<Verdict>,
    pub notes: Vec<String>,
    /// Every sample, for those who want to calculate for themselves.
    pub samples: serde_json::Value,
}

/// A target and what came out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Verdict {
    /// `≤ 0.70 × tar`
    pub target: String,
    pub measured: String,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Reached,
    NotReached,
    /// The peer is not installed, or the row was left out.
    NotMeasured,
}

impl Outcome {
    pub fn of(reached: bool) -> Self {
        if reached { Self::Reached } else { Self::NotReached }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Reached => "reached",
            Self::NotReached => "NOT reached",
            Self::NotMeasured => "not measured",
        })
    }
}

/// Whether a record may stand in the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The whole row: full sizes, every installed peer, the archiver of this checkout.
    Whole,
    /// Anything less; kept aside.
    Trial,
}

impl Record {
    pub fn save(&self, standing: Standing) -> Result<PathBuf> {
        let directory = directory(standing);
        std::fs::create_dir_all(&directory)?;
        let path = directory.join(format!("{}.json", self.row));
        std::fs::write(&path, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(path)
    }

    /// The whole row of that name, where it was ever measured.
    pub fn load(row: &str) -> Result<Option<Self>> {
        let path = directory(Standing::Whole).join(format!("{row}.json"));
        match std::fs::read(&path) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(format!("reading {}", path.display())),
        }
    }
}

/// `target/bench`, wherever the build directory is.
fn directory(standing: Standing) -> PathBuf {
    let bench = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
    match standing {
        Standing::Whole => bench,
        Standing::Trial => bench.join("trial"),
    }
}

impl std::fmt::Display for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.table)?;
        for verdict in &self.verdicts {
            writeln!(f, "- target {}: measured {}, {}", verdict.target, verdict.measured, verdict.outcome)?;
        }
        for note in &self.notes {
            writeln!(f, "- {note}")?;
        }
        Ok(())
    }
}
