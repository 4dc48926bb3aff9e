//! Quantities and names as people read them, and texts made to fit a width.

use std::borrow::Cow;
use std::time::Duration;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// `617 B`, `12.3 MiB`.
pub fn bytes(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// `0.03 s`, `12.4 s`, `2m 05s`, `3h 02m`, `2d 04h`.
pub fn duration(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    match seconds {
        0..10 => format!("{:.2} s", elapsed.as_secs_f64()),
        10..60 => format!("{:.1} s", elapsed.as_secs_f64()),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// A time that lies ahead, and so is not known to a fraction of a second: `8 s`, `2m 05s`.
pub fn estimate(remaining: Duration) -> String {
    match remaining.as_secs_f64().ceil() as u64 {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => duration(Duration::from_secs(seconds)),
    }
}

/// Bytes a second as `20.1 MiB/s`; `None` where the quotient would mean nothing.
pub fn rate(transferred: u64, elapsed: Duration) -> Option<String> {
    let seconds = elapsed.as_secs_f64();
    (transferred > 0 && seconds >= 0.001).then(|| format!("{}/s", bytes((transferred as f64 / seconds) as u64)))
}

/// `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Columns that a text takes on a terminal.
pub fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// `text` in at most `columns` columns, cut in the middle: the two ends of a path say the most.
pub fn shortened(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return text.into();
    }
    let room = columns.saturating_sub(1);
    let tail = taken(text.chars().rev(), room - room / 3).chars().rev().collect::<String>();
    let head = taken(text.chars(), room - width(&tail));
    format!("{head}…{tail}").into()
}

/// As many of the characters as fit into `columns`.
fn taken(characters: impl Iterator<Item = char>, columns: usize) -> String {
    let mut used = 0;
    characters
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= columns
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_keep_two_units() {
        let shown = [0.0, 0.031, 12.44, 59.99, 125.0, 3720.0, 190_000.0].map(|s| duration(Duration::from_secs_f64(s)));
        assert_eq!(shown, ["0.00 s", "0.03 s", "12.4 s", "60.0 s", "2m 05s", "1h 02m", "2d 04h"]);
    }

    #[test]
    fn estimates_are_rounded_up() {
        let shown = [0.2, 8.0, 59.5, 125.0].map(|s| estimate(Duration::from_secs_f64(s)));
        assert_eq!(shown, ["1 s", "8 s", "1m 00s", "2m 05s"]);
    }

    #[test]
    fn a_rate_needs_bytes_and_time() {
        assert_eq!(rate(0, Duration::from_secs(1)), None);
        assert_eq!(rate(5, Duration::ZERO), None);
        assert_eq!(rate(u64::MAX, Duration::from_nanos(1)), None);
        assert_eq!(rate(2048, Duration::from_secs(2)).unwrap(), "1.0 KiB/s");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn long_texts_lose_their_middle() {
        assert_eq!(shortened("/a/b.csv", 20), "/a/b.csv");
        assert_eq!(shortened("/var/pine/reports/2026/a.csv", 16), "/var/…2026/a.csv");
        for columns in 0..30 {
            assert!(width(&shortened("/日本語/レポート/データ.csv", columns)) <= columns.max(1), "{columns}");
        }
    }
}
