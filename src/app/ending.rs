//! How a command that archives ended: its exit code, and what the termination log says of it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::config::ConfigErrors;
use crate::domain::{Row, Totals, display};
use crate::exit::Exit;
use crate::report::Console;
use crate::report::termination::{self, Ending};

/// The flag and the variable that name the log, for command lines that cannot be parsed.
const FLAG: &str = "--termination-log";
const VARIABLE: &str = "ARCHIVER_TERMINATION_LOG";

/// How it ended, and why.
#[derive(Debug)]
pub struct Ended {
    pub exit: Exit,
    /// Where the exit code does not say it all.
    pub reason: Option<String>,
    pub totals: Option<Totals>,
    /// Some of those that failed or were left.
    pub files: Vec<Row>,
}

impl From<Exit> for Ended {
    fn from(exit: Exit) -> Self {
        Self { exit, reason: None, totals: None, files: Vec::new() }
    }
}

impl Ended {
    /// Says what failed, why and what to do.
    pub fn failed(console: &Console, what: &str, why: &str, hint: Option<&str>, exit: Exit) -> Self {
        let exit = super::failed(console, what, why, hint, exit);
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        Self { reason: Some(format!("{what}: {why}{hint}")), ..exit.into() }
    }

    pub fn misconfigured(mistakes: &ConfigErrors) -> Self {
        Self { reason: Some(mistakes.to_string()), ..super::usage(mistakes).into() }
    }

    fn ending(&self) -> Ending {
        let reason = match (&self.reason, self.exit) {
            (Some(reason), _) => reason.clone(),
            (None, exit) => exit.meaning().to_owned(),
        };
        Ending { exit: self.exit.code(), reason, totals: self.totals, files: self.files.clone() }
    }
}

/// As one line.
pub fn first_paragraph(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

/// Where the end is told, once that is known.
#[derive(Debug, Default)]
pub struct TerminationLog(OnceLock<PathBuf>);

impl TerminationLog {
    /// From now on the end is told there. What another process left is removed.
    pub fn is_at(&self, path: Option<&Path>) {
        let Some(path) = path else { return };
        if let Err(error) = termination::clear(path) {
            eprintln!("warning: the termination log {} cannot be written: {error}", display::path(path));
        }
        // It is told once.
        let _ = self.0.set(path.to_owned());
    }

    /// Tells the end, where anybody wants to know, and gives the exit code.
    pub fn tell(&self, ended: &Ended) -> Exit {
        if let Some(path) = self.0.get()
            && let Err(error) = termination::write(path, &termination::line(&ended.ending()))
        {
            eprintln!("warning: the termination log {} cannot be written: {error}", display::path(path));
        }
        ended.exit
    }

    /// For a command line that cannot be parsed: the log that it, or the environment, names all the same.
    pub fn of_arguments(arguments: &[OsString]) -> Self {
        let mut own = arguments.iter().take_while(|argument| *argument != "--");
        let mut found = None;
        while let (None, Some(argument)) = (&found, own.next()) {
            let after = |flag: &str| argument.to_str().and_then(|text| text.strip_prefix(flag)?.strip_prefix('='));
            found = if argument == FLAG { own.next().map(PathBuf::from) } else { after(FLAG).map(PathBuf::from) };
        }
        let variable = || std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        let log = Self::default();
        log.is_at(found.or_else(variable).as_deref());
        log
    }
}
