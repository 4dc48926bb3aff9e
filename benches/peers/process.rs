//! Runs a command and says what it cost: time on the wall, processor seconds, peak memory.
//!
//! Costs come from the kernel's own account of a process that has ended and of all the children that it waited for
//! (`wait4`). Children that a command left behind fall to this process, and are waited for and added too.
//!
//! The kernel carries the peak of the process that starts another one over to it, so no peak here can be lower than
//! this program's own: it has to stay small itself, and the report states its peak.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, kill_process, kill_process_group, pidfd_open};

use crate::stop;

/// How often a wait looks whether somebody asked to stop.
const LOOK: Duration = Duration::from_millis(200);
/// What may remain after a command ended, such as a client's own `ssh`, is on its way out.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// What a command and its children cost.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub wall: Duration,
    /// User and system time of all of its processes.
    pub cpu: Duration,
    /// Of its largest single process, in bytes.
    pub peak: u64,
}

/// A command that runs in a process group of its own. Dropping it kills the group.
pub struct Process {
    pid: Pid,
    handle: OwnedFd,
    begin: Instant,
    errors: PathBuf,
    /// What ran before it; children that appear later and remain after it are its own.
    before: BTreeSet<i32>,
    reaped: bool,
}

/// How a wait ended.
pub enum Waited {
    Ended(ExitStatus, Cost),
    /// It still ran when the time was over.
    Running,
}

/// Lets processes whose parent ended become children of this one.
pub fn adopt_orphans() -> Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(getpid()))?)
}

/// The largest that this program has been, in bytes.
pub fn own_peak() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Runs a command to its end; it must succeed. `None` where it took longer than `bound` and was killed.
pub fn run(command: &mut Command, errors: &Path, bound: Duration) -> Result<Option<Cost>> {
    let mut process = Process::start(command, errors)?;
    match process.wait(bound)? {
        Waited::Ended(status, cost) => {
            ensure!(status.success(), "{status}\n{}", process.said());
            Ok(Some(cost))
        }
        Waited::Running => Ok(None),
    }
}

impl Process {
    /// What it writes to standard error goes to the file `errors`.
    pub fn start(command: &mut Command, errors: &Path) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(errors)?).process_group(0);
        let before = children()?;
        let begin = Instant::now();
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        let pid = Pid::from_child(&child);
        let handle = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { pid, handle, begin, errors: errors.to_owned(), before, reaped: false })
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    pub fn begin(&self) -> Instant {
        self.begin
    }

    /// What it wrote to standard error so far, the end of it where that is long.
    pub fn said(&self) -> String {
        let text = std::fs::read(&self.errors).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(4000)..]).into_owned()
    }

    /// How many lines on standard error have that text.
    pub fn lines_with(&self, text: &str) -> Result<usize> {
        let lines = BufReader::new(File::open(&self.errors)?).lines();
        Ok(lines.map_while(Result::ok).filter(|line| line.contains(text)).count())
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid, signal)?)
    }

    pub fn has_ended(&self) -> Result<bool> {
        ends_within(&self.handle, Duration::ZERO)
    }

    /// Waits until it ends, for so long at most.
    pub fn wait(&mut self, bound: Duration) -> Result<Waited> {
        if !ends_within(&self.handle, bound)? {
            return Ok(Waited::Running);
        }
        let wall = self.begin.elapsed();
        let (status, mut cpu, mut peak) = reap(self.pid)?;
        self.reaped = true;
        for left in children()?.difference(&self.before) {
            let left = Pid::from_raw(*left).context("a process has a number")?;
            if !ends_within(&pidfd_open(left, PidfdFlags::empty())?, LAST_WORDS)? {
                bail!("process {left:?} goes on after its command ended");
            }
            let (_, more, size) = reap(left)?;
            (cpu, peak) = (cpu + more, peak.max(size));
        }
        Ok(Waited::Ended(status, Cost { wall, cpu, peak }))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            // It fails only where all of the group ended meanwhile.
            let _ = kill_process_group(self.pid, Signal::KILL);
            let _ = reap(self.pid);
        }
        // Its children fell to this process with its end.
        for left in children().unwrap_or_default().difference(&self.before) {
            if let Some(left) = Pid::from_raw(*left) {
                let _ = kill_process(left, Signal::KILL);
                let _ = reap(left);
            }
        }
    }
}

fn ends_within(handle: &OwnedFd, bound: Duration) -> Result<bool> {
    let end = Instant::now() + bound;
    loop {
        stop::check()?;
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left.min(LOOK))?;
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) if left.is_zero() => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes the end of a child: its status, its processor time and its peak in bytes, those of its own children included.
fn reap(pid: Pid) -> Result<(ExitStatus, Duration, u64)> {
    let (mut status, mut usage) = (0, MaybeUninit::<libc::rusage>::zeroed());
    let pid = pid.as_raw_nonzero().get();
    // SAFETY: both pointers are valid for writes during the call, and rusage is plain integers, so that even one that
    // the kernel did not fill in is a value. rustix has no wait that gives the usage.
    let (got, usage) = unsafe { (libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()), usage.assume_init()) };
    if got != pid {
        return Err(std::io::Error::last_os_error()).context("wait4");
    }
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    Ok((ExitStatus::from_raw(status), time(usage.ru_utime) + time(usage.ru_stime), usage.ru_maxrss as u64 * 1024))
}

/// The children of this process, of whichever thread.
fn children() -> Result<BTreeSet<i32>> {
    let mut found = BTreeSet::new();
    for thread in Path::new("/proc/self/task").read_dir()? {
        let text = std::fs::read_to_string(thread?.path().join("children"))?;
        found.extend(text.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    Ok(found)
}
