//! What may be done below the base: every kind of request that an upload needs, in a directory of our own.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::Utc;

use super::base::{Base, below, or_here};
use super::commit::Commit;
use super::network::wants_sync;
use super::probe::{Name, Probe, Verdict};
use super::{Run, Skip};
use crate::destination::DestinationError;
use crate::destination::error::StatusCode;
use crate::destination::sftp::{Attributes, OpenHow, RemoteFile, Session};
use crate::domain::{DateFrom, Publish, RemotePath, Verify};

/// A modification time that no server gives by itself: 2001-09-09T01:46:40Z.
const PAST: u32 = 1_000_000_000;
/// A mode that no usual umask gives by itself.
const MODE: u32 = 0o640;
/// Clocks that differ by less do not matter, for dates nor for people.
const SKEW: Duration = Duration::from_secs(2);
/// Less free space than this is soon used up.
const LITTLE: u64 = 100 << 20;
const LOST: Skip = Skip::Without("the session was lost");

/// What a file that was just written looks like.
struct Written {
    path: RemotePath,
    /// The modification time that the server gave, and our clock before and after.
    stamped: Option<u32>,
    between: (SystemTime, SystemTime),
    setstat: Result<(), DestinationError>,
    /// Once the file was closed.
    after: Option<Attributes>,
}

impl Run<'_> {
    pub(super) async fn rights(&mut self, session: &Session) -> Result<(), Skip> {
        let alive = || if session.is_closed() { Err(LOST) } else { Ok(()) };
        let base = self.base(session).await;
        let directory = match &base {
            Some(base) => self.mkdir(session, base).await,
            None => None,
        };
        alive()?;
        let written = match &directory {
            Some(directory) => self.files(session, directory).await?,
            None => {
                let names = [Name::Mkdir, Name::Write, Name::Rename, Name::Setstat, Name::Delete];
                // Where there is a base, MKDIR was tried and said why it failed.
                self.skip(&names[usize::from(base.is_some())..], "there is no directory to try it in");
                None
            }
        };
        alive()?;
        self.space(session, base.as_ref()).await;
        self.sessions().await;
        match &written {
            Some(written) => self.clock(written),
            None => self.skip(&[Name::Clock], "nothing could be written"),
        }
        self.folder();
        Ok(())
    }

    /// Everything that is done with files, in a directory of our own.
    async fn files(&mut self, session: &Session, directory: &RemotePath) -> Result<Option<Written>, Skip> {
        let written = self.write(session, directory).await;
        match &written {
            _ if session.is_closed() => return Err(LOST),
            Some(written) => {
                self.rename(session, directory, &written.path).await;
                self.setstat(written);
            }
            None => self.skip(&[Name::Rename, Name::Setstat], "nothing could be written"),
        }
        if session.is_closed() {
            return Err(LOST);
        }
        self.delete(session).await;
        Ok(written)
    }

    /// Writes a file as a stage does, and reads it back.
    async fn write(&mut self, session: &Session, directory: &RemotePath) -> Option<Written> {
        let path = below(directory.as_str(), "probe");
        self.litter.file(&path);
        let content = pattern(self.random, session.features().write_len);
        let before = SystemTime::now();
        let result = self.write_file(session, &path, &content, before).await;
        let written = match result {
            Ok(written) => written,
            Err(error) => {
                let probe = self.no_write(session, directory, error, content.len()).await;
                self.found(probe);
                return None;
            }
        };
        let shown = format!("{} bytes", content.len());
        self.found(match read_back(session, &path, content.len()).await {
            Ok(read) if read == content => Probe::ok(Name::Write, format!("{shown}, and the same came back")),
            Ok(_) => Probe::fail(Name::Write, format!("{shown}, and others came back"))
                .hint("the server or its disk changes what it is given; do not use it"),
            Err(error) if error.status.is_none() => Probe::refused(Name::Write, &error),
            Err(error) if self.destination.verify == Verify::Readback => {
                Probe::fail(Name::Write, format!("{shown}, but they cannot be read back ({error})"))
                    .hint("--verify readback needs to read; let the user read its files, or use --verify size")
            }
            Err(error) => Probe::warn(Name::Write, format!("{shown}, but they cannot be read back ({error})")).hint(
                "--verify size does without; a file whose name is taken cannot be compared with what stands there",
            ),
        });
        Some(written)
    }

    async fn write_file(
        &self,
        session: &Session,
        path: &RemotePath,
        content: &[u8],
        before: SystemTime,
    ) -> Result<Written, DestinationError> {
        let file = session.open(path, OpenHow::CreateNew).await?;
        let filled = async {
            session.write(&file, 0, content.to_vec()).await?;
            let stat = session.fstat(&file).await?;
            let between = (before, SystemTime::now());
            let setstat = session.fsetstat(&file, PAST, MODE).await;
            if session.features().fsync && wants_sync(self.settings, self.destination, self.index) {
                session.fsync(&file).await?;
            }
            Ok((stat, between, setstat))
        };
        let filled = filled.await;
        let closed = session.close(&file).await;
        let (stat, between, setstat) = filled?;
        closed?;
        if stat.size.is_some_and(|size| size != content.len() as u64) {
            let why = "the server says that the file has another size than was written";
            return Err(DestinationError::from_status(format!("FSTAT {path}"), 4, why));
        }
        let after = session.lstat(path).await?;
        Ok(Written { path: path.clone(), stamped: stat.mtime, between, setstat, after })
    }

    /// Version 3 has one code for most failures; whether the disk is full is found out by looking.
    async fn no_write(&self, session: &Session, place: &RemotePath, error: DestinationError, bytes: usize) -> Probe {
        let probe = Probe::refused(Name::Write, &error);
        if !error.is_status(StatusCode::Failure) {
            return probe;
        }
        match session.free_space(place.as_str()).await {
            Ok(Some(free)) if free.bytes < bytes as u64 => {
                Probe::fail(Name::Write, format!("{error}: no space left, {} are free", bytesize(free.bytes)))
                    .hint("make room on the server, or raise the user's quota")
            }
            _ => probe,
        }
    }

    /// To a free name, then to one that is taken.
    async fn rename(&mut self, session: &Session, directory: &RemotePath, written: &RemotePath) {
        let direct = self.destination.publish == Publish::Direct;
        let free = below(directory.as_str(), "renamed");
        let taken = below(directory.as_str(), "taken");
        self.litter.file(&free);
        if let Err(error) = session.rename(written, &free).await {
            let unsupported = error.is_status(StatusCode::OpUnsupported);
            let probe = match (direct, unsupported) {
                _ if error.status.is_none() => Probe::refused(Name::Rename, &error),
                (true, _) => {
                    Probe::ok(Name::Rename, format!("not possible ({error}), and not needed: publish is direct"))
                }
                (false, true) => Probe::fail(Name::Rename, error.to_string()).hint(
                    "this server cannot rename: set publish = \"direct\" (--publish direct) if readers may see \
                     partial files",
                ),
                (false, false) => Probe::fail(Name::Rename, error.to_string()).hint(
                    "let the user rename its files; or set publish = \"direct\" (--publish direct) if readers may see \
                     partial files",
                ),
            };
            self.found(probe);
            return;
        }
        self.litter.file(&taken);
        let probe = match self.onto(session, &free, &taken).await {
            Ok(probe) if direct && probe.verdict != Verdict::Fail => Probe::warn(Name::Rename, probe.detail)
                .hint("publish = \"direct\" is not needed here; without it nobody sees a partial file"),
            Ok(probe) => probe,
            Err(error) if error.status.is_none() => Probe::refused(Name::Rename, &error),
            Err(error) => Probe::warn(Name::Rename, format!("works, but whether it overwrites is not known ({error})")),
        };
        self.found(probe);
    }

    /// Renames onto a name that another file has.
    async fn onto(
        &mut self,
        session: &Session,
        free: &RemotePath,
        taken: &RemotePath,
    ) -> Result<Probe, DestinationError> {
        let file = session.open(taken, OpenHow::CreateNew).await?;
        session.close(&file).await?;
        let refuses = match session.rename(free, taken).await {
            Ok(()) => false,
            Err(error) if error.status.is_none() => return Err(error),
            Err(_) => true,
        };
        // Whatever the server said: what stands now?
        let kept = session.lstat(taken).await?.is_some_and(|kept| kept.size.is_none_or(|size| size == 0));
        let left = session.lstat(free).await?.is_some();
        match (refuses, kept, left) {
            (true, true, true) | (false, _, false) => {}
            (true, _, _) => {
                let text = "refused for a name that is taken, and yet carried out in part";
                return Ok(Probe::fail(Name::Rename, text).hint("this server loses files; do not use it"));
            }
            (false, _, true) => {
                let text = "the server says that it renamed onto a name that is taken, and did not";
                return Ok(Probe::fail(Name::Rename, text).hint("this server loses files; do not use it"));
            }
        }
        let linked = below(free.parent(), "linked");
        self.litter.file(&linked);
        let commit = Commit::find(session, taken, &linked).await?;
        Ok(match (refuses, commit) {
            (false, Commit::Rename) => Probe::fail(
                Name::Rename,
                "overwrites a name that is taken, which a server of this kind should not",
            )
            .hint("the archiver relies on OpenSSH's refusal; report this server, and do not let others write there"),
            (true, commit) => Probe::ok(Name::Rename, format!("works, and refuses a name that is taken; {commit}")),
            (false, Commit::HardLink) => {
                let text = "works, but overwrites a name that is taken";
                Probe::warn(Name::Rename, text)
                    .hint(format!("nothing to do: {}, which never overwrites", Commit::HardLink))
            }
            (false, commit) => Probe::warn(
                Name::Rename,
                format!("works, but overwrites a name that is taken, and links are {}", commit.links()),
            )
            .hint(
                "the archiver looks before it renames; another client that takes the same name in between loses its \
                 file, so let nobody else write below the base",
            ),
        })
    }

    fn setstat(&mut self, written: &Written) {
        let nothing_to_do = "archived files have the time of their upload; nothing else depends on it";
        let after = written.after;
        self.found(match &written.setstat {
            Err(error) => Probe::warn(Name::Setstat, format!("refused ({error})")).hint(nothing_to_do),
            Ok(()) if after.and_then(|after| after.mtime) != Some(PAST) => {
                Probe::warn(Name::Setstat, "accepted, but the modification time is not kept").hint(nothing_to_do)
            }
            Ok(()) => match after.and_then(|after| after.mode) {
                Some(MODE) | None => Probe::ok(Name::Setstat, "modification time and mode are kept"),
                Some(mode) => {
                    Probe::ok(Name::Setstat, format!("the modification time is kept; mode {MODE:o} became {mode:o}"))
                }
            },
        });
    }

    async fn delete(&mut self, session: &Session) {
        let probe = match self.litter.clear(session).await {
            Ok(()) => Probe::ok(Name::Delete, "all that was made here is gone"),
            Err(error) => Probe::fail(Name::Delete, error.to_string())
                .hint("let the user delete what it made: the archiver removes temporary names of its own"),
        };
        self.found(probe);
    }

    async fn space(&mut self, session: &Session, base: Option<&Base>) {
        let Some(base) = base else { return self.skip(&[Name::Space], "there is no base") };
        let probe = match session.free_space(&base.place).await {
            Ok(None) => return self.skip(&[Name::Space], "the server does not say (no statvfs)"),
            Ok(Some(free)) => {
                let files = if free.inodes > 0 { format!(", {} files", free.inodes) } else { String::new() };
                let text = format!("{}{files} free", bytesize(free.bytes));
                match free.bytes < LITTLE {
                    true => Probe::warn(Name::Space, text)
                        .hint("make room on the server; while it is full, uploads wait and nothing is lost"),
                    false => Probe::ok(Name::Space, text),
                }
            }
            Err(error) if error.status.is_none() => Probe::refused(Name::Space, &error),
            Err(error) => Probe { verdict: Verdict::Warn, ..Probe::refused(Name::Space, &error) },
        };
        self.found(probe);
    }

    fn clock(&mut self, written: &Written) {
        let Some(stamped) = written.stamped else {
            return self.skip(&[Name::Clock], "the server gives no modification time");
        };
        let (skew, direction) = skew(stamped, written.between);
        self.found(match skew > SKEW {
            true => Probe::warn(Name::Clock, format!("the server's clock is {} s {direction}", skew.as_secs()))
                .hint("dates of folders come from this machine's clock; let both follow NTP"),
            false => Probe::ok(Name::Clock, "as the clock here, within 2 s"),
        });
    }

    /// Where a file would go now.
    fn folder(&mut self) {
        let destination = self.destination;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let mut names: Vec<_> = self
            .settings
            .sources
            .iter()
            .filter(|source| source.destination == self.index)
            .map(|source| source.name.as_str())
            .collect();
        if names.is_empty() {
            names.push("");
        }
        let now = Utc::now();
        let mut folders: Vec<_> = names
            .into_iter()
            .map(|name| destination.layout.render(now, destination.timezone, name, &host))
            .map(|folder| match RemotePath::below(&destination.url.base, &folder, Path::new("")) {
                Ok(path) => or_here(path.as_str()).to_owned(),
                Err(_) => folder,
            })
            .collect();
        folders.dedup();
        let of = match destination.date_from {
            DateFrom::Claim => "now",
            DateFrom::Modified => "for a file modified now",
        };
        self.found(Probe::ok(Name::Folder, format!("{} {of} (timezone {})", folders.join(", "), destination.timezone)));
    }
}

/// Bytes that a server that mixes something up does not give back by chance.
fn pattern(seed: u64, len: u32) -> Vec<u8> {
    // A linear congruential generator (Knuth, MMIX) is as random as this needs.
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

async fn read_back(session: &Session, path: &RemotePath, len: usize) -> Result<Vec<u8>, DestinationError> {
    let file = session.open(path, OpenHow::Read).await?;
    let read = read_all(session, &file, len).await;
    session.close(&file).await?;
    read
}

/// All there is, or one byte more than there should be.
async fn read_all(session: &Session, file: &RemoteFile, len: usize) -> Result<Vec<u8>, DestinationError> {
    let mut content = Vec::new();
    while content.len() <= len {
        let data = session.read(file, content.len() as u64, session.features().read_len).await?;
        if data.is_empty() {
            break;
        }
        content.extend(data);
    }
    Ok(content)
}

/// By how much the server's clock certainly differs from ours. Its time is in whole seconds, so it was anything from
/// `stamped` to a second later; ours was anything in `between`.
fn skew(stamped: u32, between: (SystemTime, SystemTime)) -> (Duration, &'static str) {
    let earliest = UNIX_EPOCH + Duration::from_secs(stamped.into());
    let latest = earliest + Duration::from_secs(1);
    match (earliest.duration_since(between.1), between.0.duration_since(latest)) {
        (Ok(ahead), _) => (ahead, "ahead"),
        (_, Ok(behind)) => (behind, "behind"),
        _ => (Duration::ZERO, ""),
    }
}

fn bytesize(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_judged_only_by_what_is_certain() {
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        // Written at 10.9 by our clock; the server says second 10.
        assert_eq!(skew(10, (at(10_900), at(10_950))).0, Duration::ZERO);
        // A request that took five seconds says little.
        assert_eq!(skew(10, (at(8_000), at(13_000))).0, Duration::ZERO);
        assert_eq!(skew(20, (at(10_000), at(10_500))), (Duration::from_millis(9_500), "ahead"));
        assert_eq!(skew(10, (at(20_000), at(20_500))), (Duration::from_secs(9), "behind"));
    }

    #[test]
    fn patterns_differ() {
        assert_eq!(pattern(1, 32_768).len(), 32_768);
        assert_ne!(pattern(1, 64), pattern(2, 64));
    }
}
