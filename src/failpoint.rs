//! Failure points: named moments between the steps of an upload at which a test lets the program kill or stop itself.
//!
//! They exist with the cargo feature `failpoints` alone, which nothing that is released has: without it
//! [`reach`] is empty, and no name is in the program. With it, `ARCHIVER_FAILPOINT=NAME:NTH:WHAT` arms a point, several of
//! them separated by commas: the NTH time that it is reached (from 1), the process sends itself SIGKILL (`kill`)
//! or SIGSTOP (`stop`), having said so on standard error. Nothing is caught, closed or flushed, as in a crash.

macro_rules! points {
    ($($name:ident = $text:literal,)*) => {
        /// A moment right *after* the step that it is named for took effect.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[cfg_attr(feature = "failpoints", derive(Debug))]
        pub enum Point { $($name,)* }

        #[cfg(feature = "failpoints")]
        impl Point {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

points! {
    Discovered = "discovered",
    Ready = "ready",
    Claimed = "claimed",
    // A worker has it, and a session for it.
    Begun = "begun",
    // What a predecessor left.
    PredecessorRemoved = "predecessor-removed",
    PredecessorAdopted = "predecessor-adopted",
    Inherited = "inherited",
    // Who has the same bytes, where the ledger is asked.
    Reserved = "reserved",
    DuplicateFound = "duplicate-found",
    OtherFound = "other-found",
    OtherClaimed = "other-claimed",
    OtherDisarmed = "other-disarmed",
    OtherRecorded = "other-recorded",
    OtherReleased = "other-released",
    // The predecessor had committed it.
    Reconciled = "reconciled",
    ReconciledAlone = "reconciled-alone",
    DirectoryMade = "directory-made",
    StagingOpened = "staging-opened",
    ResumeChosen = "resume-chosen",
    SomeWritten = "some-written",
    AllWritten = "all-written",
    AttributesKept = "attributes-kept",
    Synced = "synced",
    Closed = "closed",
    Verified = "verified",
    // It changed meanwhile: what was staged is removed, the claim given up.
    ChangedCleaned = "changed-cleaned",
    ChangedReleased = "changed-released",
    Unchanged = "unchanged",
    LeaseConfirmed = "lease-confirmed",
    // The commit, by each of its ways.
    Linked = "linked",
    Unlinked = "unlinked",
    Renamed = "renamed",
    NameTaken = "name-taken",
    SameBytesStood = "same-bytes-stood",
    PosixRenamed = "posix-renamed",
    // Without posix-rename, over a file that was put aside.
    WayMade = "way-made",
    OtherPutAside = "other-put-aside",
    RenamedOver = "renamed-over",
    OtherDiscarded = "other-discarded",
    OtherPutBack = "other-put-back",
    Committed = "committed",
    // Published directly.
    DirectChosen = "direct-chosen",
    DirectWritten = "direct-written",
    DirectRemoved = "direct-removed",
    Recorded = "recorded",
    // The disposal.
    Disposing = "disposing",
    SetAside = "set-aside",
    Judged = "judged",
    Deleted = "deleted",
    MoveDirectoryMade = "move-directory-made",
    Moved = "moved",
    CopyCreated = "copy-created",
    Copied = "copied",
    CopyFlushed = "copy-flushed",
    CopyNamed = "copy-named",
    CopyDurable = "copy-durable",
    CopiedAndRemoved = "copied-and-removed",
    CopyFound = "copy-found",
    PutBack = "put-back",
    FileDisposed = "file-disposed",
    MarkerDisposed = "marker-disposed",
    Disposed = "disposed",
    RowPut = "row-put",
    // What earlier runs left.
    UndisposedFound = "undisposed-found",
    UndisposedDone = "undisposed-done",
    OrphanClaimed = "orphan-claimed",
    OrphanRemoved = "orphan-removed",
    OrphanForgotten = "orphan-forgotten",
}

/// The program is at this point now.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_: Point) {}

/// The program is at this point now. Does not return where it is armed with `kill`, and where it is armed with `stop`
/// once somebody sends SIGCONT.
#[cfg(feature = "failpoints")]
pub fn reach(point: Point) {
    armed::reach(point);
}

/// Does what no `stop` comes in between of, for it would keep other processes waiting: a transaction on a file that they
/// share.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn unstopped<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Does what no `stop` comes in between of, for it would keep other processes waiting: a transaction on a file that they
/// share.
#[cfg(feature = "failpoints")]
pub fn unstopped<T>(work: impl FnOnce() -> T) -> T {
    armed::unstopped(work)
}

/// The size from which on an interrupted upload is resumed: `default`, but for tests that have no time for as much.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn resume_from(default: u64) -> u64 {
    default
}

/// The size from which on an interrupted upload is resumed: `ARCHIVER_FAILPOINT_RESUME_FROM` in bytes, or `default`.
#[cfg(feature = "failpoints")]
pub fn resume_from(default: u64) -> u64 {
    use std::sync::OnceLock;
    static LOWERED: OnceLock<Option<u64>> = OnceLock::new();
    let lowered = || Some(std::env::var(armed::RESUME_FROM).ok()?.parse().expect("a number of bytes"));
    LOWERED.get_or_init(lowered).unwrap_or(default)
}

#[cfg(feature = "failpoints")]
pub use armed::VARIABLE;

#[cfg(feature = "failpoints")]
mod armed {
    use std::io::Write;
    use std::str::FromStr;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{OnceLock, PoisonError, RwLock};

    use rustix::process::Signal;

    use super::Point;

    /// Which points are armed.
    pub const VARIABLE: &str = "ARCHIVER_FAILPOINT";
    pub const RESUME_FROM: &str = "ARCHIVER_FAILPOINT_RESUME_FROM";

    #[derive(Debug)]
    struct Armed {
        point: Point,
        nth: u64,
        signal: Signal,
        reached: AtomicU64,
    }

    impl FromStr for Armed {
        type Err = ();

        fn from_str(text: &str) -> Result<Self, ()> {
            let mut parts = text.split(':');
            let (Some(name), Some(nth), Some(what), None) = (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                return Err(());
            };
            let signal = match what {
                "kill" => Signal::KILL,
                "stop" => Signal::STOP,
                _ => return Err(()),
            };
            let point = Point::ALL.iter().copied().find(|point| point.name() == name).ok_or(())?;
            Ok(Self { point, nth: nth.parse().map_err(|_| ())?, signal, reached: AtomicU64::new(0) })
        }
    }

    /// Whoever stops the process has it alone.
    static GOING: RwLock<()> = RwLock::new(());

    pub(super) fn unstopped<T>(work: impl FnOnce() -> T) -> T {
        let _going = GOING.read().unwrap_or_else(PoisonError::into_inner);
        work()
    }

    pub(super) fn reach(point: Point) {
        static ARMED: OnceLock<Vec<Armed>> = OnceLock::new();
        let armed = ARMED.get_or_init(|| {
            let text = std::env::var(VARIABLE).unwrap_or_default();
            let parse =
                |text: &str| text.parse().unwrap_or_else(|()| panic!("{VARIABLE}: {text:?} is not NAME:NTH:kill|stop"));
            text.split(',').filter(|text| !text.is_empty()).map(parse).collect()
        });
        for armed in armed.iter().filter(|armed| armed.point == point) {
            if armed.reached.fetch_add(1, Ordering::SeqCst) + 1 == armed.nth {
                let _ = std::io::stderr().write_all(format!("failpoint {} reached\n", point.name()).as_bytes());
                let _alone =
                    (armed.signal == Signal::STOP).then(|| GOING.write().unwrap_or_else(PoisonError::into_inner));
                // SAFETY: raise(3) takes a number. It goes to this thread, which would go on for a while where another one
                // were told to stop.
                unsafe { libc::raise(armed.signal.as_raw()) };
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_is_armed_is_read_strictly() {
            for point in Point::ALL {
                let armed: Armed = format!("{}:3:kill", point.name()).parse().unwrap();
                assert_eq!((armed.point, armed.nth, armed.signal), (*point, 3, Signal::KILL));
            }
            assert_eq!("renamed:1:stop".parse::<Armed>().unwrap().signal, Signal::STOP);
            for bad in
                ["", "renamed", "renamed:1", "renamed:x:kill", "renamed:1:exit", "nowhere:1:kill", "renamed:1:kill:1"]
            {
                assert!(bad.parse::<Armed>().is_err(), "{bad}");
            }
        }
    }
}
