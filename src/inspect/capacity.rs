//! How much comes in, and what it takes to keep up: arithmetic on what was archived when. No I/O, no clock.
//!
//! Files are counted in buckets of a second. Where there are too many buckets they are made coarser, so that memory is
//! bounded whatever the history; windows then begin and end where buckets do.

use std::collections::{BTreeMap, VecDeque};
use std::ops::AddAssign;
use std::time::Duration;

use chrono::{DateTime, Utc};

/// Buckets at most: a few MiB.
const BUCKETS: usize = 1 << 16;
/// The lengths that buckets may have, in seconds.
const LENGTHS: [i64; 6] = [1, 10, 60, 600, 3_600, 86_400];

pub const HOUR: Duration = Duration::from_secs(3_600);
pub const DAY: Duration = Duration::from_secs(86_400);
/// Less history than this says little about a peak.
pub const LITTLE: Duration = DAY;

/// Files and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Flow {
    pub files: u64,
    pub bytes: u64,
}

impl Flow {
    pub fn of(bytes: u64) -> Self {
        Self { files: 1, bytes }
    }

    fn less(self, other: Self) -> Self {
        Self { files: self.files - other.files, bytes: self.bytes - other.bytes }
    }
}

impl AddAssign for Flow {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// What was archived when.
#[derive(Debug, Clone)]
pub struct History {
    /// Nothing older counts.
    since: Option<DateTime<Utc>>,
    /// Seconds of a bucket.
    length: i64,
    /// By their beginnings, in lengths since the epoch.
    buckets: BTreeMap<i64, Flow>,
    most: usize,
    total: Flow,
    first: Option<DateTime<Utc>>,
    last: Option<DateTime<Utc>>,
}

impl History {
    /// An empty one, that takes note only of what happened since.
    pub fn new(since: Option<DateTime<Utc>>) -> Self {
        Self::with_buckets(since, BUCKETS)
    }

    fn with_buckets(since: Option<DateTime<Utc>>, most: usize) -> Self {
        let (buckets, total) = (BTreeMap::new(), Flow::default());
        Self { since, length: LENGTHS[0], buckets, most, total, first: None, last: None }
    }

    /// Takes note of a file, in any order.
    pub fn add(&mut self, at: DateTime<Utc>, bytes: u64) {
        if self.since.is_some_and(|since| at < since) {
            return;
        }
        let flow = Flow::of(bytes);
        self.total += flow;
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
        self.last = Some(self.last.map_or(at, |last| last.max(at)));
        *self.buckets.entry(at.timestamp().div_euclid(self.length)).or_default() += flow;
        while self.buckets.len() > self.most
            && let Some(longer) = LENGTHS.into_iter().find(|length| *length > self.length)
        {
            let times = longer / self.length;
            let mut coarser = BTreeMap::<i64, Flow>::new();
            for (at, flow) in std::mem::take(&mut self.buckets) {
                *coarser.entry(at.div_euclid(times)).or_default() += flow;
            }
            (self.buckets, self.length) = (coarser, longer);
        }
    }

    /// The fullest window of a length, by bytes and by files: the earliest of several. A window holds what happened
    /// less than `length` after the bucket that it begins with.
    fn fullest(&self, length: Duration) -> Option<Fullest> {
        let buckets = (length.as_secs() as i64).max(1).saturating_add(self.length - 1) / self.length;
        let mut window = VecDeque::new();
        let mut within = Flow::default();
        let mut fullest: Option<Fullest> = None;
        // Each window ends with some bucket; where it begins later than it could, an earlier one had as much.
        for (at, flow) in &self.buckets {
            window.push_back((*at, *flow));
            within += *flow;
            while let Some((first, flow)) = window.front().copied()
                && at - first >= buckets
            {
                within = within.less(flow);
                window.pop_front();
            }
            let begins = window.front().and_then(|(first, _)| self.instant(*first))?;
            let peak = Peak { flow: within, begins };
            let fullest = fullest.get_or_insert(Fullest { bytes: peak, files: peak });
            if within.bytes > fullest.bytes.flow.bytes {
                fullest.bytes = peak;
            }
            if within.files > fullest.files.flow.files {
                fullest.files = peak;
            }
        }
        fullest
    }

    fn instant(&self, bucket: i64) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(bucket * self.length, 0)
    }

    /// What was archived in the time up to `now`.
    fn lately(&self, now: DateTime<Utc>, length: Duration) -> Flow {
        let from = (now.timestamp() - length.as_secs() as i64).div_euclid(self.length);
        let mut flow = Flow::default();
        self.buckets.range(from + 1..).for_each(|(_, bucket)| flow += *bucket);
        flow
    }

    /// What it comes to, with what waits now. `None` where nothing was archived.
    pub fn capacity(&self, now: DateTime<Utc>, backlog: Flow, outage: Duration) -> Option<Capacity> {
        let (first, last) = (self.first?, self.last?);
        // A window that began before the first file was quiet until then only if the program ran: who knows.
        let span = (now.max(last) - first).to_std().unwrap_or_default().max(Duration::from_secs(1));
        // What a shorter history would come to in the whole length is a guess, and never more than was seen at its peak.
        let per = |length: Duration| {
            let (peak, share) = (self.fullest(length)?, length.min(span).as_secs_f64() / span.as_secs_f64());
            let mean = Mean {
                files: (self.total.files as f64 * share).min(peak.files.flow.files as f64),
                bytes: (self.total.bytes as f64 * share).min(peak.bytes.flow.bytes as f64),
            };
            Some(Rate { mean, peak })
        };
        let lately = self.lately(now, HOUR);
        // What is left where the last hour was quiet: nothing can be said.
        let clears_in = (lately.bytes > 0 || backlog.files == 0).then(|| {
            let share = if backlog.bytes == 0 { 0.0 } else { backlog.bytes as f64 / lately.bytes.max(1) as f64 };
            Duration::try_from_secs_f64(share * HOUR.min(span).as_secs_f64()).unwrap_or(Duration::MAX)
        });
        let per_hour = per(HOUR)?;
        Some(Capacity {
            first,
            last,
            span,
            total: self.total,
            resolution: Duration::from_secs(self.length as u64),
            needed_bytes_per_second: per_hour.peak.bytes.flow.bytes.div_ceil(HOUR.as_secs()),
            per_hour,
            per_day: per(DAY)?,
            outage: Outage { length: outage, fullest: self.fullest(outage)?.bytes },
            backlog: Backlog { waiting: backlog, archived_last_hour: lately, clears_in },
        })
    }
}

/// What a history comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Capacity {
    pub first: DateTime<Utc>,
    pub last: DateTime<Utc>,
    /// From the first file until now.
    pub span: Duration,
    pub total: Flow,
    /// To this the beginnings and lengths of windows are exact.
    pub resolution: Duration,
    pub per_hour: Rate,
    pub per_day: Rate,
    pub outage: Outage,
    /// What takes the fullest hour in within an hour.
    pub needed_bytes_per_second: u64,
    pub backlog: Backlog,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    pub mean: Mean,
    pub peak: Fullest,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mean {
    pub files: f64,
    pub bytes: f64,
}

/// The windows with the most bytes and the most files, which may be two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fullest {
    pub bytes: Peak,
    pub files: Peak,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peak {
    pub flow: Flow,
    pub begins: DateTime<Utc>,
}

/// What the sources take in while the destination is out: the most of any window so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    pub length: Duration,
    pub fullest: Peak,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    pub waiting: Flow,
    pub archived_last_hour: Flow,
    /// At the rate of the last hour, or of all the history where that is shorter; `None` where nothing was archived in it.
    pub clears_in: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn history(events: &[(i64, u64)], buckets: usize) -> History {
        let mut history = History::with_buckets(None, buckets);
        events.iter().for_each(|(second, bytes)| history.add(at(*second), *bytes));
        history
    }

    #[test]
    fn a_window_slides() {
        // Neither clock hour has more than 10 bytes; the hour from 1,800 on has 17.
        let history = history(&[(0, 3), (1_800, 7), (5_399, 10), (5_400, 1)], BUCKETS);
        let hour = history.fullest(HOUR).unwrap();
        assert_eq!((hour.bytes.flow, hour.bytes.begins), (Flow { files: 2, bytes: 17 }, at(1_800)));
        let second = history.fullest(Duration::from_secs(1)).unwrap();
        assert_eq!((second.bytes.flow.bytes, second.bytes.begins), (10, at(5_399)));
    }

    #[test]
    fn the_most_files_and_the_most_bytes_may_be_two_windows() {
        let history = history(&[(0, 1), (1, 1), (2, 1), (100_000, 50)], BUCKETS);
        let hour = history.fullest(HOUR).unwrap();
        assert_eq!((hour.files.flow, hour.files.begins), (Flow { files: 3, bytes: 3 }, at(0)));
        assert_eq!((hour.bytes.flow, hour.bytes.begins), (Flow { files: 1, bytes: 50 }, at(100_000)));
    }

    #[test]
    fn a_steady_stream_is_what_it_is() {
        // 36 KB every minute for two days.
        let events: Vec<_> = (0..2_880).map(|minute| (minute * 60, 36_000)).collect();
        let now = at(2 * 86_400);
        let backlog = Flow { files: 3, bytes: 108_000 };
        let capacity = history(&events, BUCKETS).capacity(now, backlog, 6 * HOUR).unwrap();
        assert_eq!(capacity.per_hour.mean, Mean { files: 60.0, bytes: 2_160_000.0 });
        assert_eq!(capacity.per_hour.peak.bytes.flow, Flow { files: 60, bytes: 2_160_000 });
        assert_eq!(capacity.per_day.mean, Mean { files: 1_440.0, bytes: 51_840_000.0 });
        assert_eq!(capacity.per_day.peak.bytes.flow.bytes, 51_840_000);
        assert_eq!(capacity.outage.fullest.flow.bytes, 6 * 2_160_000);
        assert_eq!(capacity.needed_bytes_per_second, 600);
        // 59 of its minutes lie within the hour that ends now, for one began just as it did.
        assert_eq!(capacity.backlog.archived_last_hour, Flow { files: 59, bytes: 59 * 36_000 });
        let clears_in = capacity.backlog.clears_in.unwrap().as_secs_f64();
        assert!((clears_in - 3_600.0 * 3.0 / 59.0).abs() < 0.001, "{clears_in}");
        assert_eq!((capacity.span, capacity.resolution), (2 * DAY, Duration::from_secs(1)));
    }

    #[test]
    fn what_cannot_be_said_is_not_said() {
        let backlog = Flow { files: 1, bytes: 5 };
        assert_eq!(history(&[], BUCKETS).capacity(at(9), backlog, HOUR), None);
        let quiet = history(&[(0, 5)], BUCKETS);
        let capacity = quiet.capacity(at(90_000), backlog, HOUR).unwrap();
        assert_eq!(capacity.backlog.clears_in, None);
        let capacity = quiet.capacity(at(90_000), Flow::default(), HOUR).unwrap();
        assert_eq!(capacity.backlog.clears_in, Some(Duration::ZERO));
        // A clock that was set back makes no negative time.
        let capacity = quiet.capacity(at(-90_000), backlog, HOUR).unwrap();
        assert_eq!(capacity.span, Duration::from_secs(1));
    }

    #[test]
    fn a_short_history_is_not_stretched() {
        // 2,000 files in 34 seconds, and as many waiting.
        let events: Vec<_> = (0..2_000).map(|number| (number % 34, 10)).collect();
        let backlog = Flow { files: 2_000, bytes: 20_000 };
        let capacity = history(&events, BUCKETS).capacity(at(34), backlog, HOUR).unwrap();
        for rate in [capacity.per_hour, capacity.per_day] {
            assert_eq!(rate.mean, Mean { files: 2_000.0, bytes: 20_000.0 });
            assert_eq!(rate.peak.bytes.flow, Flow { files: 2_000, bytes: 20_000 });
        }
        assert_eq!(capacity.backlog.clears_in, Some(Duration::from_secs(34)));
    }

    #[test]
    fn what_is_older_does_not_count() {
        let mut history = History::new(Some(at(100)));
        [(99, 1), (100, 2), (101, 4)].into_iter().for_each(|(second, bytes)| history.add(at(second), bytes));
        let capacity = history.capacity(at(200), Flow::default(), HOUR).unwrap();
        assert_eq!((capacity.total, capacity.first), (Flow { files: 2, bytes: 6 }, at(100)));
    }

    /// The fullest window by looking at each: it may begin with any bucket in which something happened.
    fn fullest_by_looking(events: &[(i64, u64)], bucket: i64, length: i64) -> (u64, u64) {
        let buckets = (length + bucket - 1) / bucket;
        let flow = |first: i64| {
            let within = events.iter().filter(|(at, _)| (first..first + buckets).contains(&at.div_euclid(bucket)));
            within.fold(Flow::default(), |mut flow, (_, bytes)| {
                flow += Flow::of(*bytes);
                flow
            })
        };
        let flows: Vec<_> = events.iter().map(|(at, _)| flow(at.div_euclid(bucket))).collect();
        let most = |of: fn(&Flow) -> u64| flows.iter().map(of).max().unwrap_or_default();
        (most(|flow| flow.bytes), most(|flow| flow.files))
    }

    proptest! {
        #[test]
        fn the_fullest_window_is_the_fullest(
            mut events in proptest::collection::vec((-20_000..20_000_i64, 0..100_u64), 1..80),
            length in 1..9_000_i64,
            buckets in 2..100_usize,
        ) {
            let history = history(&events, buckets);
            prop_assert!(history.buckets.len() <= buckets || history.length == LENGTHS[5]);
            let fullest = history.fullest(Duration::from_secs(length as u64)).unwrap();
            let capacity = history.capacity(at(20_000), Flow::default(), HOUR).unwrap();
            for rate in [capacity.per_hour, capacity.per_day] {
                prop_assert!(rate.mean.files <= rate.peak.files.flow.files as f64);
                prop_assert!(rate.mean.bytes <= rate.peak.bytes.flow.bytes as f64);
            }
            let found = (fullest.bytes.flow.bytes, fullest.files.flow.files);
            prop_assert_eq!(found, fullest_by_looking(&events, history.length, length));
            prop_assert_eq!(history.total.bytes, events.iter().map(|(_, bytes)| bytes).sum::<u64>());
            // In whatever order they come: the buckets are as coarse in the end.
            events.reverse();
            prop_assert_eq!(self::history(&events, buckets).fullest(Duration::from_secs(length as u64)).unwrap(), fullest);
        }
    }
}
