//! Durations counted by how long they were: a few atomic additions each, and a fixed size.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets of a [`Distribution`], in seconds.
pub const BOUNDS: usize = 14;
pub type Bounds = [f64; BOUNDS];

/// Of one upload: from a round trip on a near network to a large file on a slow one.
pub const UPLOAD_SECONDS: Bounds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0, 1800.0];
/// Between a file's end and its archiving: from a settle time of nothing to an outage of a day.
pub const LAG_SECONDS: Bounds =
    [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0];

#[derive(Debug)]
pub struct Distribution {
    bounds: Bounds,
    /// One more for what is above all bounds.
    buckets: [AtomicU64; BOUNDS + 1],
    microseconds: AtomicU64,
}

/// A distribution at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Distributed {
    /// Each bound with the number of durations up to it, and above the one before.
    pub buckets: [(f64, u64); BOUNDS + 1],
    pub count: u64,
    pub seconds: f64,
}

impl Distribution {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, buckets: Default::default(), microseconds: AtomicU64::new(0) }
    }

    pub fn observe(&self, duration: Duration) {
        let bucket = self.bounds.iter().position(|bound| duration.as_secs_f64() <= *bound).unwrap_or(BOUNDS);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.microseconds.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    pub fn now(&self) -> Distributed {
        let mut now = Distributed::default();
        for (bucket, own) in now.buckets.iter_mut().zip(&self.buckets) {
            *bucket = (f64::INFINITY, own.load(Relaxed));
        }
        for (bucket, bound) in now.buckets.iter_mut().zip(self.bounds) {
            bucket.0 = bound;
        }
        now.count = now.buckets.iter().map(|(_, count)| count).sum();
        now.seconds = self.microseconds.load(Relaxed) as f64 / 1e6;
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_in_one_bucket() {
        let distribution = Distribution::new(LAG_SECONDS);
        for millis in [0, 100, 101, 90_000_000] {
            distribution.observe(Duration::from_millis(millis));
        }
        let now = distribution.now();
        assert_eq!((now.count, now.seconds), (4, 90_000.201));
        let filled: Vec<_> = now.buckets.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.1, 2), (0.25, 1), (f64::INFINITY, 1)]);
    }

    #[test]
    fn bounds_rise() {
        assert!([UPLOAD_SECONDS, LAG_SECONDS].iter().all(|bounds| bounds.is_sorted()));
    }
}
