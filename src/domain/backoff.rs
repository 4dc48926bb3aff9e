//! Exponential backoff with full jitter: the delay before attempt n is uniform in [0, min(max, initial × 2ⁿ⁻¹)]
//! ("Exponential Backoff And Jitter", AWS Architecture Blog). Randomness comes in as an argument.

use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
}

impl Backoff {
    /// `initial` must not be zero nor exceed `max`.
    pub fn new(initial: Duration, max: Duration) -> Result<Self, String> {
        if initial.is_zero() {
            return Err("the initial backoff must be longer than zero".into());
        }
        if initial > max {
            return Err(format!("the initial backoff ({initial:?}) exceeds the longest one ({max:?})"));
        }
        Ok(Self { initial, max })
    }

    /// The longest possible delay after `failures` failures in a row (from 1).
    pub fn ceiling(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.initial.saturating_mul(1 << doublings).min(self.max)
    }

    /// The delay after `failures` failures in a row; `uniform` is drawn from [0, 1).
    pub fn delay(&self, failures: u32, uniform: f64) -> Duration {
        self.ceiling(failures).mul_f64(uniform.clamp(0.0, 1.0))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_millis(500), max: Duration::from_secs(30) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_ceiling_and_stays_there() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1)).unwrap();
        let ceilings: Vec<_> = [1, 2, 3, 4, 5, 64, u32::MAX].map(|n| backoff.ceiling(n).as_millis()).into();
        assert_eq!(ceilings, [100, 200, 400, 800, 1000, 1000, 1000]);
        assert_eq!(backoff.delay(2, 0.5).as_millis(), 100);
        assert_eq!(backoff.delay(9, 0.0), Duration::ZERO);
        assert!(Backoff::new(Duration::ZERO, Duration::from_secs(1)).is_err());
        assert!(Backoff::new(Duration::from_secs(2), Duration::from_secs(1)).is_err());
    }
}
