//! The dated directory of a file: a strftime format, plus `{source}` and `{hostname}`.

use std::fmt::{self, Write};
use std::str::FromStr;

use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, Local, Utc};

/// A checked format such as `%Y/%m/%d` or `{hostname}/{source}/%Y-%m`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout(String);

impl FromStr for Layout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Some, such as `%#z`, can only be read.
        let written = Self(text.to_owned()).dated(DateTime::<Utc>::UNIX_EPOCH, Timezone::Utc);
        if StrftimeItems::new(text).any(|item| matches!(item, Item::Error)) || written.is_err() {
            return Err(format!("`{text}` is no strftime format; the default is `%Y/%m/%d`"));
        }
        let placeholders = text.replace("{source}", "").replace("{hostname}", "");
        if placeholders.contains(['{', '}']) {
            return Err(format!("`{text}` has a placeholder other than `{{source}}` and `{{hostname}}`"));
        }
        let layout = Self(text.to_owned());
        let sample = layout.render(DateTime::<Utc>::UNIX_EPOCH, Timezone::Utc, "source", "hostname");
        if text.starts_with('/')
            || text.split('/').any(|part| part == "." || part == "..")
            || sample.chars().any(char::is_control)
        {
            return Err(format!("`{text}` does not stay below the base; it must be relative, without `.` and `..`"));
        }
        Ok(layout)
    }
}

impl Default for Layout {
    fn default() -> Self {
        Self("%Y/%m/%d".to_owned())
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Layout {
    /// With its placeholders.
    fn dated(&self, instant: DateTime<Utc>, timezone: Timezone) -> Result<String, fmt::Error> {
        let mut text = String::new();
        match timezone {
            Timezone::Utc => write!(text, "{}", instant.format(&self.0)),
            Timezone::Local => write!(text, "{}", instant.with_timezone(&Local).format(&self.0)),
            Timezone::Named(zone) => write!(text, "{}", instant.with_timezone(&zone).format(&self.0)),
        }?;
        Ok(text)
    }

    /// The directory for an instant, relative to the destination's base. `/` in a source's or host's name becomes `_`.
    pub fn render(&self, instant: DateTime<Utc>, timezone: Timezone, source: &str, hostname: &str) -> String {
        let dated = self.dated(instant, timezone).expect("it was tried when it was parsed");
        let component = |name: &str| name.replace(['/', '\0'], "_");
        // At once, for a name may look like a placeholder.
        let hostname = component(hostname);
        let named: Vec<_> = dated.split("{source}").map(|part| part.replace("{hostname}", &hostname)).collect();
        let named = named.join(&component(source));
        // Together with what is around it, or without a name at all, a component could still lead elsewhere.
        let plain = |part| if matches!(part, "." | "..") { "_" } else { part };
        named.split('/').map(plain).collect::<Vec<_>>().join("/")
    }
}

/// Whose midnight starts a new directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Timezone {
    #[default]
    Utc,
    /// The machine's own zone.
    Local,
    /// A zone of the IANA database, built into the program.
    Named(chrono_tz::Tz),
}

impl FromStr for Timezone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "UTC" => Ok(Self::Utc),
            "local" => Ok(Self::Local),
            name => name.parse().map(Self::Named).map_err(|_| {
                format!("`{name}` is neither `UTC`, `local` nor a zone of the IANA database such as `Europe/Berlin`")
            }),
        }
    }
}

impl fmt::Display for Timezone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Utc => f.write_str("UTC"),
            Self::Local => f.write_str("local"),
            Self::Named(zone) => f.write_str(zone.name()),
        }
    }
}

/// Which instant the directory is named for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DateFrom {
    /// When the file was first claimed.
    #[default]
    Claim,
    /// The file's modification time.
    Modified,
}

impl FromStr for DateFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "claim" => Ok(Self::Claim),
            "modified" => Ok(Self::Modified),
            _ => Err(format!("`{text}` is not one of `claim`, `modified`")),
        }
    }
}

impl fmt::Display for DateFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Claim => "claim",
            Self::Modified => "modified",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn the_timezone_decides_midnight() {
        let layout = Layout::default();
        let late = at("2026-11-21T23:30:00Z");
        assert_eq!(layout.render(late, Timezone::Utc, "", ""), "2026/11/21");
        assert_eq!(layout.render(late, "Europe/Berlin".parse().unwrap(), "", ""), "2026/11/22");
        assert_eq!(layout.render(late, "America/New_York".parse().unwrap(), "", ""), "2026/11/21");
    }

    #[test]
    fn placeholders_cannot_leave_the_base() {
        let layout: Layout = "{hostname}/{source}/%Y-%m".parse().unwrap();
        assert_eq!(layout.render(at("2026-11-21T00:00:00Z"), Timezone::Utc, "../a", ".."), "_/.._a/2026-11");
        let layout: Layout = "..{source}/.{hostname}/%Y".parse().unwrap();
        let at_new_year = at("2027-01-01T00:00:00Z");
        assert_eq!(layout.render(at_new_year, Timezone::Utc, "", ""), "_/_/2027");
        assert_eq!(layout.render(at_new_year, Timezone::Utc, "{hostname}", ".x"), "..{hostname}/..x/2027");
        for bad in ["/abs", "../%Y", "%Y/./%m", "%Q", "%#z", "{name}/%Y"] {
            assert!(bad.parse::<Layout>().is_err(), "{bad}");
        }
    }
}
