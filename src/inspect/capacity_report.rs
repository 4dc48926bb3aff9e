//! What [`Capacity`] says, as lines for people or as one JSON document.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::capacity::{Capacity, DAY, Flow, HOUR, LITTLE, Mean, Peak, Rate};
use super::census_report::{document_text, noun, time};
use crate::domain::display::escaped;
use crate::report::Surface;
use crate::report::human;
use crate::report::table::{Column, lines};

const VERSION: u32 = 1;

/// Remarks on how much the numbers can be relied on.
fn warnings(capacity: Option<&Capacity>, window: Option<Duration>) -> Vec<String> {
    let Some(capacity) = capacity else {
        return vec!["nothing was archived in this time, so nothing can be said".into()];
    };
    let mut warnings = Vec::new();
    if capacity.span < LITTLE {
        warnings.push(format!(
            "this rests on {} only: peaks, means, the bandwidth and the time for the backlog are guesses",
            human::duration(capacity.span)
        ));
    } else if capacity.span < capacity.outage.length {
        warnings.push(format!("the outage is longer than the {} that this rests on", human::duration(capacity.span)));
    }
    if let Some(window) = window.filter(|window| capacity.span + HOUR < *window) {
        warnings.push(format!("of the {} asked for, the ledger knows less", human::duration(window)));
    }
    if capacity.resolution > Duration::from_secs(1) {
        warnings.push(format!("windows are exact to {}", human::duration(capacity.resolution)));
    }
    warnings
}

pub fn text(
    capacity: Option<&Capacity>,
    ledger: &str,
    window: Option<Duration>,
    backlog: Flow,
    surface: Surface,
) -> String {
    let mut text = format!("ledger {}\n\n", escaped(ledger));
    if let Some(capacity) = capacity {
        text.push_str(&told(capacity, surface));
    } else {
        text.push_str(&format!("backlog      {}, {}\n", noun(backlog.files), human::bytes(backlog.bytes)));
    }
    for warning in warnings(capacity, window) {
        text.push_str(&format!("{} {warning}\n", surface.colour.paint("33", "warning:")));
    }
    text
}

fn told(capacity: &Capacity, surface: Surface) -> String {
    let header =
        [("", Column::Text), ("files", Column::Number), ("bytes", Column::Number), ("from (UTC)", Column::Text)];
    let mean = |name: &str, mean: Mean| {
        [name.to_owned(), human::count(mean.files.round() as u64), human::bytes(mean.bytes as u64), String::new()]
    };
    let peak = |name: &str, peak: Peak| {
        [name.to_owned(), human::count(peak.flow.files), human::bytes(peak.flow.bytes), time(peak.begins)]
    };
    let rows = vec![
        mean("an hour, mean", capacity.per_hour.mean),
        peak("  most bytes", capacity.per_hour.peak.bytes),
        peak("  most files", capacity.per_hour.peak.files),
        mean("a day, mean", capacity.per_day.mean),
        peak("  most bytes", capacity.per_day.peak.bytes),
        peak("  most files", capacity.per_day.peak.files),
    ];
    let mut text = lines(header, rows, surface);
    text.push('\n');
    let mut say = |label: &str, said: String| text.push_str(&format!("{label:<12} {said}\n"));
    let outage = &capacity.outage;
    say(
        "local disk",
        format!(
            "{} to survive an outage of {} ({})",
            human::bytes(outage.fullest.flow.bytes),
            human::duration(outage.length),
            noun(outage.fullest.flow.files)
        ),
    );
    let needed = capacity.needed_bytes_per_second;
    say("bandwidth", format!("{}/s ({}) to keep up with the fullest hour", human::bytes(needed), bits(needed)));
    let backlog = &capacity.backlog;
    let clears = match backlog.clears_in {
        _ if backlog.waiting.files == 0 => String::new(),
        Some(time) if capacity.span < HOUR => {
            let (time, span) = (human::estimate(time), human::duration(capacity.span));
            format!(", done in {time} at the rate of these {span}")
        }
        Some(time) => format!(", done in {} at the rate of the last hour", human::estimate(time)),
        None => ", and nothing was archived in the last hour".into(),
    };
    say("backlog", format!("{}, {}{clears}", noun(backlog.waiting.files), human::bytes(backlog.waiting.bytes)));
    say(
        "rests on",
        format!(
            "{}, {} in {}",
            noun(capacity.total.files),
            human::bytes(capacity.total.bytes),
            human::duration(capacity.span)
        ),
    );
    say("", format!("{} to {}", time(capacity.first), time(capacity.last)));
    text
}

/// Bits a second, as links are sold: powers of ten.
fn bits(bytes_per_second: u64) -> String {
    let bits = bytes_per_second as f64 * 8.0;
    match bits {
        1e9.. => format!("{:.1} Gbit/s", bits / 1e9),
        1e6.. => format!("{:.1} Mbit/s", bits / 1e6),
        1e3.. => format!("{:.1} kbit/s", bits / 1e3),
        _ => format!("{bits:.0} bit/s"),
    }
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    ledger: &'a str,
    at: String,
    /// Null where nothing was archived.
    capacity: Option<Figures>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Figures {
    first: String,
    last: String,
    seconds: u64,
    files: u64,
    bytes: u64,
    resolution_seconds: u64,
    per_hour: RateFigures,
    per_day: RateFigures,
    outage: OutageFigures,
    bandwidth_bytes_per_second: u64,
    backlog: BacklogFigures,
}

#[derive(Serialize)]
struct RateFigures {
    seconds: u64,
    mean_files: f64,
    mean_bytes: f64,
    peak_bytes: PeakFigures,
    peak_files: PeakFigures,
}

#[derive(Serialize)]
struct PeakFigures {
    files: u64,
    bytes: u64,
    from: String,
}

#[derive(Serialize)]
struct OutageFigures {
    seconds: u64,
    disk_bytes: u64,
    files: u64,
    from: String,
}

#[derive(Serialize)]
struct BacklogFigures {
    files: u64,
    bytes: u64,
    archived_last_hour: Flow,
    clears_in_seconds: Option<u64>,
}

fn peak(peak: Peak) -> PeakFigures {
    PeakFigures { files: peak.flow.files, bytes: peak.flow.bytes, from: time(peak.begins) }
}

fn rate(length: Duration, rate: &Rate) -> RateFigures {
    RateFigures {
        seconds: length.as_secs(),
        mean_files: rate.mean.files,
        mean_bytes: rate.mean.bytes,
        peak_bytes: peak(rate.peak.bytes),
        peak_files: peak(rate.peak.files),
    }
}

pub fn json(capacity: Option<&Capacity>, ledger: &str, now: DateTime<Utc>, window: Option<Duration>) -> String {
    let figures = capacity.map(|capacity| Figures {
        first: time(capacity.first),
        last: time(capacity.last),
        seconds: capacity.span.as_secs(),
        files: capacity.total.files,
        bytes: capacity.total.bytes,
        resolution_seconds: capacity.resolution.as_secs(),
        per_hour: rate(HOUR, &capacity.per_hour),
        per_day: rate(DAY, &capacity.per_day),
        outage: OutageFigures {
            seconds: capacity.outage.length.as_secs(),
            disk_bytes: capacity.outage.fullest.flow.bytes,
            files: capacity.outage.fullest.flow.files,
            from: time(capacity.outage.fullest.begins),
        },
        bandwidth_bytes_per_second: capacity.needed_bytes_per_second,
        backlog: BacklogFigures {
            files: capacity.backlog.waiting.files,
            bytes: capacity.backlog.waiting.bytes,
            archived_last_hour: capacity.backlog.archived_last_hour,
            clears_in_seconds: capacity.backlog.clears_in.map(|time| time.as_secs_f64().ceil() as u64),
        },
    });
    let warnings = warnings(capacity, window);
    document_text(&Document { version: VERSION, ledger, at: time(now), capacity: figures, warnings })
}
