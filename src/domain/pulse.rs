//! A sign of life of somebody who either works or waits.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Since when somebody has been at one thing. Whoever waits for others rests: that proves nothing.
#[derive(Debug)]
pub struct Pulse {
    epoch: Instant,
    /// Milliseconds after the epoch, and one more; 0 while resting.
    beat: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { epoch: Instant::now(), beat: AtomicU64::new(0) }
    }
}

impl Pulse {
    /// Another thing is begun.
    pub fn beat(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.epoch).as_millis();
        self.beat.store(u64::try_from(millis).unwrap_or(u64::MAX - 1) + 1, Relaxed);
    }

    /// Nothing is to be done, or somebody else has to do it.
    pub fn rest(&self) {
        self.beat.store(0, Relaxed);
    }

    /// How long it has been at the same thing; `None` while it rests.
    pub fn at_work_for(&self, now: Instant) -> Option<Duration> {
        let since = self.beat.load(Relaxed).checked_sub(1)?;
        Some(now.saturating_duration_since(self.epoch + Duration::from_millis(since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_without_a_beat_grows_old_and_rest_does_not() {
        let pulse = Pulse::default();
        let at = |seconds| pulse.epoch + Duration::from_secs(seconds);
        assert_eq!(pulse.at_work_for(at(9)), None);
        pulse.beat(at(0));
        assert_eq!(pulse.at_work_for(at(9)), Some(Duration::from_secs(9)));
        pulse.beat(at(8));
        assert_eq!(pulse.at_work_for(at(9)), Some(Duration::from_secs(1)));
        pulse.rest();
        assert_eq!(pulse.at_work_for(at(9)), None);
    }
}
