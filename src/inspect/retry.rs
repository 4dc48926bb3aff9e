//! Which failed files a person means, and which of them can be put back.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use globset::{GlobSet, GlobSetBuilder};

use crate::domain::{FileKey, glob};
use crate::ledger::EntryInfo;
use crate::localfs::{OpenError, RootDir};
use crate::source::BelowRoot;

/// The patterns of a command line: matched on the local path and on the path below the source, as `--include` matches.
#[derive(Debug)]
pub struct Wanted {
    texts: Vec<String>,
    globs: GlobSet,
    matched: Vec<bool>,
}

impl Wanted {
    /// None for every failed file.
    ///
    /// # Errors
    /// What is wrong with each that is no glob.
    pub fn new(patterns: &[String]) -> Result<Self, Vec<String>> {
        let (mut globs, mut mistakes) = (GlobSetBuilder::new(), Vec::new());
        for pattern in patterns {
            match glob::include(pattern) {
                Ok(glob) => drop(globs.add(glob)),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        let globs = globs.build().map_err(|error| vec![error.to_string()])?;
        let matched = vec![false; patterns.len()];
        if mistakes.is_empty() { Ok(Self { texts: patterns.to_vec(), globs, matched }) } else { Err(mistakes) }
    }

    /// Whether a failed entry is meant. Takes note of the patterns that meant it.
    pub fn means(&mut self, entry: &EntryInfo) -> bool {
        if self.texts.is_empty() {
            return true;
        }
        let below = Path::new(std::ffi::OsStr::from_bytes(&entry.key.path));
        let mut means = false;
        for path in [&*entry.local_path, below] {
            // Globs have no slash in front.
            for index in self.globs.matches(path.strip_prefix("/").unwrap_or(path)) {
                (self.matched[index], means) = (true, true);
            }
            // A path that happens to have a glob's characters in it.
            for (index, text) in self.texts.iter().enumerate().filter(|(_, text)| Path::new(text) == path) {
                tracing::trace!(text, "named as it is");
                (self.matched[index], means) = (true, true);
            }
        }
        means
    }

    /// The patterns that meant nothing.
    pub fn unmatched(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().zip(&self.matched).filter(|(_, matched)| !**matched).map(|(text, _)| text.as_str())
    }
}

/// How a failed file stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// As it failed: it can be tried again.
    Unchanged,
    /// Nothing has its name: somebody removed or moved it, perhaps we, into quarantine.
    Gone,
    /// Another version has its name, which is a file of its own to the ledger.
    Changed,
    /// It cannot be told.
    Unknown(String),
}

/// Looks at the local file of an entry. Blocking.
pub fn standing(path: &Path, key: &FileKey) -> Standing {
    let (Some(parent), Some(below)) = (path.parent(), path.file_name().and_then(BelowRoot::new)) else {
        return Standing::Gone;
    };
    match RootDir::open(parent).and_then(|dir| dir.fingerprint_at(&below)) {
        Ok(Some(found)) if found == key.fingerprint => Standing::Unchanged,
        Ok(Some(_)) => Standing::Changed,
        Ok(None) | Err(OpenError::Vanished { .. }) => Standing::Gone,
        Err(error) => Standing::Unknown(error.to_string()),
    }
}

/// What to tell of a file that is not put back; `quarantine` is where its source moves what failed.
pub fn why_left(standing: &Standing, quarantine: Option<&PathBuf>) -> String {
    match (standing, quarantine) {
        (Standing::Gone, Some(directory)) => format!(
            "it is gone from its place; if it is in quarantine, below {}, move it back (mv keeps it the same version)",
            crate::domain::display::path(directory)
        ),
        (Standing::Gone, None) => "it is gone from its place; move it back there first".into(),
        (Standing::Changed, _) => "it has changed since, and its new version is a file of its own".into(),
        (Standing::Unknown(why), _) => format!("it cannot be looked at: {why}"),
        // In between the two looks.
        (Standing::Unchanged, _) => "somebody took it up meanwhile".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Fingerprint, RemotePath, Token};
    use crate::ledger::{Disposal, EntryState};

    fn entry(source: &str, below: &str, local: &str) -> EntryInfo {
        EntryInfo {
            key: FileKey {
                destination: "sftp://h/r".into(),
                source: source.into(),
                path: below.into(),
                fingerprint: Fingerprint { inode: 1, size: 1, mtime_ns: 1 },
            },
            local_path: local.into(),
            remote: RemotePath::new("/r/x"),
            token: Token(1),
            state: EntryState::Failed { reason: "r".into(), attempts: 8, since: None },
            queued_at: None,
            record: None,
            disposal: Disposal::Settled,
            attempts: 0,
            staged: vec![],
            gone_at: None,
        }
    }

    #[test]
    fn patterns_match_the_local_path_and_the_path_below_the_source() {
        let named = entry("reports", "2026/a[1].csv", "/var/reports/2026/a[1].csv");
        let unnamed = entry("", "/home/pine/b.txt", "/home/pine/b.txt");
        let means = |pattern: &str, entry: &EntryInfo| Wanted::new(&[pattern.to_owned()]).unwrap().means(entry);
        for pattern in ["*.csv", "2026/*.csv", "/2026/**", "/var/reports/**", "/var/**/*.csv", "2026/a[1].csv"] {
            assert!(means(pattern, &named), "{pattern}");
        }
        for pattern in ["*.txt", "/home/pine/b.txt", "/home/**", "b.*"] {
            assert!(means(pattern, &unnamed) && !means(pattern, &named), "{pattern}");
        }
        assert!(!means("csv", &named) && !means("/var", &named));
    }

    #[test]
    fn patterns_that_mean_nothing_are_known() {
        let mut wanted = Wanted::new(&["*.csv".into(), "*.txt".into()]).unwrap();
        assert!(wanted.means(&entry("", "/a/b.csv", "/a/b.csv")));
        assert_eq!(wanted.unmatched().collect::<Vec<_>>(), ["*.txt"]);
        let mut all = Wanted::new(&[]).unwrap();
        assert!(all.means(&entry("", "/x", "/x")) && all.unmatched().next().is_none());
        assert_eq!(Wanted::new(&["[".into(), "".into()]).unwrap_err().len(), 2);
    }
}
