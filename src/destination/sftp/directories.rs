//! `mkdir -p` on the server, made once per run and directory, however many files ask for it at the same time.
//!
//! On a slow link every round trip counts: the whole chain above a first file is looked for at once, and what lies below
//! the base made at the same time, where it stands already to no effect. A directory below one that was just made is
//! made without a look.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::join_all;
use tokio::sync::OnceCell;

use super::features::ReplyOrder;
use super::session::{Kind, Session};
use crate::destination::error::StatusCode;
use crate::destination::{Consequence, DestinationError};
use crate::domain::{RemotePath, display};
use crate::failpoint::{Point, reach};

/// How many directories are remembered at most; beyond it all are forgotten, which costs one LSTAT each to relearn.
const REMEMBERED: usize = 16_384;

/// The directories of one destination that are known to stand.
#[derive(Debug)]
pub struct Directories {
    base: String,
    known: Mutex<HashMap<String, Arc<OnceCell<Origin>>>>,
    /// Held while a chain is looked for, so that files that begin together do not all look for the same one.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Found,
    /// By this run, so nothing that it did not make stands below.
    Made,
}

impl Directories {
    /// Below `base` all directories are ours to make; itself and what is above it are made only where they are missing.
    pub fn new(base: impl Into<String>) -> Self {
        Self { base: base.into(), known: Mutex::default(), looking: tokio::sync::Mutex::default() }
    }

    /// Returns once `directory` stands. Losing the race against another maker is fine.
    pub async fn ensure(&self, session: &Session, directory: &str) -> Result<(), DestinationError> {
        if is_root(directory) {
            return Ok(());
        }
        // Whoever comes first makes it; the others wait for that, and one of them tries again if it failed.
        self.cell(directory).get_or_try_init(|| self.make(session, directory)).await.map(|_| ())
    }

    /// Forgets a directory and everything above it, because something turned out to be missing.
    pub fn forget(&self, directory: &str) {
        self.known().retain(|name, _| !(directory == name || directory.starts_with(&format!("{name}/"))));
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<OnceCell<Origin>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cell(&self, directory: &str) -> Arc<OnceCell<Origin>> {
        let mut known = self.known();
        if let Some(cell) = known.get(directory) {
            return cell.clone();
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.entry(directory.to_owned()).or_default().clone()
    }

    /// What is known of a directory without a question to the server.
    fn origin(&self, directory: &str) -> Option<Origin> {
        match is_root(directory) {
            true => Some(Origin::Found),
            false => self.known().get(directory).and_then(|cell| cell.get().copied()),
        }
    }

    async fn make(&self, session: &Session, directory: &str) -> Result<Origin, DestinationError> {
        let path = RemotePath::new(directory);
        let mut parent = self.origin(path.parent());
        if parent.is_none() {
            let _looking = self.looking.lock().await;
            // Another file may have found it meanwhile.
            parent = self.origin(path.parent());
            if parent.is_none() {
                return self.make_chain(session, path).await;
            }
        }
        if parent == Some(Origin::Found) && stands(session, &path).await? {
            return Ok(Origin::Found);
        }
        self.mkdir(session, &path).await
    }

    /// The directory and everything above it that is not known.
    async fn make_chain(&self, session: &Session, directory: RemotePath) -> Result<Origin, DestinationError> {
        let mut chain = vec![directory];
        while let Some(parent) = chain.last().map(|path| RemotePath::new(path.parent()))
            && self.origin(parent.as_str()).is_none()
        {
            chain.push(parent);
        }
        chain.reverse();
        let in_order = session.features().order == ReplyOrder::InOrder;
        let looks = join_all(chain.iter().map(|path| stands(session, path)));
        // Sent behind the looks, which therefore tell what stood before.
        let ours = chain.iter().filter(|path| in_order && self.is_below_base(path));
        let tries = join_all(ours.map(|path| async move { (path, session.mkdir(path.as_str()).await) }));
        let (looks, tries) = futures::join!(looks, tries);
        for (path, made) in &tries {
            match made {
                Ok(()) => {
                    reach(Point::DirectoryMade);
                    self.learned(path, Origin::Made);
                }
                Err(error) if error.status.is_none() => return Err(error.clone()),
                // It stands, or what is above it does not: the looks tell.
                Err(_) => {}
            }
        }
        // From below: what stands above it is of no interest, and perhaps nothing that we may look at.
        let mut known = chain.len();
        for look in looks.iter().rev() {
            match look {
                Ok(true) => break,
                Ok(false) => known -= 1,
                Err(error) => return Err(error.clone()),
            }
        }
        let (found, missing) = chain.split_at(known);
        let seen = found.iter().zip(&looks).filter(|(_, look)| matches!(look, Ok(true)));
        seen.for_each(|(path, _)| self.learned(path, Origin::Found));
        for path in missing {
            if !tries.iter().any(|(tried, made)| *tried == path && made.is_ok()) {
                self.learned(path, self.mkdir(session, path).await?);
            }
        }
        Ok(if missing.is_empty() { Origin::Found } else { Origin::Made })
    }

    fn is_below_base(&self, path: &RemotePath) -> bool {
        match self.base.as_str() {
            "" | "/" => true,
            base => path.as_str().strip_prefix(base).is_some_and(|below| below.starts_with('/')),
        }
    }

    fn learned(&self, path: &RemotePath, origin: Origin) {
        // The one that was asked for is being set by its asker; any other may have been set by another one.
        let _ = self.cell(path.as_str()).set(origin);
    }

    async fn mkdir(&self, session: &Session, path: &RemotePath) -> Result<Origin, DestinationError> {
        match session.mkdir(path.as_str()).await {
            Ok(()) => {
                reach(Point::DirectoryMade);
                Ok(Origin::Made)
            }
            // SFTP version 3 has no "already exists": look whether another maker was faster.
            Err(error) if error.status.is_some() => match stands(session, path).await? {
                true => Ok(Origin::Found),
                false if error.is_status(StatusCode::PermissionDenied) => Err(error.hint(format!(
                    "{} is not writable for this user; name a directory below it that is, such as …/upload, \
                     or ask for write permission (`archiver check` shows what is writable)",
                    display::escaped(if path.parent().is_empty() { "the login directory" } else { path.parent() })
                ))),
                false => Err(error),
            },
            Err(error) => Err(error),
        }
    }
}

/// What no one has to make: the root, or the login directory.
fn is_root(directory: &str) -> bool {
    directory.is_empty() || directory == "/"
}

async fn stands(session: &Session, path: &RemotePath) -> Result<bool, DestinationError> {
    match session.lstat(path).await?.map(|attributes| attributes.kind) {
        None => Ok(false),
        // A link or an unknown kind may well lead to a directory; opening a file below it will tell.
        Some(Kind::Directory | Kind::Symlink | Kind::Unknown) => Ok(true),
        Some(Kind::File | Kind::Other) => Err(DestinationError::new(
            Consequence::File,
            format!("creating the directory {}", display::escaped(path.as_str())),
            "a file of that name stands in its place",
        )
        .hint("move that file away on the server, or choose another layout")),
    }
}
