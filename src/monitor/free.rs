//! The free space of the sources, asked for beside everything else: a dead network mount never answers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Questions;

/// How long a look waits for the filesystems.
const PATIENCE: Duration = Duration::from_millis(500);

pub type Free = Vec<(Arc<str>, u64)>;

/// What was answered last.
pub struct FreeBytes {
    known: Arc<Mutex<Free>>,
    /// One question at a time, whose thread may hang.
    asking: Arc<Semaphore>,
}

impl Default for FreeBytes {
    fn default() -> Self {
        Self { known: Arc::default(), asking: Arc::new(Semaphore::new(1)) }
    }
}

impl FreeBytes {
    /// As of now, or the last answer where none comes soon.
    pub async fn now(&self, questions: &Questions) -> Free {
        let (known, ask) = (self.known.clone(), questions.free_bytes.clone());
        if let Ok(permit) = self.asking.clone().try_acquire_owned() {
            let asked = tokio::task::spawn_blocking(move || {
                *known.lock().unwrap_or_else(PoisonError::into_inner) = ask();
                drop(permit);
            });
            // Late or not, what is known is told.
            let _ = tokio::time::timeout(PATIENCE, asked).await;
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
