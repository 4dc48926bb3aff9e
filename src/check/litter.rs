//! What the probes made on the server, noted before each request is sent, so that it can be removed whatever happens.

use crate::destination::DestinationError;
use crate::destination::error::StatusCode;
use crate::destination::sftp::Session;
use crate::domain::RemotePath;

/// Names that may stand on the server because of us.
#[derive(Debug, Default)]
pub struct Litter {
    files: Vec<RemotePath>,
    /// Parents before what is in them.
    directories: Vec<RemotePath>,
}

impl Litter {
    /// To be called before the file is created under that name, or renamed to it.
    pub fn file(&mut self, path: &RemotePath) {
        self.files.push(path.clone());
    }

    /// To be called before the directory is made.
    pub fn directory(&mut self, path: &RemotePath) {
        self.directories.push(path.clone());
    }

    /// The server said that it did not make it.
    pub fn never_made(&mut self, path: &RemotePath) {
        self.files.retain(|file| file != path);
        self.directories.retain(|directory| directory != path);
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.directories.is_empty()
    }

    /// What there is, for people.
    pub fn names(&self) -> String {
        let names = self.files.iter().chain(&self.directories).map(RemotePath::as_str);
        names.collect::<Vec<_>>().join(", ")
    }

    /// Removes all of it, and forgets what is gone. Gives the first error; what it concerns is tried again by the next
    /// call.
    pub async fn clear(&mut self, session: &Session) -> Result<(), DestinationError> {
        let mut first = Ok(());
        let mut left = Vec::new();
        for file in self.files.clone() {
            if let Err(error) = gone(session.remove(&file).await) {
                left.push(file);
                first = first.and(Err(error));
            }
        }
        self.files = left;
        let mut left = Vec::new();
        for directory in self.directories.clone().into_iter().rev() {
            if let Err(error) = gone(session.rmdir(directory.as_str()).await) {
                left.insert(0, directory);
                first = first.and(Err(error));
            }
        }
        self.directories = left;
        first
    }
}

fn gone(removed: Result<(), DestinationError>) -> Result<(), DestinationError> {
    match removed {
        Err(error) if error.is_status(StatusCode::NoSuchFile) => Ok(()),
        other => other,
    }
}
