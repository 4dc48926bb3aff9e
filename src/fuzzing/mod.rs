//! What must hold whatever the bytes are: the bodies of the fuzz targets. `cargo fuzz` runs them for hours (`fuzz/`), and
//! the tests for a moment each, on the committed corpus and on bytes that follow from a seed.
//!
//! A body takes bytes, makes of them what a user, an application or a server could send, and panics where a rule does not
//! hold. Built only for tests and with the feature `fuzzing`; no part of the program.

mod config;
mod domain;
mod input;
mod ledger_file;
mod local;
mod ssh;
mod summary;

pub(crate) use input::Input;

/// One rule of many, and how much of it the tests try.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Of its binary in `fuzz/` and of its directory below `fuzz/corpus/`.
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Inputs in a run of the tests: about a second's worth.
    pub cases: u32,
    /// What its inputs are made of: pieces that chance alone does not find.
    pub words: &'static [&'static str],
}

macro_rules! targets {
    ($($(#[$doc:meta])* $name:ident = $body:path, $cases:literal, $words:expr;)+) => {
        /// All of them.
        pub const TARGETS: &[Target] =
            &[$(Target { name: stringify!($name), run: $name, cases: $cases, words: $words }),+];
        $($(#[$doc])* pub fn $name(data: &[u8]) { $body(data) })+
    };
}

targets! {
    /// File, environment and flags: every mistake has its place, and what `config show` prints means the same again.
    config = config::run, 1_500, config::WORDS;
    /// What is canonical reads as itself, and nothing that is refused is repeated with its password.
    destination_url = domain::destination_url, 20_000, domain::URL_WORDS;
    /// No dated directory leaves the base.
    layout = domain::layout, 8_000, domain::LAYOUT_WORDS;
    /// Remote, temporary, conflict and displayed names.
    names = domain::names, 5_000, domain::NAME_WORDS;
    /// Durations, rates and counts.
    units = domain::units, 20_000, domain::UNIT_WORDS;
    /// Globs: the walk enters every directory that holds a candidate.
    selection = local::selection, 2_500, local::GLOB_WORDS;
    /// A marker and its data file name each other.
    markers = local::markers, 20_000, local::MARKER_WORDS;
    /// `--files-from`, with and without `-0`.
    files_from = local::files_from, 2_000, &["\n", "\r\n", "\0", "\0\0", "./a", "a/../b"];
    /// Known hosts: an added line is found, a damaged one vouches for nobody.
    known_hosts = ssh::known_hosts, 3_000, ssh::KNOWN_HOSTS_WORDS;
    /// SSH configuration and its tokens and patterns.
    ssh_config = ssh::ssh_config, 8_000, ssh::CONFIG_WORDS;
    /// Whatever a server sends.
    sftp_replies = ssh::sftp_replies, 20_000, &[];
    /// Whatever a client sends to the embedded server: it answers, and stays below its root.
    embedded = crate::embedded::fuzzing::run, 120, crate::embedded::fuzzing::WORDS;
    /// What `ledger export` writes, and what people make of it.
    ledger_file = ledger_file::run, 4_000, ledger_file::WORDS;
    /// Table, JSON and CSV of rows that are hard to write.
    summary = summary::run, 1_500, summary::WORDS;
}

#[cfg(test)]
mod tests;
