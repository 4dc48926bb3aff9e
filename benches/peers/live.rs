//! What a running process uses, from /proc.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Pid;

/// Since its start, or at this moment.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Of all threads that live, to the nanosecond.
    pub cpu: Duration,
    /// How often one of its threads was put on a processor and off again.
    pub switches: u64,
    pub resident: u64,
    /// The largest that it has been: its own, for the kernel begins anew with each program.
    pub peak: u64,
}

impl Usage {
    pub fn of(pid: Pid) -> Result<Self> {
        let process = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let (mut nanoseconds, mut switches) = (0, 0);
        for thread in process.join("task").read_dir()? {
            let thread = thread?.path();
            // A thread that ends while it is looked at is left out.
            let Ok(schedule) = std::fs::read_to_string(thread.join("schedstat")) else { continue };
            nanoseconds += schedule.split(' ').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            let status = std::fs::read_to_string(thread.join("status")).unwrap_or_default();
            switches += number(&status, "voluntary_ctxt_switches:").unwrap_or(0);
            switches += number(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
        }
        let status = std::fs::read_to_string(process.join("status"))?;
        let kib = |key| number(&status, key).map(|kib| kib * 1024).with_context(|| format!("no {key}"));
        Ok(Self { cpu: Duration::from_nanos(nanoseconds), switches, resident: kib("VmRSS:")?, peak: kib("VmHWM:")? })
    }
}

fn number(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.trim().trim_end_matches(" kB").parse().ok()
}
