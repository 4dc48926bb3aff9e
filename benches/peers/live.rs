//! What a running process uses, from the kernel's account of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Pid;

/// Since its start, or at this moment.
#[derive(Debug, Clone)]
pub struct Usage {
    /// Of all of its threads, those that ended too.
    pub cpu: Duration,
    pub resident: u64,
    /// The largest that it has been: its own, for the kernel begins anew with each program.
    pub peak: u64,
    /// How often each thread that lives was taken off a processor.
    switches: BTreeMap<String, u64>,
}

impl Usage {
    pub fn of(pid: Pid) -> Result<Self> {
        let process = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let mut switches = BTreeMap::new();
        for thread in process.join("task").read_dir()? {
            let thread = thread?;
            // A thread that ends while it is looked at is left out.
            let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            let count = ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"].map(|key| number(&status, key));
            switches.insert(thread.file_name().to_string_lossy().into_owned(), count.into_iter().flatten().sum());
        }
        let status = std::fs::read_to_string(process.join("status"))?;
        let kib = |key| number(&status, key).map(|kib| kib * 1024).with_context(|| format!("no {key}"));
        Ok(Self { cpu: processor_time(pid)?, resident: kib("VmRSS:")?, peak: kib("VmHWM:")?, switches })
    }

    /// Of the threads that live now; what others did before they ended is not known any more.
    pub fn switches_since(&self, before: &Self) -> u64 {
        self.switches.iter().map(|(thread, count)| count - before.switches.get(thread).unwrap_or(&0)).sum()
    }
}

fn number(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.trim().trim_end_matches(" kB").parse().ok()
}

/// To the nanosecond; /proc has it in hundredths of a second only.
fn processor_time(pid: Pid) -> Result<Duration> {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both pointers are to live values that the calls may write to. rustix has no clock of another process.
    let read = unsafe {
        libc::clock_getcpuclockid(pid.as_raw_nonzero().get(), &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    ensure!(read, "no processor time of process {pid:?}");
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}
