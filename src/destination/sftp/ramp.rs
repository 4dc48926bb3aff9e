//! How much at the same time is worth having.
//!
//! Files on one connection: as many as fill its round trip. Connections: another one is made only while the last one
//! brought more files a second. Every connection costs the server a login and a process, and beyond what its processors
//! and the line can take it brings nothing. Pure rules; the clock comes in.

use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::Instant;

/// Shortest time over which files are counted.
const PERIOD: Duration = Duration::from_millis(500);
/// Files without which a count says nothing.
const FILES: u32 = 32;
/// What a connection has to gain.
const GAIN: f64 = 1.1;
/// How long a connection that gained nothing is taken for an answer.
const CONTENT: Duration = Duration::from_secs(10);

/// Files in flight on each connection, at least and at most.
const FILES_IN_FLIGHT: RangeInclusive<u16> = 48..=512;
/// What a server works on one small file, roughly; a round trip is filled with others.
const WORK_PER_FILE: Duration = Duration::from_micros(100);
/// Round trips that a small file takes: OPEN; its bytes and CLOSE; RENAME.
const ROUND_TRIPS: u32 = 3;

/// Whether another connection should be made while all places are taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    Now,
    /// Not before this time.
    NotBefore(Instant),
}

/// Counts files since the number of connections changed.
#[derive(Debug)]
pub struct Ramp {
    since: Instant,
    files: u32,
    /// Connections and files a second when another one was last asked for.
    before: (usize, f64),
    not_before: Instant,
}

impl Ramp {
    pub fn new(now: Instant) -> Self {
        Self { since: now, files: 0, before: (0, 0.0), not_before: now }
    }

    /// A file came to its end.
    pub fn counted(&mut self) {
        self.files += 1;
    }

    /// There is another connection.
    pub fn joined(&mut self, now: Instant) {
        (self.since, self.files) = (now, 0);
    }

    /// Asked while all places of `connections` are taken.
    pub fn verdict(&mut self, connections: usize, now: Instant) -> Verdict {
        if connections == 0 {
            return Verdict::Now;
        }
        let measured = self.since + PERIOD;
        if now < measured.max(self.not_before) {
            return Verdict::NotBefore(measured.max(self.not_before));
        }
        if self.files < FILES {
            return Verdict::NotBefore(now + PERIOD);
        }
        let rate = f64::from(self.files) / (now - self.since).as_secs_f64();
        let (fewer, slower) = std::mem::replace(&mut self.before, (connections, rate));
        // The one that was asked for may not have come, or be gone again: that says nothing about its worth.
        let worth_it = connections <= fewer.max(1) || rate >= slower * GAIN;
        self.joined(now);
        if worth_it {
            return Verdict::Now;
        }
        self.not_before = now + CONTENT;
        Verdict::NotBefore(self.not_before)
    }
}

/// Files in flight that keep a server busy over this round trip.
pub fn files_for(round_trip: Option<Duration>) -> u16 {
    let Some(round_trip) = round_trip else { return *FILES_IN_FLIGHT.start() };
    let files = (round_trip * ROUND_TRIPS).div_duration_f64(WORK_PER_FILE);
    (files as u16).clamp(*FILES_IN_FLIGHT.start(), *FILES_IN_FLIGHT.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ramp to which `files` came within a second, and the time then.
    fn after(ramp: &mut Ramp, start: Instant, files: u32) -> Instant {
        (0..files).for_each(|_| ramp.counted());
        start + Duration::from_secs(1)
    }

    #[test]
    fn grows_while_it_gains() {
        let start = Instant::now();
        let mut ramp = Ramp::new(start);
        assert_eq!(ramp.verdict(0, start), Verdict::Now);
        assert_eq!(ramp.verdict(1, start), Verdict::NotBefore(start + PERIOD));
        let now = after(&mut ramp, start, 1_000);
        assert_eq!(ramp.verdict(1, now), Verdict::Now);
        ramp.joined(now);
        let now = after(&mut ramp, now, 1_900);
        assert_eq!(ramp.verdict(2, now), Verdict::Now);
        ramp.joined(now);
        let now = after(&mut ramp, now, 1_950);
        assert_eq!(ramp.verdict(3, now), Verdict::NotBefore(now + CONTENT), "the third brought nothing");
        let later = now + CONTENT;
        (0..30_000).for_each(|_| ramp.counted());
        assert_eq!(ramp.verdict(3, later), Verdict::Now, "times change");
        let later = after(&mut ramp, later, 100);
        assert_eq!(ramp.verdict(3, later), Verdict::Now, "the fourth was not to be had");
    }

    #[test]
    fn files_in_flight_follow_the_round_trip() {
        let files = |micros| files_for(Some(Duration::from_micros(micros)));
        assert_eq!([files(0), files(100), files(5_000), files(50_000)], [48, 48, 150, 512]);
        assert_eq!(files_for(Some(Duration::from_secs(3_600))), 512);
        assert_eq!(files_for(None), 48);
    }

    #[test]
    fn too_few_files_say_nothing() {
        let start = Instant::now();
        let mut ramp = Ramp::new(start);
        let now = after(&mut ramp, start, FILES - 1);
        assert_eq!(ramp.verdict(1, now), Verdict::NotBefore(now + PERIOD));
        ramp.counted();
        assert_eq!(ramp.verdict(1, now), Verdict::Now);
    }
}
