//! Markers: companion files whose presence says that a data file is finished.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// How a marker's name follows from its data file's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MarkerPattern {
    /// `{name}.done`: around the whole name, so `a.csv` waits for `a.csv.done`.
    Name { before: String, after: String },
    /// `{stem}.ok`: around the name without its last extension, so `a.csv` waits for `a.ok`.
    Stem { before: String, after: String },
    /// `_SUCCESS`: one marker for all files that stand directly in its directory.
    Fixed(String),
}

/// What a marker speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MarkedBy {
    /// This file.
    File(PathBuf),
    /// The files of this directory (empty for the source itself) whose name without its last extension is `stem`.
    Stem { directory: PathBuf, stem: OsString },
    /// All files that stand directly in this directory (empty for the source itself).
    Directory(PathBuf),
}

impl MarkerPattern {
    /// The marker of a data file, beside it.
    pub fn marker_of(&self, data: &Path) -> PathBuf {
        let name = data.file_name().unwrap_or_default();
        let around = |before: &str, middle: &OsStr, after: &str| {
            OsString::from_vec([before.as_bytes(), middle.as_bytes(), after.as_bytes()].concat())
        };
        data.with_file_name(match self {
            Self::Name { before, after } => around(before, name, after),
            Self::Stem { before, after } => around(before, stem(name), after),
            Self::Fixed(name) => name.into(),
        })
    }

    /// Whether a file of this name is itself a marker, whether or not its data file exists.
    pub fn is_marker(&self, name: &OsStr) -> bool {
        match self {
            Self::Fixed(fixed) => name == fixed.as_str(),
            Self::Name { .. } | Self::Stem { .. } => self.middle(name).is_some(),
        }
    }

    /// What the file at `marker` speaks for; `None` where its name is no marker's.
    pub fn data_of(&self, marker: &Path) -> Option<MarkedBy> {
        let name = marker.file_name()?;
        let directory = marker.parent().unwrap_or(Path::new("")).to_owned();
        match self {
            Self::Fixed(fixed) => (name == fixed.as_str()).then_some(MarkedBy::Directory(directory)),
            Self::Name { .. } => self.middle(name).map(|data| MarkedBy::File(directory.join(data))),
            Self::Stem { .. } => self.middle(name).map(|stem| MarkedBy::Stem { directory, stem: stem.to_os_string() }),
        }
    }

    fn middle<'a>(&self, name: &'a OsStr) -> Option<&'a OsStr> {
        let (Self::Name { before, after } | Self::Stem { before, after }) = self else { return None };
        let middle = name.as_bytes().strip_prefix(before.as_bytes())?.strip_suffix(after.as_bytes())?;
        (!middle.is_empty()).then_some(OsStr::from_bytes(middle))
    }
}

/// A name without its last extension; a leading dot starts a hidden name, not an extension. Never `.`, which with another
/// dot beside it would be no name of a marker: `..x` has no extension.
pub fn stem(name: &OsStr) -> &OsStr {
    Path::new(name).file_stem().filter(|stem| *stem != ".").unwrap_or(name)
}

impl FromStr for MarkerPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const HINT: &str = "write `{name}.done`, `{stem}.ok`, a fixed name such as `_SUCCESS`, or `none`";
        if text.is_empty() || text == "." || text == ".." || text.contains(['/', '\0']) {
            return Err(format!("`{text}` is not the name of a file beside the data file; {HINT}"));
        }
        let split = |placeholder: &str| text.split_once(placeholder);
        let (before, after, whole) = match (split("{name}"), split("{stem}")) {
            (None, None) if text.contains(['{', '}']) => {
                return Err(format!("`{text}` has a placeholder other than `{{name}}` and `{{stem}}`; {HINT}"));
            }
            (None, None) => return Ok(Self::Fixed(text.to_owned())),
            (Some((before, after)), None) => (before, after, true),
            (None, Some((before, after))) => (before, after, false),
            (Some(_), Some(_)) => return Err(format!("`{text}` has two placeholders; {HINT}")),
        };
        if before.contains(['{', '}']) || after.contains(['{', '}']) {
            return Err(format!("`{text}` has more than one placeholder, or a stray brace; {HINT}"));
        }
        if before.is_empty() && after.is_empty() {
            return Err(format!("`{text}` does not differ from its data file's name; {HINT}"));
        }
        let (before, after) = (before.to_owned(), after.to_owned());
        Ok(if whole { Self::Name { before, after } } else { Self::Stem { before, after } })
    }
}

impl fmt::Display for MarkerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { before, after } => write!(f, "{before}{{name}}{after}"),
            Self::Stem { before, after } => write!(f, "{before}{{stem}}{after}"),
            Self::Fixed(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> MarkerPattern {
        let pattern: MarkerPattern = text.parse().unwrap();
        assert_eq!(pattern.to_string(), text);
        pattern
    }

    #[test]
    fn a_marker_and_its_data_name_each_other() {
        let name = pattern("{name}.done");
        assert_eq!(name.marker_of(Path::new("d/a.csv")), Path::new("d/a.csv.done"));
        assert_eq!(name.data_of(Path::new("d/a.csv.done")), Some(MarkedBy::File("d/a.csv".into())));
        assert_eq!(name.data_of(Path::new("d/a.csv")), None);
        assert!(!name.is_marker(OsStr::new(".done")));
        let stem = pattern("ok-{stem}.ok");
        assert_eq!(stem.marker_of(Path::new("a.tar.gz")), Path::new("ok-a.tar.ok"));
        assert_eq!(
            stem.data_of(Path::new("d/ok-a.tar.ok")),
            Some(MarkedBy::Stem { directory: "d".into(), stem: "a.tar".into() })
        );
        assert_eq!(pattern("{stem}.").marker_of(Path::new("d/..x")), Path::new("d/..x."));
        let fixed = pattern("_SUCCESS");
        assert_eq!(fixed.marker_of(Path::new("d/part-0")), Path::new("d/_SUCCESS"));
        assert_eq!(fixed.data_of(Path::new("_SUCCESS")), Some(MarkedBy::Directory(PathBuf::new())));
        assert!(fixed.is_marker(OsStr::new("_SUCCESS")) && !fixed.is_marker(OsStr::new("x_SUCCESS")));
    }

    #[test]
    fn other_bytes_pass_through() {
        let data = Path::new(OsStr::from_bytes(b"caf\xe9.csv"));
        let marker = pattern("{name}.done").marker_of(data);
        assert_eq!(marker.as_os_str().as_bytes(), b"caf\xe9.csv.done");
        assert_eq!(pattern("{name}.done").data_of(&marker), Some(MarkedBy::File(data.into())));
    }

    #[test]
    fn mistakes_say_what_to_write() {
        for bad in ["", "a/b", "{name}", "{stem}", "{name}{stem}", "{name}.{name}", "{nom}.done", "x{", "..", "}{name}"]
        {
            let error = bad.parse::<MarkerPattern>().unwrap_err();
            assert!(error.contains("_SUCCESS"), "{bad}: {error}");
        }
    }
}
