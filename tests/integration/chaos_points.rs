//! Failure points, in groups that scenarios choose from: one archiver's, and those of replicas.

use archiver::failpoint::Point;

/// On the way of every file to its commit.
pub const UPLOAD: &[Point] = &[
    Point::Discovered,
    Point::Ready,
    Point::Claimed,
    Point::Begun,
    Point::DirectoryMade,
    Point::StagingOpened,
    Point::SomeWritten,
    Point::AllWritten,
    Point::AttributesKept,
    Point::Closed,
    Point::Verified,
    Point::Unchanged,
    Point::LeaseConfirmed,
];
/// What a predecessor left of an upload.
pub const TAKEN_OVER: &[Point] =
    &[Point::PredecessorRemoved, Point::PredecessorAdopted, Point::Inherited, Point::ResumeChosen, Point::Reconciled];
/// The file changed meanwhile, or is gone when somebody comes for what was left of it.
pub const GIVEN_UP: &[Point] = &[
    Point::ChangedCleaned,
    Point::ChangedReleased,
    Point::OrphanClaimed,
    Point::OrphanRemoved,
    Point::OrphanForgotten,
];
/// From the commit to the end, whatever becomes of the local file.
pub const ON_RECORD: &[Point] = &[Point::Committed, Point::Recorded, Point::RowPut];
/// The disposal, whichever it is, and one that was cut short.
pub const DISPOSAL: &[Point] = &[
    Point::Disposing,
    Point::SetAside,
    Point::Judged,
    Point::FileDisposed,
    Point::Disposed,
    Point::UndisposedFound,
    Point::UndisposedDone,
    Point::PutBack,
];
/// The commit on OpenSSH.
pub const RENAMED: &[Point] = &[Point::Synced, Point::Renamed];
pub const DELETED: &[Point] = &[Point::Deleted];
/// The disposal to another filesystem.
pub const COPIED: &[Point] = &[
    Point::MoveDirectoryMade,
    Point::CopyCreated,
    Point::Copied,
    Point::CopyFlushed,
    Point::CopyNamed,
    Point::CopyDurable,
    Point::CopiedAndRemoved,
    Point::CopyFound,
];
/// The disposal within one filesystem, of files that have markers.
pub const MOVED_WITH_MARKER: &[Point] = &[
    Point::SetAside,
    Point::MoveDirectoryMade,
    Point::Moved,
    Point::FileDisposed,
    Point::MarkerDisposed,
    Point::Disposed,
    Point::UndisposedFound,
];
/// The commit by a hard link.
pub const LINKED: &[Point] = &[
    Point::Linked,
    Point::Unlinked,
    Point::Reconciled,
    Point::ReconciledAlone,
    Point::PredecessorAdopted,
    Point::ResumeChosen,
];
/// The commit where the name is taken.
pub const TAKEN: &[Point] = &[Point::NameTaken, Point::SameBytesStood, Point::Renamed, Point::Reconciled];
/// The commit over what has the name.
pub const OVERWRITTEN: &[Point] = &[Point::PosixRenamed, Point::NameTaken, Point::Committed];
/// The same without posix-rename.
pub const PUT_ASIDE: &[Point] = &[
    Point::WayMade,
    Point::OtherPutAside,
    Point::RenamedOver,
    Point::OtherDiscarded,
    Point::OtherPutBack,
    Point::NameTaken,
];
pub const DIRECT: &[Point] =
    &[Point::DirectChosen, Point::DirectWritten, Point::DirectRemoved, Point::Closed, Point::Recorded];
