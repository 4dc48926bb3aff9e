//! The values that have no type of their own elsewhere, each with its reader and a message that says what to write.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use super::settings::SummaryRows;
use crate::domain::{ByteRate, HumanDuration, ListenAddress, MarkerPattern, RedisUrl, glob};

/// No timer of the program needs more, and sums of such durations cannot overflow a clock.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// A duration of at most a hundred years; zero is allowed.
pub fn duration(text: &str) -> Result<Duration, String> {
    let duration = text.parse::<HumanDuration>()?.0;
    if duration > LONGEST { Err(format!("`{text}` is longer than a hundred years")) } else { Ok(duration) }
}

/// A duration longer than zero.
pub fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it must be longer than zero".into()),
        interval => Ok(interval),
    }
}

/// A duration, or `none`.
pub fn optional_interval(text: &str) -> Result<Option<Duration>, String> {
    if text == "none" { Ok(None) } else { interval(text).map(Some) }
}

/// A rate, or `none`.
pub fn optional_rate(text: &str) -> Result<Option<ByteRate>, String> {
    if text == "none" { Ok(None) } else { text.parse().map(Some) }
}

/// An address to listen on, or `none`.
pub fn optional_address(text: &str) -> Result<Option<ListenAddress>, String> {
    if text == "none" { Ok(None) } else { text.parse().map(Some) }
}

/// A number of attempts: 1 or more.
pub fn attempts(text: &str) -> Result<u32, String> {
    let number: NonZeroU32 =
        text.parse().map_err(|_| format!("`{text}` is no number of attempts; write 1 or more, as in 8"))?;
    Ok(number.get())
}

/// A number from 1 to 65535, or `auto` for adaptive.
pub fn count_or_auto(text: &str) -> Result<Option<u16>, String> {
    if text == "auto" {
        return Ok(None);
    }
    let number: NonZeroU16 =
        text.parse().map_err(|_| format!("`{text}` is neither `auto` nor a whole number from 1 to 65535"))?;
    Ok(Some(number.get()))
}

/// A number of rows, or `all`.
pub fn rows(text: &str) -> Result<SummaryRows, String> {
    if text == "all" {
        return Ok(SummaryRows::All);
    }
    text.parse().map(SummaryRows::Limit).map_err(|_| format!("`{text}` is neither `all` nor a number of rows"))
}

/// A glob of `include`.
pub fn include(text: &str) -> Result<(), String> {
    compiles(glob::include(text)?)
}

/// A glob of `exclude`.
pub fn exclude(text: &str) -> Result<(), String> {
    compiles(glob::exclude(text)?)
}

/// Also one that is well written can be too large to match with.
fn compiles(glob: globset::Glob) -> Result<(), String> {
    let mut set = globset::GlobSetBuilder::new();
    set.add(glob);
    set.build().map(drop).map_err(|error| format!("it cannot be used: {}", error.kind()))
}

/// The name of a marker beside its data file, or a fixed name for a whole directory; `none` for no marker.
pub fn marker(text: &str) -> Result<Option<String>, String> {
    match text {
        "none" => Ok(None),
        _ => text.parse::<MarkerPattern>().map(|_| Some(text.to_owned())),
    }
}

/// A path, or a URL of a kind of ledger that this version has.
pub fn ledger(text: &str) -> Result<(), String> {
    if RedisUrl::is_meant(text) {
        return RedisUrl::parse(text).map(drop);
    }
    // What follows such a scheme may hold a password.
    if text.contains("://") {
        return Err(
            "it is a URL of a kind that is not supported; write the path of a file on a local disk, or redis://…"
                .into(),
        );
    }
    if text.is_empty() { Err("an empty path names no file".into()) } else { Ok(()) }
}

/// What the keys of a shared ledger begin with.
pub fn ledger_prefix(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/');
    if text.is_empty() || text.len() > 64 || !text.chars().all(allowed) {
        return Err("a prefix is 1 to 64 letters, digits or characters of `-_.:/`".into());
    }
    Ok(text.to_owned())
}

/// How long a claim lasts: long enough for a short pause of a machine.
pub fn lease(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        lease if lease < Duration::from_secs(1) => Err("a lease lasts 1s at least".into()),
        lease if lease > Duration::from_secs(24 * 60 * 60) => Err("a lease lasts a day at most".into()),
        lease => Ok(lease),
    }
}

/// A number of replicas that may be none.
pub fn replicas(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("`{text}` is no number of replicas; write 0 or more, as in 1"))
}

/// The only word of a choice whose other words come with later versions.
pub fn only(word: &str, text: &str) -> Result<(), String> {
    if text == word { Ok(()) } else { Err(format!("`{text}` is not supported by this version; leave it out")) }
}

/// A list of `tracing` directives: a level for everything, or `crate=level` for a part.
pub fn log_filter(text: &str) -> Result<(), String> {
    tracing_subscriber::EnvFilter::try_new(text).map(drop).map_err(|error| {
        format!("`{text}` is no log filter ({error}); write a level such as `info`, or `warn,archiver=debug`")
    })
}

/// The name of a source: it appears in tables, in remote paths and in the ledger.
pub fn source_name(text: &str) -> Result<(), String> {
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        return Err("a name needs a visible character and must have no control characters".into());
    }
    Ok(())
}

pub fn path(text: &str) -> Result<(), String> {
    match text {
        "" => Err("an empty path names nothing".into()),
        text if text.contains('\0') => Err("a path cannot contain a NUL".into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_have_to_mean_something() {
        assert_eq!(marker("{name}.done"), Ok(Some("{name}.done".into())));
        assert_eq!(marker("_SUCCESS"), Ok(Some("_SUCCESS".into())));
        assert_eq!(marker("none"), Ok(None));
        for bad in [
            "",
            "{name}",
            "{stem}",
            "{name}{stem}",
            "{name}.{name}",
            "done/{name}",
            "{file}.ok",
            "{name",
            "..",
            "{{name}}",
        ] {
            assert!(marker(bad).unwrap_err().contains("`_SUCCESS`"), "{bad}");
        }
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!(count_or_auto("auto"), Ok(None));
        assert_eq!(count_or_auto("4"), Ok(Some(4)));
        for bad in ["0", "-1", "65536", "many"] {
            assert!(count_or_auto(bad).is_err(), "{bad}");
        }
        assert!(attempts("0").is_err());
        assert!(interval("0s").is_err());
        assert!(duration("1000years").is_err());
        assert_eq!(duration("90days").unwrap(), Duration::from_secs(90 * 86400));
        assert_eq!(rows("all"), Ok(SummaryRows::All));
        assert!(rows("-1").is_err());
    }

    #[test]
    fn a_ledger_elsewhere_is_refused_without_its_password() {
        assert_eq!(ledger("redis://:hunter2@cache:6379"), Ok(()));
        let message = ledger("redis://:hunter2@cache:port").unwrap_err();
        assert!(message.contains("port") && !message.contains("hunter2"), "{message}");
        assert!(ledger_prefix("a{b}").is_err() && ledger_prefix("team-1/archiver").is_ok());
        assert!(lease("500ms").is_err() && lease("2days").is_err() && lease("1s").is_ok());
        assert!(!ledger("mysql://root:hunter2@db").unwrap_err().contains("hunter2"));
        assert_eq!(ledger("/var/lib/archiver/ledger.db"), Ok(()));
    }

    #[test]
    fn filters_and_globs_are_checked() {
        assert_eq!(log_filter("warn,archiver=debug"), Ok(()));
        assert!(log_filter("archiver=loud").is_err());
        assert_eq!(include("**/*.{csv,txt}"), Ok(()));
        assert!(include("a[").unwrap_err().contains("no glob"));
        assert!(exclude("/").is_err() && include("/").is_ok());
    }
}
