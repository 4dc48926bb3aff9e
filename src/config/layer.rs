//! What was typed in, not yet merged: values as text, each with its origin.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::key::{Key, Kind};
use super::settings::{Execution, FileList, Secret};
use crate::domain::Repeat;
use crate::domain::display;

/// How strong a value is. **This is the one place that states the precedence:** the first variant wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    Flag,
    Environment,
    File,
    Default,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File {
        path: Arc<Path>,
        /// From 1.
        line: usize,
    },
    Variable(String),
    /// An element of `ARCHIVER_SOURCE`, counted from 1.
    VariableSpec(usize),
    Flag(&'static str),
    /// A `--source`, counted from 1.
    FlagSpec(usize),
}

impl Origin {
    pub fn rank(&self) -> Rank {
        match self {
            Self::Flag(_) | Self::FlagSpec(_) => Rank::Flag,
            Self::Variable(_) | Self::VariableSpec(_) => Rank::Environment,
            Self::File { .. } => Rank::File,
            Self::Default => Rank::Default,
        }
    }

    /// Whether it says by itself which key is meant.
    pub(super) fn names_the_key(&self) -> bool {
        matches!(self, Self::Variable(_) | Self::Flag(_))
    }

    /// What relative paths are relative to: the file's directory, or (`None`) the working directory, which may be the same.
    pub(super) fn directory(&self) -> Option<&Path> {
        match self {
            Self::File { path, .. } => path.parent().filter(|parent| !matches!(parent.to_str(), Some("" | "."))),
            _ => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", display::path(path)),
            Self::Variable(name) => display::escaped(name).fmt(f),
            Self::VariableSpec(1) => f.write_str("ARCHIVER_SOURCE"),
            Self::VariableSpec(number) => write!(f, "ARCHIVER_SOURCE number {number}"),
            Self::Flag(flag) => f.write_str(flag),
            Self::FlagSpec(1) => f.write_str("--source"),
            Self::FlagSpec(number) => write!(f, "--source number {number}"),
        }
    }
}

/// A value as text; its type is the resolver's matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    One(String),
    Many(Vec<String>),
    Secret(Secret),
}

impl Value {
    /// One text, in the shape that the key asks for.
    pub fn of(key: &Key, text: String) -> Self {
        match key.kind {
            Kind::List => Self::Many(vec![text]),
            Kind::Secret => Self::Secret(Secret::new(text)),
            Kind::Text | Kind::Integer | Kind::IntegerOr(_) => Self::One(text),
        }
    }

    /// The text, or the elements; nothing of a secret.
    pub fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
            Self::Secret(_) => &[],
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub value: Value,
    pub origin: Origin,
}

/// Values by the name of their key. In a source's, `after` is the source's own `after`.
pub type Values = BTreeMap<&'static str, Entry>;

/// One place where values are typed in.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    pub values: Values,
    /// A list of sources; it replaces the list of a weaker layer.
    pub sources: Option<Vec<Values>>,
    /// Values for single sources of that list, by their position.
    pub patches: BTreeMap<usize, Values>,
}

/// What was typed on the command line, as far as it is configuration.
#[derive(Debug, Clone, Default)]
pub struct CommandLayer {
    /// `--config`.
    pub config: Option<PathBuf>,
    pub layer: Layer,
    /// `--source`, not yet taken apart.
    pub source_specs: Vec<String>,
    /// PATH arguments: one source without a name.
    pub paths: Vec<PathBuf>,
    pub files_from: Option<FileList>,
    pub execution: Execution,
    pub repeat: Repeat,
    pub quiet: bool,
}

impl CommandLayer {
    /// Notes the value of a flag that was given. `name` is the key's.
    pub fn set(&mut self, name: &str, text: Option<String>) {
        if let Some(text) = text {
            let key = Key::named(name);
            self.set_from(name, key.flag.unwrap_or(key.name), text);
        }
    }

    /// As [`Self::set`], for a flag that is not the key's own.
    pub fn set_from(&mut self, name: &str, flag: &'static str, text: String) {
        let key = Key::named(name);
        self.layer.values.insert(key.name, Entry { value: Value::of(key, text), origin: Origin::Flag(flag) });
    }

    /// Notes the values of a flag that can be repeated.
    pub fn set_all(&mut self, name: &str, texts: Vec<String>) {
        if !texts.is_empty() {
            let key = Key::named(name);
            let origin = Origin::Flag(key.flag.unwrap_or(key.name));
            self.layer.values.insert(key.name, Entry { value: Value::Many(texts), origin });
        }
    }
}
