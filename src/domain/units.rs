//! Quantities with units, which parse themselves: durations (`2s`, `5m`, `250ms`) and rates (`20MiB` a second).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration as people write it: `250ms`, `2s`, `1m 30s`, or `0`. A bare number is refused, for its unit is a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text.trim()).map(Self).map_err(|_| {
            format!("`{text}` is no duration; write it with its unit, as in `250ms`, `2s`, `5m` or `1h 30m`")
        })
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// Bytes a second; never zero. `20MiB`, `1.5MB` and `500k` are all understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRate(pub std::num::NonZeroU64);

impl FromStr for ByteRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().trim_end_matches("/s");
        let bytes: bytesize::ByteSize = number
            .parse()
            .map_err(|_| format!("`{text}` is no rate; write bytes a second, as in `20MiB` or `500kB`"))?;
        std::num::NonZeroU64::new(bytes.as_u64())
            .map(Self)
            .ok_or_else(|| "a rate of zero would never finish; leave it out for no limit".into())
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", bytesize::ByteSize(self.0.get()).display().iec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!("2s".parse::<HumanDuration>().unwrap().0, Duration::from_secs(2));
        assert_eq!("1m 30s".parse::<HumanDuration>().unwrap().to_string(), "1m 30s");
        assert_eq!("0s".parse::<HumanDuration>().unwrap().0, Duration::ZERO);
        assert!("5".parse::<HumanDuration>().unwrap_err().contains("`5m`"));
        assert!("soon".parse::<HumanDuration>().is_err());
    }

    #[test]
    fn rates_are_bytes_a_second() {
        assert_eq!("20MiB".parse::<ByteRate>().unwrap().0.get(), 20 << 20);
        assert_eq!("1kB/s".parse::<ByteRate>().unwrap().0.get(), 1000);
        assert!("0".parse::<ByteRate>().unwrap_err().contains("never finish"));
        assert!("fast".parse::<ByteRate>().is_err());
    }
}
