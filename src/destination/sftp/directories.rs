//! `mkdir -p` on the server, made once per run and directory, however many files ask for it at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::OnceCell;

use super::session::{Kind, Session};
use crate::destination::error::StatusCode;
use crate::destination::{Consequence, DestinationError};
use crate::domain::{RemotePath, display};

/// How many directories are remembered at most; beyond it all are forgotten, which costs one LSTAT each to relearn.
const REMEMBERED: usize = 16_384;

/// The directories of one destination that are known to stand.
#[derive(Debug, Default)]
pub struct Directories {
    known: Mutex<HashMap<String, Arc<OnceCell<()>>>>,
}

impl Directories {
    /// Returns once `directory` stands. Losing the race against another maker is fine.
    pub async fn ensure(&self, session: &Session, directory: &str) -> Result<(), DestinationError> {
        if directory.is_empty() || directory == "/" {
            return Ok(());
        }
        let cell = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= REMEMBERED && !known.contains_key(directory) {
                known.clear();
            }
            known.entry(directory.to_owned()).or_default().clone()
        };
        // Whoever comes first makes it; the others wait for that, and one of them tries again if it failed.
        cell.get_or_try_init(|| self.make(session, directory)).await.copied()
    }

    /// Forgets a directory and everything above it, because something turned out to be missing.
    pub fn forget(&self, directory: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name, _| !(directory == name || directory.starts_with(&format!("{name}/"))));
    }

    fn make<'a>(&'a self, session: &'a Session, directory: &'a str) -> BoxFuture<'a, Result<(), DestinationError>> {
        Box::pin(async move {
            let path = RemotePath::new(directory);
            if stands(session, &path).await? {
                return Ok(());
            }
            self.ensure(session, path.parent()).await?;
            match session.mkdir(directory).await {
                Ok(()) => Ok(()),
                // SFTP version 3 has no "already exists": look whether another maker was faster.
                Err(error) if error.status.is_some() => match stands(session, &path).await? {
                    true => Ok(()),
                    false if error.is_status(StatusCode::PermissionDenied) => Err(error.hint(format!(
                        "{} is not writable for this user; name a directory below it that is, such as …/upload, \
                         or ask for write permission (`archiver check` shows what is writable)",
                        display::escaped(if path.parent().is_empty() { "the login directory" } else { path.parent() })
                    ))),
                    false => Err(error),
                },
                Err(error) => Err(error),
            }
        })
    }
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
