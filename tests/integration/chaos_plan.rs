//! What has to be the case for a failure point to be reached, where a changing tree alone does not lead there often.

use archiver::failpoint::Point;

/// How a point is come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Where an earlier run is killed first.
    pub first: Option<Point>,
    /// What the application does before the (first) run.
    pub made: Deed,
    /// What it does between the two runs.
    pub between: Deed,
    /// Where the run is stopped for a while, and the application appends to all that stands.
    pub changed_at: Option<Point>,
    /// What the run is told to do with local files.
    pub after: Told,
}

/// What the application does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Two new files.
    Small,
    /// One new file whose upload is resumed.
    Large,
    /// New versions under names that have been used.
    Again,
    /// A new file of which somebody else put a copy on the server.
    Copied,
    /// Everything is removed.
    Withdraw,
    Nothing,
}

/// What becomes of local files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    AsEver,
    /// Nothing any more.
    Keep,
}

impl Plan {
    pub fn of(point: Point) -> Self {
        use Point as P;
        let plain =
            Self { first: None, made: Deed::Small, between: Deed::Nothing, changed_at: None, after: Told::AsEver };
        let after = |first| Self { first: Some(first), ..plain };
        match point {
            P::PredecessorRemoved | P::Inherited => after(P::Closed),
            P::PredecessorAdopted | P::ResumeChosen => Self { made: Deed::Large, ..after(P::SomeWritten) },
            P::Reconciled => after(P::Committed),
            P::ReconciledAlone => Self { made: Deed::Large, ..after(P::Linked) },
            P::ChangedCleaned | P::ChangedReleased => Self { changed_at: Some(P::StagingOpened), ..plain },
            P::DirectRemoved => Self { changed_at: Some(P::Closed), ..plain },
            P::NameTaken | P::PosixRenamed | P::WayMade | P::OtherPutAside | P::RenamedOver | P::OtherDiscarded => {
                Self { made: Deed::Again, ..plain }
            }
            P::OtherPutBack => Self { made: Deed::Again, ..after(P::OtherPutAside) },
            P::SameBytesStood => Self { made: Deed::Copied, ..plain },
            P::CopyFound => after(P::CopyNamed),
            P::PutBack => Self { after: Told::Keep, ..after(P::SetAside) },
            P::UndisposedFound | P::UndisposedDone => after(P::Disposing),
            P::OrphanClaimed | P::OrphanRemoved | P::OrphanForgotten => {
                Self { between: Deed::Withdraw, ..after(P::AllWritten) }
            }
            _ => plain,
        }
    }
}
