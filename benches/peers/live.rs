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

/// Every child of this program, with its name and the processor time that it and those of its descendants took that it
/// waited for, in steps of a hundredth of a second; and what its descendants that live took.
pub fn children_times() -> Result<BTreeMap<i32, (String, Duration)>> {
    let mut parents = BTreeMap::<i32, Vec<i32>>::new();
    let mut found = BTreeMap::new();
    for process in std::fs::read_dir("/proc")? {
        let Ok(pid) = process?.file_name().to_string_lossy().parse::<i32>() else { continue };
        // Others end while one looks.
        let Some((name, parent, ticks)) = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(stat)
        else {
            continue;
        };
        parents.entry(parent).or_default().push(pid);
        found.insert(pid, (name, ticks));
    }
    let mut times = BTreeMap::new();
    for child in parents.get(&(std::process::id() as i32)).into_iter().flatten() {
        let (mut ticks, mut look_at) = (0, vec![*child]);
        while let Some(pid) = look_at.pop() {
            ticks += found[&pid].1;
            look_at.extend(parents.get(&pid).into_iter().flatten());
        }
        times.insert(*child, (found[child].0.clone(), Duration::from_millis(ticks * 1000 / TICKS)));
    }
    Ok(times)
}

/// `USER_HZ`, which Linux has had as 100 on all of today's processors.
const TICKS: u64 = 100;

/// Name, parent, and processor time with that of the children that were waited for (proc_pid_stat(5)).
fn stat(text: String) -> Option<(String, i32, u64)> {
    let (begin, end) = (text.find('(')?, text.rfind(')')?);
    let fields: Vec<&str> = text[end + 1..].split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u64>()).sum::<Result<_, _>>().ok()?;
    Some((text[begin + 1..end].to_owned(), fields[1].parse().ok()?, ticks))
}
