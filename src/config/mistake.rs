//! What is wrong with a configuration: every mistake, each with its place, its key and what to do.

use std::fmt;
use std::path::PathBuf;

use super::layer::Origin;
use crate::domain::display;

/// One mistake. The message never repeats a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where it was typed; `None` for something that is missing.
    pub origin: Option<Origin>,
    /// The key as it is called there, or nothing where no single key is meant.
    pub key: Option<String>,
    pub message: String,
}

impl Mistake {
    pub(super) fn of(key: &str, origin: &Origin, message: impl Into<String>) -> Self {
        Self { origin: Some(origin.clone()), key: Some(key.to_owned()), message: message.into() }
    }

    pub(super) fn at(origin: Origin, message: impl Into<String>) -> Self {
        Self { origin: Some(origin), key: None, message: message.into() }
    }

    pub(super) fn missing(message: impl Into<String>) -> Self {
        Self { origin: None, key: None, message: message.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if let Some(key) = &self.key
            && !self.origin.as_ref().is_some_and(Origin::names_the_key)
        {
            write!(f, "{}: ", display::escaped(key))?;
        }
        display::escaped(&self.message).fmt(f)
    }
}

/// All mistakes of a configuration, never none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    mistakes: Vec<Mistake>,
    /// Where the end is to be told all the same.
    pub termination_log: Option<PathBuf>,
}

impl ConfigErrors {
    /// An error if there is a mistake. The same mistake found twice counts once; those of the file come first, by
    /// line, then those of the environment, of flags, and what is missing.
    pub(super) fn unless_empty(mistakes: Vec<Mistake>) -> Result<(), Self> {
        let mut distinct: Vec<Mistake> = Vec::new();
        for mistake in mistakes {
            if !distinct.contains(&mistake) {
                distinct.push(mistake);
            }
        }
        distinct.sort_by_key(|mistake| {
            let line = match mistake.origin {
                Some(Origin::File { line, .. }) => line,
                _ => 0,
            };
            (std::cmp::Reverse(mistake.origin.as_ref().map(Origin::rank)), line)
        });
        if distinct.is_empty() { Ok(()) } else { Err(Self { mistakes: distinct, termination_log: None }) }
    }

    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mistakes.as_slice() {
            [mistake] => mistake.fmt(f),
            mistakes => {
                write!(f, "the configuration has {} mistakes:", mistakes.len())?;
                mistakes.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
            }
        }
    }
}

impl std::error::Error for ConfigErrors {}
