//! Short work on local files, off the tasks that serve the sessions.
//!
//! Handing one small file after another to a thread costs more than reading it: each hand-over wakes a thread. So what
//! is asked for while a thread works waits, and is done by the same thread in one go. Work that waits for too long, or
//! too much of it, gets a thread more: one source may stand on a filesystem that is slow or hangs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// Threads at a time, of those that the runtime has for blocking work.
const THREADS: usize = 16;
/// Pieces of work that may wait for each thread before another one is taken.
const BACKLOG: usize = 32;
/// How long a piece of work waits for a thread that is busy with another.
const PATIENCE: Duration = Duration::from_millis(5);

type Work = Box<dyn FnOnce() + Send>;

/// A handle; clones share the threads.
#[derive(Clone, Default)]
pub struct Desk(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    waiting: std::collections::VecDeque<Work>,
    threads: usize,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

/// The work panicked; the message is on standard error already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a part of this program failed; please report this")]
pub struct Panicked;

impl Desk {
    /// Does the work on a thread where it may block. Work that was begun is finished even where nobody waits for it.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Panicked> {
        let (sender, mut done) = oneshot::channel();
        let work = move || {
            if let Ok(result) = catch_unwind(AssertUnwindSafe(work)) {
                let _ = sender.send(result);
            }
        };
        self.put(Box::new(work));
        match tokio::time::timeout(PATIENCE, &mut done).await {
            Ok(result) => result.map_err(|_| Panicked),
            Err(_) => {
                self.hurry();
                done.await.map_err(|_| Panicked)
            }
        }
    }

    fn put(&self, work: Work) {
        let mut queue = self.queue();
        queue.waiting.push_back(work);
        if queue.threads == 0 || queue.waiting.len() > BACKLOG * queue.threads {
            self.open(&mut queue);
        }
    }

    fn hurry(&self) {
        let mut queue = self.queue();
        if !queue.waiting.is_empty() {
            self.open(&mut queue);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one more thread, where there may be more.
    fn open(&self, queue: &mut Queue) {
        if queue.threads < THREADS {
            queue.threads += 1;
            let desk = self.clone();
            tokio::task::spawn_blocking(move || desk.serve());
        }
    }

    /// Works until nothing waits.
    fn serve(&self) {
        loop {
            let mut queue = self.queue();
            let Some(work) = queue.waiting.pop_front() else {
                queue.threads -= 1;
                return;
            };
            drop(queue);
            work();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn work_is_done_and_answered() {
        let desk = Desk::default();
        let all = futures::future::join_all((0..1_000).map(|n| desk.run(move || n))).await;
        assert_eq!(all, (0..1_000).map(Ok).collect::<Vec<_>>());
        assert!(desk.queue().waiting.is_empty());
    }

    #[tokio::test]
    async fn work_that_hangs_holds_up_no_other() {
        let desk = Desk::default();
        let (release, hang) = mpsc::channel::<()>();
        let hung = tokio::spawn({
            let desk = desk.clone();
            async move { desk.run(move || hang.recv().is_err()).await }
        });
        while desk.queue().threads == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(desk.run(|| 1).await, Ok(1));
        drop(release);
        assert_eq!(hung.await.unwrap(), Ok(true));
    }

    #[tokio::test]
    async fn a_panic_ends_nothing_else() {
        let desk = Desk::default();
        let panicked = desk.run(|| panic!("as the test wants"));
        let (panicked, fine): (Result<(), _>, _) = futures::join!(panicked, desk.run(|| 1));
        assert_eq!((panicked, fine), (Err(Panicked), Ok(1)));
    }
}
