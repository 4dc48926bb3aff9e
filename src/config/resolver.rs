//! Reads merged text into types, and collects what cannot be read.

use std::path::{Path, PathBuf};

use super::key::Key;
use super::layer::{Entry, Value, Values};
use super::mistake::Mistake;
use super::settings::Secret;

pub(super) struct Resolver<'a> {
    /// What `~/` stands for; without one, nothing.
    pub home: Option<PathBuf>,
    pub mistakes: &'a mut Vec<Mistake>,
}

impl Resolver<'_> {
    pub fn missing(&mut self, message: &str) {
        self.mistakes.push(Mistake::missing(message));
    }

    /// The value in its type; `None` where there is none, or where it is a mistake.
    pub fn value<T>(&mut self, values: &Values, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let entry = values.get(Key::named(name).name)?;
        match read(entry.value.texts().first()?) {
            Ok(value) => Some(value),
            Err(message) => {
                self.mistakes.push(Mistake::of(name, &entry.origin, message));
                None
            }
        }
    }

    pub fn path(&self, values: &Values, name: &str) -> Option<PathBuf> {
        self.paths(values, name).pop()
    }

    pub fn paths(&self, values: &Values, name: &str) -> Vec<PathBuf> {
        let entry = values.get(Key::named(name).name);
        let paths = entry.map(|entry| entry.value.texts().iter().map(|text| self.place(entry, Path::new(text))));
        paths.into_iter().flatten().collect()
    }

    /// `~/` is the home directory; a relative path in a file is relative to the file's directory.
    pub fn place(&self, entry: &Entry, path: &Path) -> PathBuf {
        match (path.strip_prefix("~"), &self.home, entry.origin.directory()) {
            (Ok(below), Some(home), _) => home.join(below),
            (_, _, Some(directory)) => directory.join(path),
            _ => path.to_owned(),
        }
    }
}

/// The secret itself.
pub(super) fn exposed(entry: &Entry) -> Option<Secret> {
    match &entry.value {
        Value::Secret(secret) => Some(secret.clone()),
        _ => None,
    }
}
