//! What it was measured on and with.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Nothing here names the machine itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub memory_gib: u64,
    pub kernel: String,
    pub system: String,
    /// Of every tool that is installed.
    pub versions: Vec<(String, String)>,
}

const VERSIONS: &[(&str, &str)] = &[
    ("OpenSSH", "ssh -V 2>&1"),
    ("tar", "tar --version"),
    ("rsync", "rsync --version"),
    ("lftp", "lftp --version"),
    ("rclone", "rclone version"),
    ("Redis", "redis-server --version"),
];

impl Machine {
    pub fn here() -> Result<Self> {
        let processors = std::fs::read_to_string("/proc/cpuinfo")?;
        let memory = std::fs::read_to_string("/proc/meminfo")?;
        let kib: u64 =
            value(&memory, "MemTotal").and_then(|text| text.trim_end_matches(" kB").parse().ok()).unwrap_or(0);
        let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let name = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        let mut versions = Vec::new();
        for (tool, command) in VERSIONS {
            versions.extend(said(command).map(|line| ((*tool).to_owned(), line)));
        }
        Ok(Self {
            processor: value(&processors, "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            memory_gib: kib.div_ceil(1 << 20),
            kernel: said("uname -sr").unwrap_or_default(),
            system: name.unwrap_or("unknown").trim_matches('"').to_owned(),
            versions,
        })
    }
}

/// The three load averages.
pub fn load() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// Version and commit of this checkout, with a `+` where it had changes.
pub fn archiver() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let git = |script: &str| {
        let output = Command::new("bash").args(["-c", script]).current_dir(root).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    let version = env!("CARGO_PKG_VERSION");
    match git("git rev-parse --short=10 HEAD") {
        Some(commit) => {
            let changed = if git("git status --porcelain --untracked-files=no").is_some() { "+" } else { "" };
            format!("{version}, commit {commit}{changed}")
        }
        None => version.to_owned(),
    }
}

/// The value behind `key`, blanks and a colon.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(key)?.trim_start().strip_prefix(':')?.trim()))
}

/// The first line that a command says, if it can be run.
fn said(command: &str) -> Option<String> {
    let output = Command::new("bash").args(["-c", command]).env("LC_ALL", "C").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?.to_owned();
    output.status.success().then_some(line)
}
