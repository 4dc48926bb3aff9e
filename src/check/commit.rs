//! By which means an upload gets its final name on this server; `destination::sftp::publish` acts by it.

use std::fmt;

use crate::destination::DestinationError;
use crate::destination::sftp::{Links, RenameBehaviour, Session};
use crate::domain::RemotePath;

/// The means by which a final name appears and nothing is overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commit {
    Rename,
    HardLink,
    /// A look and then a rename, with a gap between the two.
    Look(NoLinks),
}

/// Why there are no hard links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoLinks {
    NotOffered,
    Refused,
    Pretended,
}

impl Commit {
    /// Finds it out. `there` is a file that stands, and `linked` a free name beside it.
    pub(super) async fn find(
        session: &Session,
        there: &RemotePath,
        linked: &RemotePath,
    ) -> Result<Self, DestinationError> {
        let features = session.features();
        if features.rename == RenameBehaviour::RefusesExisting {
            return Ok(Self::Rename);
        }
        if !features.hardlink {
            return Ok(Self::Look(NoLinks::NotOffered));
        }
        if session.links(there.parent()).await? == Links::Pretended {
            return Ok(Self::Look(NoLinks::Pretended));
        }
        match session.hardlink(there, linked).await {
            Ok(()) if session.lstat(linked).await?.is_some() => Ok(Self::HardLink),
            Err(error) if error.status.is_none() => Err(error),
            Ok(()) | Err(_) => Ok(Self::Look(NoLinks::Refused)),
        }
    }

    pub(super) fn links(self) -> &'static str {
        match self {
            Self::Rename | Self::HardLink => "made",
            Self::Look(NoLinks::NotOffered) => "not offered",
            Self::Look(NoLinks::Refused) => "refused",
            Self::Look(NoLinks::Pretended) => "only pretended",
        }
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rename => "files get their final name by it",
            Self::HardLink => "files get their final name by a hard link",
            Self::Look(_) => "files get their final name by it, after a look",
        })
    }
}
