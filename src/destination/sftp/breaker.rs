//! The circuit breaker: while a destination is out, nobody tries but one probe at a time, after a pause that grows.
//! Pure rules; the clock and the random number come in.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::Backoff;

/// How an outage was met, which decides what proves that it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No connection; over when there is one.
    Connect,
    /// Connected, but a job met it (no space, say); over when a file goes through.
    Job,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Instant, cause: Cause },
    HalfOpen { cause: Cause },
}

/// What may be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    Go,
    /// One attempt, to see whether the outage is over; see [`Breaker::probing`].
    Probe(Cause),
    /// Nothing before this time.
    NotBefore(Instant),
    /// Nothing before the probe under way has ended.
    AfterProbe,
}

/// Whether a failure opened the breaker or found it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// For so long, until the first probe.
    Now(Duration),
    Again(Duration),
    /// It is open, and no probe was due yet: this failure belongs to the same outage and changes nothing.
    Already,
}

/// What became of an outage with a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    Now,
    Already,
}

#[derive(Debug)]
pub struct Breaker {
    backoff: Backoff,
    /// In a row; only a file that went through sets it back.
    failures: u32,
    state: State,
}

impl Breaker {
    pub fn new(backoff: Backoff) -> Self {
        Self { backoff, failures: 0, state: State::Closed }
    }

    pub fn failures(&self) -> u32 {
        self.failures
    }

    pub fn permit(&self, now: Instant) -> Permit {
        match self.state {
            State::Closed => Permit::Go,
            State::Open { until, .. } if now < until => Permit::NotBefore(until),
            State::Open { cause, .. } => Permit::Probe(cause),
            State::HalfOpen { .. } => Permit::AfterProbe,
        }
    }

    /// A probe begins.
    pub fn probing(&mut self) {
        if let State::Open { cause, .. } = self.state {
            self.state = State::HalfOpen { cause };
        }
    }

    /// The probe ended without proving anything: another may begin at once.
    pub fn unproved(&mut self, now: Instant) {
        if let State::HalfOpen { cause } = self.state {
            self.state = State::Open { until: now, cause };
        }
    }

    /// An attempt failed. `uniform` is drawn from [0, 1).
    pub fn failed(&mut self, cause: Cause, now: Instant, uniform: f64) -> Opened {
        if matches!(self.state, State::Open { until, .. } if now < until) {
            return Opened::Already;
        }
        let first = self.state == State::Closed;
        self.failures = self.failures.saturating_add(1);
        let pause = self.backoff.delay(self.failures, uniform);
        self.state = State::Open { until: now + pause, cause };
        if first { Opened::Now(pause) } else { Opened::Again(pause) }
    }

    /// There is a connection: enough to end an outage of connections, but not to forget how often it failed.
    pub fn connected(&mut self) -> Closed {
        match self.state {
            State::Open { cause: Cause::Connect, .. } | State::HalfOpen { cause: Cause::Connect } => {
                self.state = State::Closed;
                Closed::Now
            }
            _ => Closed::Already,
        }
    }

    /// A file went through.
    pub fn succeeded(&mut self) -> Closed {
        self.failures = 0;
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Closed => Closed::Already,
            _ => Closed::Now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> (Breaker, Instant) {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(8)).unwrap();
        (Breaker::new(backoff), Instant::now())
    }

    #[test]
    fn opens_probes_and_closes() {
        let (mut breaker, now) = breaker();
        assert_eq!(breaker.permit(now), Permit::Go);
        assert_eq!(breaker.failed(Cause::Connect, now, 0.5), Opened::Now(Duration::from_millis(500)));
        assert_eq!(breaker.failed(Cause::Connect, now, 0.5), Opened::Already);
        let later = now + Duration::from_millis(500);
        assert_eq!(breaker.permit(now), Permit::NotBefore(later));
        assert_eq!(breaker.permit(later), Permit::Probe(Cause::Connect));
        breaker.probing();
        assert_eq!(breaker.permit(later), Permit::AfterProbe);
        assert_eq!(breaker.failed(Cause::Connect, later, 0.5), Opened::Again(Duration::from_secs(1)));
        breaker.probing();
        assert_eq!(breaker.connected(), Closed::Now);
        assert_eq!((breaker.permit(later), breaker.failures()), (Permit::Go, 2));
        assert_eq!(breaker.succeeded(), Closed::Already);
        assert_eq!(breaker.failures(), 0);
    }

    #[test]
    fn a_connection_is_no_proof_against_a_full_disk() {
        let (mut breaker, now) = breaker();
        breaker.failed(Cause::Job, now, 0.0);
        assert_eq!(breaker.permit(now), Permit::Probe(Cause::Job));
        breaker.probing();
        assert_eq!(breaker.connected(), Closed::Already);
        breaker.unproved(now);
        assert_eq!(breaker.permit(now), Permit::Probe(Cause::Job));
        breaker.probing();
        assert_eq!(breaker.succeeded(), Closed::Now);
        assert_eq!(breaker.permit(now), Permit::Go);
    }
}
