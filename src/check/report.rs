//! The report: a line a probe as it comes for people, or one document at the end for programs.

use std::io::Write;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use super::probe::{Name, Probe, Verdict};
use crate::config::settings::SummaryFormat;
use crate::domain::display::{escaped, inert};
use crate::report::Colour;

/// The version of the JSON document's shape. New keys may appear in it; a change of meaning makes a new version.
const VERSION: u32 = 1;
/// Columns of the longest name.
const NAME: usize = 14;

/// Where the lines for people go as they come.
pub struct Live {
    pub out: Box<dyn Write + Send>,
    pub colour: Colour,
}

/// Everything found so far. Texts are escaped here, so that no server can steer a terminal.
pub struct Report {
    /// `None` for what concerns this machine; else the index of the destination.
    probes: Vec<(Option<usize>, Probe)>,
    destinations: Vec<String>,
    shown: Option<usize>,
    live: Option<Live>,
    text: String,
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    started_at: String,
    finished_at: String,
    verdict: Verdict,
    probes: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    /// Null for what concerns this machine.
    destination: Option<&'a str>,
    probe: &'static str,
    verdict: Verdict,
    detail: &'a str,
    hint: Option<&'a str>,
    seconds: f64,
}

impl Report {
    /// `destinations`: their URLs. `live` gets the lines for people while they come.
    pub fn new(destinations: Vec<String>, live: Option<Live>) -> Self {
        Self { probes: Vec::new(), destinations, shown: None, live, text: String::new() }
    }

    pub fn add(&mut self, destination: Option<usize>, probe: Probe) {
        self.heading(destination);
        let colour = self.colour();
        self.show(&line(&probe, colour));
        self.probes.push((destination, probe));
    }

    /// Several that were not tried for one reason: a line together for people, each by itself for programs.
    pub fn skip(&mut self, destination: Option<usize>, names: &[Name], reason: &str) {
        if names.is_empty() {
            return;
        }
        self.heading(destination);
        let labels: Vec<_> = names.iter().map(|name| name.label()).collect();
        let text = format!("{}  {}: {}\n", tag(Verdict::Skip, self.colour()), labels.join(", "), escaped(reason));
        self.show(&text);
        self.probes.extend(names.iter().map(|name| (destination, Probe::skip(*name, reason))));
    }

    /// Those of a destination that have no line yet.
    pub fn missing(&self, destination: usize) -> Vec<Name> {
        let has = |name| self.probes.iter().any(|(of, probe)| *of == Some(destination) && probe.name == name);
        Name::OF_DESTINATION.into_iter().filter(|name| !has(*name)).collect()
    }

    pub fn probes(&self) -> impl Iterator<Item = &Probe> {
        self.probes.iter().map(|(_, probe)| probe)
    }

    fn colour(&self) -> Colour {
        self.live.as_ref().map_or(Colour::Plain, |live| live.colour)
    }

    /// With several destinations each has its own block.
    fn heading(&mut self, destination: Option<usize>) {
        let several = self.destinations.len() > 1;
        let url = destination.filter(|_| several && destination != self.shown);
        if let Some(url) = url.and_then(|index| self.destinations.get(index)) {
            let text = format!("\n{}\n", escaped(url));
            self.show(&text);
        }
        self.shown = destination;
    }

    /// A reader that went away is no reason to stop in the middle and leave something on the server.
    fn show(&mut self, text: &str) {
        self.text.push_str(text);
        if let Some(live) = &mut self.live {
            let _ = live.out.write_all(text.as_bytes()).and_then(|()| live.out.flush());
        }
    }

    /// The last line for people: how many probes ended how.
    pub fn conclude(&mut self, elapsed: Duration) {
        let count = |verdict| self.probes().filter(|probe| probe.verdict == verdict).count();
        let text = format!(
            "\n{} ok · {} warn · {} fail · {} skipped in {}\n",
            count(Verdict::Ok),
            count(Verdict::Warn),
            count(Verdict::Fail),
            count(Verdict::Skip),
            milliseconds(elapsed)
        );
        self.show(&text);
    }

    /// The whole report as one text. Lines for people have colours only if they were shown live in colour.
    pub fn document(&self, format: SummaryFormat, started_at: DateTime<Utc>, finished_at: DateTime<Utc>) -> String {
        match format {
            SummaryFormat::None => String::new(),
            SummaryFormat::Table => self.text.clone(),
            SummaryFormat::Json => self.json(started_at, finished_at),
            SummaryFormat::Csv => self.csv(),
        }
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.probes.iter().map(|(destination, probe)| Entry {
            destination: destination.and_then(|index| self.destinations.get(index)).map(String::as_str),
            probe: probe.name.label(),
            verdict: probe.verdict,
            detail: &probe.detail,
            hint: probe.hint.as_deref(),
            seconds: (probe.elapsed.as_secs_f64() * 1e6).round() / 1e6,
        })
    }

    fn json(&self, started_at: DateTime<Utc>, finished_at: DateTime<Utc>) -> String {
        let worst = [Verdict::Fail, Verdict::Warn].into_iter();
        let document = Document {
            version: VERSION,
            started_at: started_at.to_rfc3339_opts(SecondsFormat::Millis, true),
            finished_at: finished_at.to_rfc3339_opts(SecondsFormat::Millis, true),
            verdict: worst
                .into_iter()
                .find(|verdict| self.probes().any(|probe| probe.verdict == *verdict))
                .unwrap_or(Verdict::Ok),
            probes: self.entries().collect(),
        };
        let text = serde_json::to_string_pretty(&document).expect("strings, numbers and lists become JSON");
        format!("{}\n", inert(&text))
    }

    fn csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for entry in self.entries() {
            writer.serialize(entry).expect("memory takes all writes, and every record has the same fields");
        }
        let bytes = writer.into_inner().expect("memory takes all writes");
        // Field by field would be the same: escapes only replace characters that need no quotes.
        String::from_utf8_lossy(&bytes).lines().map(|line| format!("{}\n", escaped(line))).collect()
    }
}

/// `OK    host key          12 ms  ssh-ed25519 …`, with the hint on a line below.
fn line(probe: &Probe, colour: Colour) -> String {
    let mut text = format!(
        "{}  {:NAME$}  {:>8}  {}\n",
        tag(probe.verdict, colour),
        probe.name.label(),
        milliseconds(probe.elapsed),
        escaped(&probe.detail)
    );
    if let Some(hint) = &probe.hint {
        text.push_str(&format!("      └ {}\n", escaped(hint)));
    }
    text
}

fn milliseconds(elapsed: Duration) -> String {
    format!("{} ms", elapsed.as_millis())
}

/// Four columns wide.
fn tag(verdict: Verdict, colour: Colour) -> String {
    match verdict {
        Verdict::Ok => colour.paint("32", "OK  "),
        Verdict::Warn => colour.paint("33", "WARN"),
        Verdict::Fail => colour.paint("1;31", "FAIL"),
        Verdict::Skip => colour.paint("2", "SKIP"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new(vec!["sftp://h/a".into()], None);
        report.add(None, Probe::ok(Name::Config, "no file").took(Duration::from_millis(2)));
        let bad = Probe::fail(Name::Authentication, "refused by \x1b[2J, \"sorry\"").hint("a key\u{202e}");
        report.add(Some(0), bad.took(Duration::from_micros(12_345)));
        report.skip(Some(0), &[Name::Sftp, Name::Limits], "nobody is logged in");
        report.conclude(Duration::from_millis(15));
        report
    }

    fn epoch() -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
    }

    #[test]
    fn people_get_a_line_a_probe() {
        insta::assert_snapshot!(report().document(SummaryFormat::Table, epoch(), epoch()), @r#"
        OK    config              2 ms  no file
        FAIL  authentication     12 ms  refused by \x1b[2J, "sorry"
              └ a key\u{202e}
        SKIP  sftp, limits: nobody is logged in

        1 ok · 0 warn · 1 fail · 2 skipped in 15 ms
        "#);
    }

    #[test]
    fn programs_get_every_probe() {
        let text = report().document(SummaryFormat::Json, epoch(), epoch());
        assert!(!text.contains('\x1b') && !text.contains('\u{202e}'));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&json["version"], &json["verdict"]), (&1.into(), &"fail".into()));
        assert_eq!(json["probes"].as_array().unwrap().len(), 4);
        assert_eq!(json["probes"][0]["destination"], serde_json::Value::Null);
        assert_eq!(json["probes"][1]["destination"], "sftp://h/a");
        assert_eq!(json["probes"][1]["seconds"], 0.012345);
        assert_eq!(json["probes"][3]["probe"], "limits");
        assert_eq!(json["probes"][3]["verdict"], "skip");
        let csv = report().document(SummaryFormat::Csv, epoch(), epoch());
        assert_eq!(csv.lines().next(), Some("destination,probe,verdict,detail,hint,seconds"));
        assert_eq!(csv.lines().count(), 5);
    }

    #[test]
    fn what_was_not_reached_is_known() {
        let missing = report().missing(0);
        assert_eq!((missing.len(), missing[0]), (14, Name::Ssh));
    }

    #[test]
    fn several_destinations_have_a_block_each() {
        let mut report = Report::new(vec!["sftp://h/a".into(), "sftp://h/b".into()], None);
        report.add(None, Probe::ok(Name::Config, ""));
        report.add(Some(0), Probe::ok(Name::Ssh, ""));
        report.add(Some(1), Probe::ok(Name::Ssh, ""));
        let text = report.document(SummaryFormat::Table, epoch(), epoch());
        assert_eq!(text.matches("\nsftp://h/").count(), 2);
    }
}
