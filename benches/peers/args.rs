//! What can be asked for.

use std::path::{Path, PathBuf};

use clap::Parser;

/// The archiver beside its peers: the same work in the same run, by turns, verified each time.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench", disable_version_flag = true)]
pub struct Args {
    /// Smaller workloads and fewer runs: for a look, not for a claim
    #[arg(long)]
    pub quick: bool,
    /// Counted runs of each tool, after one that is not counted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: Option<u32>,
    /// Only these rows (see --list), optional ones included
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Only these tools beside archiver, by the first word of their names: `tar,sftp`
    #[arg(long, value_name = "TOOL", value_delimiter = ',')]
    pub peers: Option<Vec<String>>,
    /// Say which rows there are, and measure nothing
    #[arg(long)]
    pub list: bool,
    /// Write docs/benchmarks.md from all rows that were measured, those of earlier runs included
    #[arg(long, conflicts_with = "quick")]
    pub write: bool,
    /// Write docs/benchmarks.md from earlier runs, and measure nothing
    #[arg(long)]
    pub render: bool,
    /// Measure this binary and not the one that was just built
    #[arg(long, value_name = "FILE")]
    pub archiver: Option<PathBuf>,
    /// One more competitor: another archiver, such as the one before a change
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
    /// What scripts/bench has built: a release as it is shipped. The one that cargo builds beside a benchmark has the
    /// features of the tests' dependencies, and is not what anyone runs
    #[arg(long, hide = true, value_name = "FILE")]
    pub built: Option<PathBuf>,
    /// What cargo passes to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the slow link: relay to this port of 127.0.0.1, until standard input ends
    #[arg(long, hide = true, value_name = "PORT", requires = "one_way_us")]
    pub relay: Option<u16>,
    #[arg(long, hide = true, value_name = "US")]
    pub one_way_us: Option<u64>,
}

impl Args {
    /// The binary to measure. None where this was not started by scripts/bench.
    pub fn binary(&self) -> Option<&Path> {
        self.archiver.as_deref().or(self.built.as_deref())
    }
}

pub fn parse() -> Args {
    Args::parse()
}
