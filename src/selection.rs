//! Which files of a source count: a pure function of the path. Nothing here looks at a disk.
//!
//! Globs ([`crate::domain::glob`]) are as in gitignore and rclone.
//!
//! 1. What the archiver itself leaves beside a file (see [`is_own_name`]) and markers are never candidates.
//! 2. An exclude wins over everything else. One that matches a directory excludes all below it.
//! 3. With includes, a file counts exactly where one matches, hidden or not.
//! 4. Without, all files count but hidden ones, those below hidden directories, and names in flight.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::domain::glob;
pub use crate::domain::marker::{MarkedBy, MarkerPattern};

/// Names that writers give to files they have not finished; left out unless an include asks for them. Each is a `*` and
/// an ending.
pub const IN_FLIGHT: [&str; 7] = ["*.tmp", "*.part", "*.partial", "*.filepart", "*.crdownload", "*.swp", "*~"];

/// What the watcher's start-up probe is called: this and random digits.
pub const CANARY_PREFIX: &str = ".archiver-canary-";

/// The rules of one source, compiled.
#[derive(Debug, Clone)]
pub struct Selection {
    include: Option<GlobSet>,
    exclude: GlobSet,
    /// Directories below which an include may match.
    reach: GlobSet,
    marker: Option<MarkerPattern>,
    barred: Vec<PathBuf>,
}

/// What selection says of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Candidate,
    /// It says that its data file is finished; never archived itself.
    Marker,
    Excluded(Excluded),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excluded {
    /// An exclude matches it or a directory above it, or the source's own disposal directory holds it.
    Rule,
    /// There are includes, and none matches.
    NotIncluded,
    Hidden,
    /// Its name says that it is still being written.
    InFlight,
    /// A temporary name of the archiver itself.
    Own,
}

impl fmt::Display for Excluded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rule => "excluded",
            Self::NotIncluded => "not included",
            Self::Hidden => "hidden",
            Self::InFlight => "its name is that of an unfinished file",
            Self::Own => "a temporary name of the archiver",
        })
    }
}

impl Selection {
    /// An error lists every glob that cannot be read.
    pub fn new(include: &[String], exclude: &[String], marker: Option<&MarkerPattern>) -> Result<Self, String> {
        let mut errors = Vec::new();
        let mut compiled = |globs: &[String], compile: fn(&str) -> Result<Glob, String>| {
            let mut set = GlobSetBuilder::new();
            for text in globs {
                match compile(text) {
                    Ok(glob) => drop(set.add(glob)),
                    Err(error) => errors.push(error),
                }
            }
            set.build().map_err(|error| error.to_string())
        };
        let exclude = compiled(exclude, glob::exclude)?;
        let include_set = compiled(include, glob::include)?;
        let reach: Vec<_> = include.iter().flat_map(|text| glob::reach(text)).collect();
        let reach = compiled(&reach, glob::include);
        if !errors.is_empty() {
            return Err(errors.join("; "));
        }
        Ok(Self {
            include: (!include.is_empty()).then_some(include_set),
            exclude,
            reach: reach?,
            marker: marker.cloned(),
            barred: Vec::new(),
        })
    }

    /// Leaves out a directory below the source, whatever the globs say: the one that disposal moves files to.
    pub fn barring(mut self, below: impl Into<PathBuf>) -> Self {
        self.barred.push(below.into());
        self
    }

    pub fn marker(&self) -> Option<&MarkerPattern> {
        self.marker.as_ref()
    }

    /// Judges a regular file by its path below the source.
    pub fn judge(&self, path: &Path) -> Verdict {
        let name = path.file_name().unwrap_or_default();
        if is_own_name(name) {
            return Verdict::Excluded(Excluded::Own);
        }
        if self.excludes(path) {
            return Verdict::Excluded(Excluded::Rule);
        }
        if self.marker.as_ref().is_some_and(|marker| marker.is_marker(name)) {
            return Verdict::Marker;
        }
        match &self.include {
            Some(include) if include.is_match(path) => Verdict::Candidate,
            Some(_) => Verdict::Excluded(Excluded::NotIncluded),
            None if has_hidden_part(path) => Verdict::Excluded(Excluded::Hidden),
            None if is_in_flight(name) => Verdict::Excluded(Excluded::InFlight),
            None => Verdict::Candidate,
        }
    }

    /// Whether this path would be a candidate that waits for this marker: such a marker is still needed.
    pub fn is_marked_by(&self, data: &Path, marker: &Path) -> bool {
        self.judge(data) == Verdict::Candidate
            && self.marker.as_ref().is_some_and(|pattern| pattern.marker_of(data) == marker)
    }

    /// Whether a directory may hold candidates. Errs towards `true`.
    pub fn enter(&self, dir: &Path) -> bool {
        if self.excludes(dir) {
            return false;
        }
        match &self.include {
            Some(_) => self.reach.is_match(dir),
            None => !has_hidden_part(dir),
        }
    }

    fn excludes(&self, path: &Path) -> bool {
        self.barred.iter().any(|dir| path.starts_with(dir))
            || (!self.exclude.is_empty()
                && path.ancestors().filter(|part| !part.as_os_str().is_empty()).any(|part| self.exclude.is_match(part)))
    }
}

/// Whether the archiver itself gave this name: `.<name>.<12 hexadecimal digits>.archived` (a file on its way out) or
/// [`CANARY_PREFIX`].
pub fn is_own_name(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    if bytes.starts_with(CANARY_PREFIX.as_bytes()) {
        return true;
    }
    let Some(rest) = bytes.strip_prefix(b".").and_then(|rest| rest.strip_suffix(b".archived")) else { return false };
    rest.len() > 13
        && rest[rest.len() - 13] == b'.'
        && rest[rest.len() - 12..].iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_in_flight(name: &OsStr) -> bool {
    IN_FLIGHT.iter().any(|glob| name.as_bytes().ends_with(&glob.as_bytes()[1..]))
}

/// Whether a component starts with a dot. Asked for every file of a scan, so it looks at bytes only; a `.` inside of a
/// path is no component, as in [`Path::components`].
fn has_hidden_part(path: &Path) -> bool {
    let mut parts = path.as_os_str().as_bytes().split(|byte| *byte == b'/');
    parts.next().is_some_and(|first| first.starts_with(b"."))
        || parts.any(|part| part.starts_with(b".") && part != b".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_read_from_the_bytes_is_what_components_and_globs_say(path in "[.a/~]{0,4}(tmp|part)?[.a/~]{0,4}") {
            let path = Path::new(&path);
            prop_assert_eq!(has_hidden_part(path), path.iter().any(|part| part.as_bytes().starts_with(b".")));
            if let Some(name) = path.file_name() {
                let globs = IN_FLIGHT.map(|text| glob::include(text).unwrap().compile_matcher());
                prop_assert_eq!(is_in_flight(name), globs.iter().any(|glob| glob.is_match(name)));
            }
        }
    }

    /// The rule of globs for the part of the syntax that people use most, as slow as it is plain.
    fn covers(glob: &str, path: &str) -> bool {
        fn name(glob: &[u8], text: &[u8]) -> bool {
            match (glob.split_first(), text.split_first()) {
                (None, None) => true,
                (Some((b'*', rest)), _) => (0..=text.len()).any(|from| name(rest, &text[from..])),
                (Some((g, glob)), Some((t, text))) => (*g == b'?' || g == t) && name(glob, text),
                _ => false,
            }
        }
        fn parts(glob: &[&str], path: &[&str]) -> bool {
            match (glob.split_first(), path.split_first()) {
                (None, None) => true,
                // At the end it stands for something, elsewhere for nothing as well.
                (Some((&"**", [])), _) => !path.is_empty(),
                (Some((&"**", rest)), _) => (0..=path.len()).any(|from| parts(rest, &path[from..])),
                (Some((g, glob)), Some((p, path))) => name(g.as_bytes(), p.as_bytes()) && parts(glob, path),
                _ => false,
            }
        }
        let path: Vec<_> = path.split('/').collect();
        match glob.strip_prefix('/') {
            None if !glob.contains('/') => name(glob.as_bytes(), path[path.len() - 1].as_bytes()),
            anchored => parts(&anchored.unwrap_or(glob).split('/').collect::<Vec<_>>(), &path),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 4, ..Default::default() })]
        /// What is a candidate follows from the four rules alone, and a walk enters every directory above one.
        #[test]
        fn any_globs_select_what_the_rules_say(
            include in proptest::collection::vec("/?((a|b|[*]|a[*]|[?]|[*][*]|[.]a)/){0,3}(a|b|[*]|[*]b|[*]~|[?])", 0..3),
            exclude in proptest::collection::vec("/?((a|b|[*][*])/){0,2}(a|b|[.]a|a[?])", 0..2),
            path in "((a|b|ab|[.]a|c)/){0,4}(a|b|ab|[.]a|c~|a[.]tmp)",
        ) {
            let selection = Selection::new(&include, &exclude, None).unwrap();
            let ancestors: Vec<_> = path.match_indices('/').map(|(at, _)| &path[..at]).collect();
            let excluded = exclude.iter().any(|glob| ancestors.iter().chain([&&*path]).any(|part| covers(glob, part)));
            let hidden = path.split('/').any(|part| part.starts_with('.'));
            let in_flight = path.ends_with('~') || path.ends_with(".tmp");
            let wanted = match include.is_empty() {
                true => !hidden && !in_flight,
                false => include.iter().any(|glob| covers(glob, &path)),
            };
            let found = takes(&selection, &path);
            prop_assert_eq!(found, wanted && !excluded);
            prop_assert!(!found || ancestors.iter().all(|directory| selection.enter(Path::new(directory))));
        }
    }

    fn selection(include: &[&str], exclude: &[&str]) -> Selection {
        let owned = |globs: &[&str]| globs.iter().map(|&glob| glob.to_owned()).collect::<Vec<_>>();
        Selection::new(&owned(include), &owned(exclude), None).unwrap()
    }

    fn takes(selection: &Selection, path: &str) -> bool {
        selection.judge(Path::new(path)) == Verdict::Candidate
    }

    #[test]
    fn the_defaults_leave_out_hidden_and_unfinished_names() {
        let all = selection(&[], &[]);
        for path in ["a.csv", "deep/er/b", "tmp/x", "a.tmp.csv", "new\nline", "🌲.txt"] {
            assert!(takes(&all, path), "{path}");
        }
        for path in [".a.csv", ".git/x", "d/.h/x", "a.tmp", "d/a.part", "a.partial", "a.filepart", "a.crdownload"] {
            assert!(!takes(&all, path), "{path}");
        }
        assert_eq!(all.judge(Path::new("x.swp")), Verdict::Excluded(Excluded::InFlight));
        assert_eq!(all.judge(Path::new("x~")), Verdict::Excluded(Excluded::InFlight));
        assert_eq!(all.judge(Path::new(".x.csv.0123456789ab.archived")), Verdict::Excluded(Excluded::Own));
        assert!(!all.enter(Path::new(".git")) && all.enter(Path::new("git")));
    }

    #[test]
    fn a_glob_with_a_slash_matches_the_whole_path() {
        let names = selection(&["*.csv"], &[]);
        assert!(takes(&names, "a.csv") && takes(&names, "x/y/a.csv") && !takes(&names, "a.csv/b"));
        let paths = selection(&["out/*.csv", "/top.txt", "logs/"], &[]);
        assert!(takes(&paths, "out/a.csv") && takes(&paths, "top.txt") && takes(&paths, "logs/a/b"));
        assert!(!takes(&paths, "a.csv") && !takes(&paths, "out/x/a.csv") && !takes(&paths, "x/top.txt"));
        let deep = selection(&["out/**/*.csv"], &[]);
        assert!(takes(&deep, "out/a.csv") && takes(&deep, "out/x/y/a.csv") && !takes(&deep, "in/out/a.csv"));
        assert!(takes(&selection(&["**/*.csv"], &[]), "a.csv"));
    }

    #[test]
    fn an_include_wins_over_the_defaults_and_an_exclude_over_both() {
        let both = selection(&["*.tmp", ".env"], &["old", "x/*.tmp"]);
        assert!(takes(&both, "a.tmp") && takes(&both, ".env") && takes(&both, "y/.h/a.tmp"));
        assert!(!takes(&both, "a.csv") && !takes(&both, "x/a.tmp") && !takes(&both, "y/old/a.tmp"));
        assert!(!both.enter(Path::new("y/old")) && !both.enter(Path::new("y/old/deeper")));
        let own = selection(&["*"], &[]);
        assert!(takes(&own, ".hidden"));
        assert_eq!(own.judge(Path::new(".archiver-canary-1")), Verdict::Excluded(Excluded::Own));
        assert!(!takes(&selection(&[], &["cache/"]), "cache/x"));
    }

    #[test]
    fn only_directories_that_may_hold_candidates_are_entered() {
        let some = selection(&["out/*/a.csv", ".cfg/**/x"], &[]);
        for dir in ["out", "out/1", ".cfg", ".cfg/a/b"] {
            assert!(some.enter(Path::new(dir)), "{dir}");
        }
        let all_below = selection(&["logs/", "/a/b/**", "**/c/x"], &[]);
        for dir in ["logs", "logs/a", "logs/a/b", "a", "a/b", "a/b/c", "z/c"] {
            assert!(all_below.enter(Path::new(dir)), "{dir}");
        }
        for dir in ["in", "out/1/2", ".git"] {
            assert!(!some.enter(Path::new(dir)), "{dir}");
        }
        assert!(selection(&["{a,b/c}.csv"], &[]).enter(Path::new("b/.c")));
        assert!(selection(&["*.csv"], &[]).enter(Path::new(".hidden")));
        assert!(!selection(&["*"], &[]).barring("done").enter(Path::new("done/x")));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_matched_too() {
        let csv = selection(&["*.csv"], &[]);
        assert_eq!(csv.judge(Path::new(OsStr::from_bytes(b"d\xff/caf\xe9.csv"))), Verdict::Candidate);
        assert_ne!(csv.judge(Path::new(OsStr::from_bytes(b"caf\xe9.txt"))), Verdict::Candidate);
        assert_eq!(selection(&[], &[]).judge(Path::new(OsStr::from_bytes(b"\xff"))), Verdict::Candidate);
    }

    #[test]
    fn every_bad_glob_is_named() {
        let error = Selection::new(&["a[".into(), "ok".into()], &["{b".into()], None).unwrap_err();
        assert!(error.contains("`a[`") && error.contains("`{b`"), "{error}");
        assert!(Selection::new(&[String::new()], &[], None).unwrap_err().contains("write `*`"));
    }

    #[test]
    fn markers_are_never_candidates() {
        let marker: MarkerPattern = "{name}.done".parse().unwrap();
        let marked = Selection::new(&["*".into()], &[], Some(&marker)).unwrap();
        assert_eq!(marked.judge(Path::new("d/a.csv.done")), Verdict::Marker);
        assert_eq!(marked.judge(Path::new("d/a.csv")), Verdict::Candidate);
        assert!(marked.is_marked_by(Path::new("d/a.csv"), Path::new("d/a.csv.done")));
        assert!(!marked.is_marked_by(Path::new("a.csv"), Path::new("d/a.csv.done")));
        assert!(!marked.is_marked_by(Path::new("a.done"), Path::new("a.done.done")));
    }
}
