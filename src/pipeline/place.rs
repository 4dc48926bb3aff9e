//! Places for files in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Files that pause between two attempts without keeping a place.
const PAUSES: usize = 2048;

/// All places for one destination.
#[derive(Debug, Clone)]
pub struct Places {
    places: Arc<Semaphore>,
    /// How many there are, taken ones included.
    made: Arc<AtomicUsize>,
    /// Bounds the files that rest outside of a place.
    pauses: Arc<Semaphore>,
}

impl Places {
    pub fn new(places: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
            made: Arc::new(AtomicUsize::new(places)),
            pauses: Arc::new(Semaphore::new(PAUSES)),
        }
    }

    /// Makes places, where there are fewer than `places` in all.
    pub fn grow_to(&self, places: usize) {
        let before = self.made.fetch_max(places, Ordering::Relaxed);
        self.places.add_permits(places.saturating_sub(before));
    }

    /// Waits for a free place.
    pub async fn take(&self) -> Place {
        // The semaphore is never closed.
        Place { taken: self.places.clone().acquire_owned().await.ok(), all: self.clone() }
    }
}

/// A place for one file. It is given up for the length of a pause, so that files that fail again and again do not keep
/// others waiting.
#[derive(Debug)]
pub struct Place {
    taken: Option<OwnedSemaphorePermit>,
    all: Places,
}

impl Place {
    /// Pauses, outside of the place where there is room for that.
    pub async fn rest(&mut self, pause: Duration) {
        self.rest_until(tokio::time::sleep(pause)).await;
    }

    /// As [`Place::rest`], until something happens.
    pub async fn rest_until(&mut self, wait: impl Future<Output = ()>) {
        let outside = self.leave();
        wait.await;
        if self.taken.is_none() {
            self.taken = self.all.places.clone().acquire_owned().await.ok();
        }
        drop(outside);
    }

    /// As [`Place::rest_until`], for a file that others wait for, perhaps in all places: it goes on without one where none
    /// is free.
    pub async fn rest_ahead(&mut self, wait: impl Future<Output = ()>) {
        let outside = self.leave();
        wait.await;
        if self.taken.is_none() {
            self.taken = self.all.places.clone().try_acquire_owned().ok();
        }
        drop(outside);
    }

    /// Gives the place up, where there is room for one more outside.
    fn leave(&mut self) -> Option<OwnedSemaphorePermit> {
        let outside = self.all.pauses.clone().try_acquire_owned().ok()?;
        self.taken = None;
        Some(outside)
    }
}
