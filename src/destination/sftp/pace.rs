//! `--limit-rate`: one allowance of bytes a second that all sessions draw on.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::domain::ByteRate;

/// A pacer. Takers are served in turn; each waits until what was taken before it has been paid for.
#[derive(Debug, Default)]
pub struct Pace(Option<(ByteRate, Mutex<Option<Instant>>)>);

impl Pace {
    pub fn new(rate: Option<ByteRate>) -> Self {
        Self(rate.map(|rate| (rate, Mutex::new(None))))
    }

    /// Returns when `bytes` may be sent.
    pub async fn take(&self, bytes: usize) {
        let Some((rate, paid_until)) = &self.0 else { return };
        let mut paid_until = paid_until.lock().await;
        let now = Instant::now();
        let start = paid_until.map_or(now, |until| until.max(now));
        tokio::time::sleep_until(start).await;
        *paid_until = Some(start + Duration::from_secs_f64(bytes as f64 / rate.0.get() as f64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn takes_as_long_as_the_rate_says() {
        let pace = Pace::new(Some("1000B".parse().unwrap()));
        let began = Instant::now();
        for _ in 0..5 {
            pace.take(500).await;
        }
        assert_eq!(began.elapsed().as_millis(), 2000);
        Pace::new(None).take(usize::MAX).await;
    }
}
