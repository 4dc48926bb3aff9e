//! The live state in a file, for a machine without a network to ask over. It is always complete: each version is written
//! under a temporary name beside it and takes its place.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::Subject;
use super::state::State;
use crate::domain::display;

/// Between two looks for changes.
const INTERVAL: Duration = Duration::from_secs(1);

pub struct StatusFile {
    path: PathBuf,
    trouble: Mutex<Trouble>,
}

/// Whether it was said that the file cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    Said,
}

impl StatusFile {
    pub fn new(path: PathBuf) -> Self {
        Self { path, trouble: Mutex::new(Trouble::None) }
    }

    /// Writes what changes, until it is dropped.
    pub async fn keep(&self, subject: &Subject) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut written = None;
        loop {
            ticks.tick().await;
            let state = subject.state();
            // Time alone is no change.
            let essence = state.without_times();
            if written.as_ref() == Some(&essence) {
                continue;
            }
            match self.write(state).await {
                Ok(()) => {
                    written = Some(essence);
                    if std::mem::replace(&mut *self.trouble(), Trouble::None) == Trouble::Said {
                        info!(path = %display::path(&self.path), "the status file can be written again");
                    }
                }
                Err(error) => self.complain(&error),
            }
        }
    }

    pub async fn write(&self, state: State) -> io::Result<()> {
        let path = self.path.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let mut text = serde_json::to_vec(&state)?;
            text.push(b'\n');
            let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
            let mut temporary = std::ffi::OsString::from(".");
            temporary.push(name);
            temporary.push(format!(".{}.tmp", std::process::id()));
            let temporary = path.with_file_name(temporary);
            let written = replace(&temporary, &path, &text);
            if written.is_err() {
                // It is not there where it could not be made.
                let _ = std::fs::remove_file(&temporary);
            }
            written
        });
        writing.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
    }

    /// Once, until it can be written again.
    pub fn complain(&self, error: &io::Error) {
        if std::mem::replace(&mut *self.trouble(), Trouble::Said) == Trouble::None {
            warn!(path = %display::path(&self.path), %error, "the status file cannot be written");
        }
    }

    fn trouble(&self) -> std::sync::MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn replace(temporary: &std::path::Path, path: &std::path::Path, text: &[u8]) -> io::Result<()> {
    // A leftover can only be of a dead process that had our id, or a link that somebody laid there for us.
    match std::fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::File::create_new(temporary)?;
    // Whoever looks after it is often somebody else.
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.write_all(text)?;
    std::fs::rename(temporary, path)
}
