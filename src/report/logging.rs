//! Logs: text or JSON lines on standard error, filtered as `RUST_LOG` would be.
//!
//! Whatever an event's fields hold, one event is one line and steers no terminal: control characters are escaped here,
//! for all fields alike. (`tracing-subscriber` escapes terminal sequences by itself, but no line breaks.)

use std::fmt;
use std::io;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::format::{FormatFields, Writer};
use tracing_subscriber::fmt::{MakeWriter, SubscriberBuilder};
use tracing_subscriber::util::SubscriberInitExt;

use super::{Colour, Console};
use crate::config::settings::{LogFormat, LogSettings};
use crate::domain::display::{escaped, inert};

/// What the protocol crates may say unless the filter names them: they log each packet, and each server's refusal of
/// an optional request as an error.
const QUIET_CRATES: &str = "russh=error,russh_sftp=error";

/// Checks a filter such as `info` or `archiver=debug,russh=trace`.
pub fn parse_filter(filter: &str) -> Result<EnvFilter, String> {
    // Later directives win over earlier ones for the same target.
    EnvFilter::builder().parse(format!("{QUIET_CRATES},{filter}")).map_err(|error| {
        format!("`{filter}` is no log filter ({error}); write a level (`error`, `warn`, `info`, `debug`, `trace`, `off`) or a list such as `info,archiver::source=debug`")
    })
}

/// Sends the process's logs to the console. To be called once; a second call is an error.
pub fn init(settings: &LogSettings, console: &Console) -> Result<(), String> {
    subscriber(settings, console)?.try_init().map_err(|error| format!("logs cannot be set up: {error}"))
}

/// The subscriber that [`init`] installs. Timestamps are RFC 3339 in UTC.
fn subscriber(settings: &LogSettings, console: &Console) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, String> {
    let builder: SubscriberBuilder<_, _, _, _> = tracing_subscriber::fmt()
        .with_env_filter(parse_filter(&settings.filter)?)
        .with_ansi(console.colour() == Colour::Ansi)
        .with_writer(LogWriter { console: console.clone(), format: settings.format });
    Ok(match settings.format {
        LogFormat::Text => Box::new(builder.fmt_fields(EscapedFields).finish()),
        LogFormat::Json => Box::new(builder.json().with_ansi(false).flatten_event(true).finish()),
    })
}

/// Hands each event, which arrives as one formatted line, to the console.
struct LogWriter {
    console: Console,
    format: LogFormat,
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = &'a LogWriter;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl io::Write for &LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match (self.format, std::str::from_utf8(line)) {
            (LogFormat::Json, Ok(text)) => self.console.write(inert(text).as_bytes())?,
            _ => self.console.write(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `message key=value key=value`, with control characters escaped.
struct EscapedFields;

impl<'w> FormatFields<'w> for EscapedFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = EscapedVisitor { writer, separator: "", result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct EscapedVisitor<'w> {
    writer: Writer<'w>,
    separator: &'static str,
    result: fmt::Result,
}

impl EscapedVisitor<'_> {
    fn put(&mut self, field: &Field, value: &str) -> fmt::Result {
        let separator = std::mem::replace(&mut self.separator, " ");
        match (field.name(), self.writer.has_ansi_escapes()) {
            ("message", _) => write!(self.writer, "{separator}{}", escaped(value)),
            (name, true) => write!(self.writer, "{separator}\x1b[2m{name}=\x1b[0m{}", escaped(value)),
            (name, false) => write!(self.writer, "{separator}{name}={}", escaped(value)),
        }
    }
}

impl Visit for EscapedVisitor<'_> {
    /// In quotes, and escaped once: a name in it may be escaped for people already.
    fn record_str(&mut self, field: &Field, value: &str) {
        if self.result.is_ok() && !field.name().starts_with("log.") {
            self.result = self.put(field, &format!("\"{}\"", value.replace('"', "\\\"")));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // `log.*` repeats an event's metadata where it came through the `log` crate.
        if self.result.is_ok() && !field.name().starts_with("log.") {
            self.result = self.put(field, &format!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use indicatif::ProgressDrawTarget;

    use super::*;
    use crate::report::console::Drawing;

    /// What reaches standard error while `log` runs.
    fn logged(format: LogFormat, filter: &str, colour: Colour, log: impl FnOnce()) -> String {
        let out = Arc::new(Mutex::new(Vec::new()));
        let console = Console::new(Drawing::Nothing, colour, ProgressDrawTarget::hidden(), out.clone());
        let settings = LogSettings { format, filter: filter.into() };
        tracing::subscriber::with_default(subscriber(&settings, &console).unwrap(), log);
        let bytes = out.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    const NASTY: &str = "a\nERROR forged\x1b[2J\u{9b}31m\u{202e}\r";

    #[test]
    fn an_event_is_one_line_of_text() {
        let text = logged(LogFormat::Text, "info", Colour::Plain, || {
            tracing::info!(file = %NASTY, quoted = NASTY, count = 3, "hello {NASTY}");
            tracing::debug!("unwanted");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.trim_end_matches('\n').contains(|c: char| c.is_control() || c == '\u{202e}'), "{text}");
        assert!(text.contains("hello a\\nERROR") && text.contains("file=a\\nERROR") && text.ends_with("count=3\n"));
        let timestamp = text.split_whitespace().next().unwrap();
        assert!(timestamp.ends_with('Z') && chrono::DateTime::parse_from_rfc3339(timestamp).is_ok(), "{timestamp}");
    }

    #[test]
    fn what_is_escaped_already_is_not_escaped_again() {
        let text = logged(LogFormat::Text, "info", Colour::Plain, || {
            tracing::info!(remote = "/in/a\\x1b[2J\\n \"b\"", raw = "a\nb", "archived");
        });
        assert!(text.ends_with("archived remote=\"/in/a\\x1b[2J\\n \\\"b\\\"\" raw=\"a\\nb\"\n"), "{text}");
    }

    #[test]
    fn an_event_is_one_json_document() {
        let text = logged(LogFormat::Json, "info", Colour::Ansi, || tracing::info!(file = %NASTY, "hello"));
        assert!(!text.trim_end_matches('\n').contains(|c: char| c.is_control() || c == '\u{202e}'), "{text}");
        let event: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(event["file"], NASTY);
        assert_eq!(event["level"], "INFO");
        assert_eq!(event["message"], "hello");
    }

    #[test]
    fn colours_only_where_wanted() {
        let event = || tracing::info!(key = 1, "hello");
        assert!(logged(LogFormat::Text, "info", Colour::Ansi, event).contains("\x1b[2mkey=\x1b[0m1"));
        assert!(!logged(LogFormat::Text, "info", Colour::Plain, event).contains('\x1b'));
    }

    #[test]
    fn the_protocol_crates_are_quiet_unless_named() {
        let events = || {
            tracing::info!(target: "russh::client", "packet");
            tracing::warn!(target: "russh_sftp::client", "refused");
        };
        assert_eq!(logged(LogFormat::Text, "debug", Colour::Plain, events), "");
        assert_eq!(logged(LogFormat::Text, "info,russh=info", Colour::Plain, events).lines().count(), 1);
    }

    #[test]
    fn a_wrong_filter_says_what_to_write() {
        let error = parse_filter("archiver=loud").unwrap_err();
        assert!(error.contains("`archiver=loud`") && error.contains("`debug`"), "{error}");
        for filter in ["info", "off", "archiver=debug,russh=trace", "warn,archiver::source=trace"] {
            parse_filter(filter).unwrap();
        }
    }
}
