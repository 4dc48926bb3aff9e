//! Which local files count: globs, markers, lists.

use std::ffi::OsStr;
use std::io::BufReader;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Input;
use crate::config::{check, settings::Separator};
use crate::domain::marker::{self, MarkedBy, MarkerPattern};
use crate::selection::{Selection, Verdict};
use crate::source::list::Paths;

pub(super) const GLOB_WORDS: &[&str] = &[
    "**", "**/", "*", "?", "/", "{a,b}", "{", "}", "[a-c]", "[!a]", "[", "]", "\\", "!", ".", "..", "./", "a", "b",
    "ab", "a/b", ".a", "*.csv", ".csv", ".tmp", "~", ",", "//", "\n", "a\nb\n", "é", "[/]", "{a/b,c}",
];

pub fn selection(data: &[u8]) {
    let mut input = Input::new(data);
    let path = Path::new(OsStr::from_bytes(input.line()));
    let (mut include, mut exclude) = (Vec::new(), Vec::new());
    while !input.is_empty() && include.len() + exclude.len() < 4 {
        let list = if input.below(4) == 0 { &mut exclude } else { &mut include };
        list.push(input.text_line());
    }
    let compiled = Selection::new(&include, &exclude, None);
    // What the configuration lets pass is what selection takes: else a mistake has no place.
    let passed = include.iter().all(|glob| check::include(glob).is_ok())
        && exclude.iter().all(|glob| check::exclude(glob).is_ok());
    assert_eq!(passed, compiled.is_ok(), "{include:?} {exclude:?}: {compiled:?}");
    let Ok(selection) = compiled else { return };
    let verdict = selection.judge(path);
    // Candidates are named by plain relative paths.
    if verdict == Verdict::Candidate && crate::localfs::BelowRoot::new(path).is_some() {
        for directory in path.ancestors().skip(1).filter(|directory| !directory.as_os_str().is_empty()) {
            assert!(selection.enter(directory), "{path:?} is never found: {directory:?} {include:?} {exclude:?}");
        }
    }
    let _ = selection.enter(path);
}

pub(super) const MARKER_WORDS: &[&str] =
    &["{name}", "{stem}", "{", "}", ".done", "ok-", "_SUCCESS", "none", "/", ".", "..", "\n", ".csv", "a", "\0", "é"];

pub fn markers(data: &[u8]) {
    let mut input = Input::new(data);
    let data = Path::new(OsStr::from_bytes(input.line()));
    let text = input.text();
    let parsed = text.parse::<MarkerPattern>();
    // As for globs; `none` is a word of the configuration.
    assert_eq!(check::marker(&text).is_ok(), parsed.is_ok(), "{text:?}: {parsed:?}");
    if text == "none" {
        return;
    }
    let Ok(pattern) = parsed else { return };
    assert_eq!(pattern.to_string(), text);
    let Some(name) = data.file_name().filter(|_| crate::localfs::BelowRoot::new(data).is_some()) else { return };
    let marker = pattern.marker_of(data);
    assert_eq!(marker.parent(), data.parent());
    let marker_name = marker.file_name().expect("a marker has a name");
    assert!(crate::localfs::BelowRoot::new(&marker).is_some(), "{marker:?} is no place below a source");
    assert!(pattern.is_marker(marker_name), "{marker:?}");
    let directory = data.parent().unwrap_or(Path::new("")).to_owned();
    let back = pattern.data_of(&marker).expect("a marker speaks for something");
    match back {
        MarkedBy::File(back) => {
            assert_eq!(back.as_os_str(), directory.join(name).as_os_str());
            assert_ne!(marker, data, "a file would mark itself");
        }
        MarkedBy::Stem { directory: of, stem } => assert_eq!((of, &*stem), (directory, marker::stem(name))),
        MarkedBy::Directory(of) => assert_eq!(of, directory),
    }
}

/// As long as a path of a list may be.
const LONGEST: usize = 16 * 1024;

pub fn files_from(data: &[u8]) {
    let mut input = Input::new(data);
    let separator = if input.below(2) == 0 { Separator::Newline } else { Separator::Nul };
    let buffer = 1 + input.below(64);
    // A long line from a short input.
    let mut text = input.bytes(64).to_vec();
    if input.below(8) == 0 {
        text.resize(text.len() + LONGEST - 40 + usize::from(input.byte()), b'x');
    }
    text.extend_from_slice(input.rest());

    let end = if separator == Separator::Nul { 0 } else { b'\n' };
    let mut expected = Vec::new();
    for line in text.split(|byte| *byte == end) {
        let usable = line.len() <= LONGEST && !(separator == Separator::Newline && line.contains(&0));
        if !usable {
            expected.push(None);
        } else if !(line.is_empty() || (separator == Separator::Newline && line == b"\r")) {
            expected.push(Some(line));
        }
    }
    let read: Vec<_> = Paths::new(BufReader::with_capacity(buffer, &text[..]), separator).map(Result::ok).collect();
    let read: Vec<_> = read.iter().map(|path| path.as_ref().map(|path| path.as_os_str().as_bytes())).collect();
    assert_eq!(read, expected);
}
