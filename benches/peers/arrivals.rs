//! What appears below a directory, told by the kernel (inotify) at the moment it appears: looking again and again would
//! cost processor time that belongs to what is measured.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::stop;

/// How often a wait looks whether somebody asked to stop.
const LOOK: Duration = Duration::from_millis(200);

/// New names of files below a directory, those in new directories included.
pub struct Arrivals {
    events: OwnedFd,
    directories: HashMap<i32, PathBuf>,
    ready: VecDeque<Arrival>,
}

/// A file got this name. A name may be told twice where its directory is new.
#[derive(Debug)]
pub struct Arrival {
    pub at: Instant,
    pub path: PathBuf,
}

/// What the files are that stand in a directory when its watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    Old,
    /// They came between the directory and its watch, and are told of.
    New,
}

impl Arrivals {
    /// From now on; what stands there already is not told.
    pub fn below(root: &Path) -> Result<Self> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let mut arrivals = Self { events, directories: HashMap::new(), ready: VecDeque::new() };
        arrivals.watch(root, Inside::Old)?;
        Ok(arrivals)
    }

    /// The next one, if it comes within that time.
    pub fn next(&mut self, within: Duration) -> Result<Option<Arrival>> {
        let end = Instant::now() + within;
        loop {
            if let Some(arrival) = self.ready.pop_front() {
                return Ok(Some(arrival));
            }
            stop::check()?;
            if self.read()? {
                continue;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let timeout = Timespec::try_from(left.min(LOOK))?;
            match poll(&mut [PollFd::new(&self.events, PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes in what the kernel has; `false` where that is nothing.
    fn read(&mut self) -> Result<bool> {
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = Reader::new(&self.events, &mut buffer);
        let at = loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            ensure!(!event.events().contains(ReadFlags::QUEUE_OVERFLOW), "too much arrived at once to tell when");
            if let (Some(name), Some(directory)) = (event.file_name(), self.directories.get(&event.wd())) {
                let path = directory.join(OsStr::from_bytes(name.to_bytes()));
                if event.events().contains(ReadFlags::ISDIR) { directories.push(path) } else { files.push(path) }
            }
            if reader.is_buffer_empty() {
                break Instant::now();
            }
        };
        self.ready.extend(files.into_iter().map(|path| Arrival { at, path }));
        for directory in directories {
            self.watch(&directory, Inside::New)?;
        }
        Ok(true)
    }

    /// Watches a directory and those below it.
    fn watch(&mut self, directory: &Path, inside: Inside) -> Result<()> {
        let wanted = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        let number = inotify::add_watch(&self.events, directory, wanted)?;
        self.directories.insert(number, directory.to_owned());
        for entry in directory.read_dir()? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.watch(&entry.path(), inside)?;
            } else if inside == Inside::New {
                self.ready.push_back(Arrival { at: Instant::now(), path: entry.path() });
            }
        }
        Ok(())
    }
}
