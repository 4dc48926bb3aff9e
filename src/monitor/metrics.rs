//! The counters as Prometheus reads them. Names, kinds, labels and help are all here; the values come from one
//! look. Labels hold names of the configuration and fixed words, never a file's name.
//!
//! Two forms (<https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md> 1.0, and the older text
//! format 0.0.4 for whoever does not ask for OpenMetrics) differ in little: the older one calls a counter by its full name
//! everywhere, and knows neither units nor an end.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::Look;
use super::free::Free;
use crate::domain::Status;
use crate::report::{ClaimOutcome, Distributed, RetryClass};

/// Which of the two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    OpenMetrics,
    Text,
}

impl Form {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// All that is shown at one moment.
#[derive(Debug)]
struct Shown {
    look: Arc<Look>,
    free: Free,
}

/// The page of metrics.
pub fn render(look: Look, free: Free, form: Form) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Shown { look: Arc::new(look), free }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(match form {
        Form::OpenMetrics => text,
        Form::Text => older(&text),
    })
}

/// The same in the older form.
fn older(text: &str) -> String {
    let counter = |name: &str| COUNTERS.contains(&name);
    let lines = text.lines().filter_map(|line| {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF"), ..) | (Some("#"), Some("UNIT"), ..) => None,
            (Some("#"), Some(what), Some(name), Some(rest)) if counter(name) => {
                Some(Cow::Owned(format!("# {what} {name}_total {rest}")))
            }
            _ => Some(Cow::Borrowed(line)),
        }
    });
    lines.map(|line| format!("{line}\n")).collect()
}

/// The names of counters, without the `_total` that their samples have.
const COUNTERS: &[&str] = &[
    "archiver_files",
    "archiver_bytes",
    "archiver_retries",
    "archiver_claims",
    "archiver_lease_lost",
    "archiver_watch_overflows",
    "archiver_scans",
];

type Labels<'a, const N: usize> = [(&'static str, Cow<'a, str>); N];

/// One family of metrics at a time.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn family<'s>(&'s mut self, name: &'s str, help: &str, kind: MetricType) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }

    /// `name` without `_total`.
    fn counters<'v, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'v, N>, u64)>,
    ) -> fmt::Result
    where
        Labels<'v, N>: EncodeLabelSet,
    {
        let mut family = self.family(name, help, MetricType::Counter)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }

    fn gauges<'v, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'v, N>, f64)>,
    ) -> fmt::Result
    where
        Labels<'v, N>: EncodeLabelSet,
    {
        let mut family = self.family(name, help, MetricType::Gauge)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.family(name, help, MetricType::Counter)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.family(name, help, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn histogram(&mut self, name: &str, help: &str, value: &Distributed) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Histogram)?;
        family.encode_histogram::<NoLabelSet>(value.seconds, value.count, &value.buckets, None)
    }
}

impl Collector for Shown {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let families = &mut Families(encoder);
        let snapshot = &self.look.snapshot;
        let sources = || snapshot.sources.iter();
        let files = sources().flat_map(|(source, totals)| {
            Status::ALL.map(|status| {
                let labels = [("source", text(source)), ("status", status.as_str().into())];
                (labels, totals.of(status))
            })
        });
        families.counters("archiver_files", "Candidates that came to an end, by what became of them", files)?;
        let bytes = sources().map(|(source, totals)| ([("source", text(source))], totals.bytes));
        families.counters("archiver_bytes", "Bytes of archived files", bytes)?;
        families.histogram(
            "archiver_upload_duration_seconds",
            "How long the attempt took that archived a file, from its begin to its commit",
            &snapshot.upload,
        )?;
        families.histogram(
            "archiver_archive_lag_seconds",
            "Time from the moment a file was seen finished, its settle time not yet over, to its commit",
            &snapshot.lag,
        )?;
        let retries = RetryClass::ALL.iter().zip(snapshot.retries_by_class);
        let retries = retries.map(|(class, count)| ([("class", Cow::from(class.as_str()))], count));
        families.counters("archiver_retries", "Attempts that failed and were followed by another one", retries)?;
        let claims = ClaimOutcome::ALL.iter().zip(snapshot.claims);
        let claims = claims.map(|(outcome, count)| ([("outcome", Cow::from(outcome.as_str()))], count));
        families.counters("archiver_claims", "Files asked the ledger for, by what it said", claims)?;
        families.counter(
            "archiver_lease_lost",
            "Claimed files that another archiver took over, because the lease had run out",
            snapshot.leases_lost,
        )?;
        families.counter(
            "archiver_watch_overflows",
            "Times that events of a watched directory were lost, and it was scanned instead",
            snapshot.overflows,
        )?;
        families.counter("archiver_scans", "Scans of whole source directories", snapshot.scans)?;
        if let Some(at) = snapshot.last_archived_at {
            families.gauge(
                "archiver_last_archived_timestamp_seconds",
                "When a file was last archived, in seconds since the Unix epoch",
                at.timestamp_millis() as f64 / 1e3,
            )?;
        }
        self.vitals(families)?;
        let version = [([("version", Cow::from(env!("CARGO_PKG_VERSION")))], 1.0)];
        families.gauges("archiver_build_info", "The version of the program; always 1", version)
    }
}

impl Shown {
    fn vitals(&self, families: &mut Families<'_>) -> fmt::Result {
        let Some(vitals) = &self.look.vitals else { return Ok(()) };
        let waiting = &vitals.waiting;
        families.gauge(
            "archiver_waiting_files",
            "Candidates that are not finished, and finished ones whose upload has not begun",
            waiting.files as f64,
        )?;
        families.gauge("archiver_waiting_bytes", "Bytes of these files", waiting.bytes as f64)?;
        families.gauge(
            "archiver_oldest_waiting_seconds",
            "How long the one of these files waits that waits longest; 0 without any",
            waiting.longest.first().map_or(0.0, |file| file.waited.as_secs_f64()),
        )?;
        let sessions = || vitals.destinations.iter().map(|destination| destination.sessions);
        let states = [
            ("connecting", sessions().map(|sessions| sessions.connecting).sum::<u64>()),
            ("idle", sessions().map(|sessions| sessions.idle).sum()),
            ("busy", sessions().map(|sessions| sessions.busy).sum()),
        ];
        let states = states.map(|(state, count)| ([("state", Cow::from(state))], count as f64));
        families.gauges("archiver_sessions", "SSH connections, by what they do", states)?;
        let up = vitals.destinations.iter().map(|destination| {
            let is_up = if destination.down.is_none() { 1.0 } else { 0.0 };
            ([("destination", text(&destination.url))], is_up)
        });
        families.gauges("archiver_destination_up", "Whether the destination takes files (1) or not (0)", up)?;
        let free = self.free.iter().map(|(source, bytes)| ([("source", text(source))], *bytes as f64));
        families.gauges(
            "archiver_source_free_bytes",
            "Free space of the filesystem that a source is on; of the fullest where it has several",
            free,
        )
    }
}

fn text(name: &str) -> Cow<'_, str> {
    name.into()
}
