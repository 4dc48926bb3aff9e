//! The last ten minutes, five seconds a sample, for the charts of the page. Clocks come in as arguments.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

/// The time that one sample stands for.
pub const STEP: Duration = Duration::from_secs(5);
/// Samples that are kept.
pub const SAMPLES: usize = 120;

/// What a history is made of: counters since the start, and what waits at this moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    pub archived: u64,
    pub bytes: u64,
    pub failed: u64,
    /// Files.
    pub waiting: u64,
    /// From finished to committed, of all files of which it is known together.
    pub lag_seconds: f64,
    /// Files of which it is known.
    pub lags: u64,
}

/// One step. `archived`, `bytes` and `failed` are of this step alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its end.
    pub at: DateTime<Utc>,
    pub archived: u64,
    pub bytes: u64,
    pub failed: u64,
    /// Files at its end.
    pub waiting: u64,
    /// Mean of the files archived in it, where there were any of which it is known.
    pub lag_seconds: Option<f64>,
}

/// A ring of samples, oldest first.
#[derive(Debug)]
pub struct History {
    samples: VecDeque<Sample>,
    /// The end of the last sample.
    until: Instant,
    last: Reading,
}

impl History {
    pub fn new(now: Instant) -> Self {
        Self { samples: VecDeque::with_capacity(SAMPLES), until: now, last: Reading::default() }
    }

    /// When the next sample is due.
    pub fn due(&self) -> Instant {
        self.until + STEP
    }

    /// Adds the samples that are due, `now` on the monotonic clock being `at` on the wall's. Where several are, since
    /// nobody came for them, what happened is spread over them evenly: when it did is not known.
    pub fn observe(&mut self, now: Instant, at: DateTime<Utc>, reading: Reading) {
        let late = now.saturating_duration_since(self.until);
        let steps = (late.as_nanos() / STEP.as_nanos()) as u64;
        if steps == 0 {
            return;
        }
        let archived = reading.archived.saturating_sub(self.last.archived);
        let bytes = reading.bytes.saturating_sub(self.last.bytes);
        let failed = reading.failed.saturating_sub(self.last.failed);
        let lags = reading.lags.saturating_sub(self.last.lags);
        let lag_seconds = (lags > 0).then(|| (reading.lag_seconds - self.last.lag_seconds).max(0.0) / lags as f64);

        let since = late - STEP * (steps.min(u32::MAX.into()) as u32);
        let end = at - TimeDelta::from_std(since).unwrap_or_default();
        for step in steps.saturating_sub(SAMPLES as u64)..steps {
            let archived = share(archived, step, steps);
            if self.samples.len() == SAMPLES {
                self.samples.pop_front();
            }
            self.samples.push_back(Sample {
                at: end - TimeDelta::seconds((STEP.as_secs() * (steps - 1 - step)) as i64),
                archived,
                bytes: share(bytes, step, steps),
                failed: share(failed, step, steps),
                waiting: reading.waiting,
                lag_seconds: lag_seconds.filter(|_| archived > 0),
            });
        }
        self.until = now - since;
        self.last = reading;
    }

    pub fn samples(&self) -> impl ExactSizeIterator<Item = &Sample> {
        self.samples.iter()
    }
}

/// The part of `whole` that falls to one of so many steps; all parts together are the whole.
fn share(whole: u64, step: u64, steps: u64) -> u64 {
    let until = |step: u64| (u128::from(whole) * u128::from(step) / u128::from(steps)) as u64;
    until(step + 1) - until(step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A moment on both clocks, so many milliseconds after the start.
    struct Clocks(Instant, DateTime<Utc>);

    impl Clocks {
        fn new() -> Self {
            Self(Instant::now(), "2026-11-21T12:00:00Z".parse().unwrap())
        }

        fn after(&self, milliseconds: u64) -> (Instant, DateTime<Utc>) {
            let time = Duration::from_millis(milliseconds);
            (self.0 + time, self.1 + time)
        }
    }

    fn observe(history: &mut History, clocks: &Clocks, milliseconds: u64, reading: Reading) {
        let (now, at) = clocks.after(milliseconds);
        history.observe(now, at, reading);
    }

    fn archived(history: &History) -> Vec<u64> {
        history.samples().map(|sample| sample.archived).collect()
    }

    #[test]
    fn a_sample_holds_what_happened_in_its_step() {
        let clocks = Clocks::new();
        let mut history = History::new(clocks.0);
        observe(&mut history, &clocks, 4_999, Reading { archived: 1, ..Reading::default() });
        assert_eq!(history.samples().len(), 0);

        let first = Reading { archived: 4, bytes: 100, failed: 1, waiting: 7, lag_seconds: 2.0, lags: 4 };
        observe(&mut history, &clocks, 5_000, first);
        assert_eq!(history.due(), clocks.after(10_000).0);
        observe(&mut history, &clocks, 10_003, Reading { waiting: 0, failed: 3, ..first });
        let samples: Vec<_> = history.samples().cloned().collect();
        let expected = Sample {
            at: "2026-11-21T12:00:05Z".parse().unwrap(),
            archived: 4,
            bytes: 100,
            failed: 1,
            waiting: 7,
            lag_seconds: Some(0.5),
        };
        assert_eq!(samples[0], expected);
        let at = "2026-11-21T12:00:10Z".parse().unwrap();
        assert_eq!(samples[1], Sample { at, archived: 0, bytes: 0, failed: 2, waiting: 0, lag_seconds: None });
    }

    #[test]
    fn a_reader_that_is_late_once_does_not_stay_late() {
        let clocks = Clocks::new();
        let mut history = History::new(clocks.0);
        for (milliseconds, archived) in [(5_900, 1), (10_100, 2), (15_000, 3)] {
            observe(&mut history, &clocks, milliseconds, Reading { archived, ..Reading::default() });
        }
        assert_eq!(archived(&history), [1, 1, 1]);
    }

    #[test]
    fn steps_that_were_missed_share_what_happened() {
        let clocks = Clocks::new();
        let mut history = History::new(clocks.0);
        let reading = Reading { archived: 2, bytes: 10, failed: 0, waiting: 1, lag_seconds: 3.0, lags: 2 };
        observe(&mut history, &clocks, 15_400, reading);
        assert_eq!(archived(&history), [0, 1, 1]);
        let samples: Vec<_> = history.samples().cloned().collect();
        assert_eq!(samples.iter().map(|sample| sample.bytes).collect::<Vec<_>>(), [3, 3, 4]);
        assert_eq!(samples.iter().map(|sample| sample.lag_seconds).collect::<Vec<_>>(), [None, Some(1.5), Some(1.5)]);
        let times: Vec<_> =
            samples.iter().map(|sample| sample.at.timestamp_millis() - clocks.1.timestamp_millis()).collect();
        assert_eq!(times, [5_000, 10_000, 15_000]);
    }

    #[test]
    fn no_more_than_ten_minutes_are_kept() {
        let clocks = Clocks::new();
        let mut history = History::new(clocks.0);
        for step in 1..=SAMPLES as u64 + 3 {
            observe(&mut history, &clocks, step * 5_000, Reading { archived: step * step, ..Reading::default() });
        }
        let kept = archived(&history);
        assert_eq!((kept.len(), kept[0]), (SAMPLES, 4 * 4 - 3 * 3));
        // A process that was stopped for a day.
        observe(&mut history, &clocks, 24 * 3_600_000, Reading { archived: 1_000_000, ..Reading::default() });
        assert_eq!(history.samples().len(), SAMPLES);
        assert_eq!(history.due(), clocks.after(24 * 3_600_000 + 5_000).0);
    }

    #[test]
    fn counters_that_start_again_count_nothing() {
        let clocks = Clocks::new();
        let mut history = History::new(clocks.0);
        observe(&mut history, &clocks, 5_000, Reading { archived: 9, ..Reading::default() });
        observe(&mut history, &clocks, 10_000, Reading::default());
        observe(&mut history, &clocks, 15_000, Reading { archived: 1, ..Reading::default() });
        assert_eq!(archived(&history), [9, 0, 1]);
    }

    proptest! {
        #[test]
        fn samples_add_up_to_the_counters(readings in prop::collection::vec((0u64..40_000, 0u64..50, 0u64..1 << 40), 1..30)) {
            let clocks = Clocks::new();
            let mut history = History::new(clocks.0);
            let (mut time, mut reading) = (0, Reading::default());
            let mut counted = Reading::default();
            for (pause, archived, bytes) in readings {
                time += pause;
                reading.archived += archived;
                reading.bytes += bytes;
                let before = history.due();
                observe(&mut history, &clocks, time, reading);
                if history.due() != before {
                    counted = reading;
                }
                // Never behind by a step, nor ahead.
                let (now, _) = clocks.after(time);
                prop_assert!(history.due() > now && history.due() <= now + STEP);
                if time / 5_000 <= SAMPLES as u64 {
                    prop_assert_eq!(history.samples().map(|sample| sample.archived).sum::<u64>(), counted.archived);
                    prop_assert_eq!(history.samples().map(|sample| sample.bytes).sum::<u64>(), counted.bytes);
                }
                prop_assert!(history.samples().len() <= SAMPLES);
            }
        }
    }
}
