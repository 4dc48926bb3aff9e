//! The file layer: where the file is found, and what it says, with the line of every value.
//!
//! All mistakes of shape are found at once: syntax, unknown keys, values of a wrong type.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::Environment;
use super::key::{Key, Kind, Scope, Within, closest};
use super::keys::KEYS;
use super::layer::{Entry, Layer, Origin, Value, Values};
use super::mistake::Mistake;
use super::source_spec::NO_SECRET;
use crate::domain::display;

/// A configuration file that was read.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    pub path: PathBuf,
    pub text: String,
}

/// Reads `asked`, which must exist, or the first file of the search order that exists: `./archiver.toml`,
/// `$XDG_CONFIG_HOME/archiver/archiver.toml` (else `~/.config/…`), `/etc/archiver/archiver.toml`.
pub(super) fn read(asked: Option<(PathBuf, Origin)>, environment: &Environment) -> Result<Option<ConfigFile>, Mistake> {
    if let Some((path, origin)) = asked {
        return match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(ConfigFile { path, text })),
            Err(error) => {
                let message = format!(
                    "cannot read the configuration file {}: {error}; `archiver config init` prints one to start from",
                    display::path(&path)
                );
                Err(Mistake::at(origin, message))
            }
        };
    }
    for path in candidates(environment) {
        match std::fs::read_to_string(&path) {
            Ok(text) => return Ok(Some(ConfigFile { path, text })),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {}
            Err(error) => {
                let message = format!(
                    "cannot read the configuration file {}: {error}; make it readable, or name another with --config",
                    display::path(&path)
                );
                return Err(Mistake::missing(message));
            }
        }
    }
    Ok(None)
}

fn candidates(environment: &Environment) -> Vec<PathBuf> {
    let xdg = environment.xdg("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("archiver/archiver.toml"));
    [Some(environment.directory.join("archiver.toml")), xdg, Some(environment.system_file.clone())]
        .into_iter()
        .flatten()
        .collect()
}

/// Whether the text could be read as TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Sound,
    /// The layer is empty, so nothing can be said about what is missing.
    Broken,
}

/// What the file says, and all that is wrong with its shape.
pub(super) fn parse(file: &ConfigFile, mistakes: &mut Vec<Mistake>) -> (Layer, Syntax) {
    let mut reader = Reader { path: file.path.as_path().into(), text: &file.text, mistakes: Vec::new() };
    let (table, errors) = DeTable::parse_recoverable(&file.text);
    let mut layer = Layer::default();
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        // The message alone: the parser's own rendering repeats the line, which may hold what is secret.
        let message = format!("column {}: not valid TOML: {}", reader.column(at), error.message());
        let origin = reader.origin(at);
        reader.mistakes.push(Mistake::at(origin, message));
    }
    let syntax = if errors.is_empty() { Syntax::Sound } else { Syntax::Broken };
    if syntax == Syntax::Sound {
        reader.top(table.get_ref(), &mut layer);
    }
    mistakes.append(&mut reader.mistakes);
    (layer, syntax)
}

struct Reader<'a> {
    path: Arc<Path>,
    text: &'a str,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    fn before(&self, offset: usize) -> &str {
        self.text.get(..offset).unwrap_or(self.text)
    }

    fn column(&self, offset: usize) -> usize {
        self.before(offset).rsplit('\n').next().unwrap_or_default().chars().count() + 1
    }

    fn origin(&self, offset: usize) -> Origin {
        Origin::File { path: self.path.clone(), line: self.before(offset).matches('\n').count() + 1 }
    }

    fn mistake(&mut self, offset: usize, key: &str, message: impl Into<String>) {
        let origin = self.origin(offset);
        self.mistakes.push(Mistake::of(key, &origin, message));
    }

    fn top(&mut self, table: &DeTable<'_>, layer: &mut Layer) {
        for (name, value) in table {
            let at = name.span().start;
            match (name.get_ref().as_ref(), value.get_ref()) {
                ("source", DeValue::Array(array)) => {
                    let sources = layer.sources.get_or_insert_default();
                    for element in array.iter() {
                        let mut values = Values::new();
                        match element.get_ref() {
                            DeValue::Table(table) => self.table(Within::Source, "", table, &mut values),
                            _ => self.mistake(
                                element.span().start,
                                "source",
                                "expected tables, each begun by [[source]]",
                            ),
                        }
                        sources.push(values);
                    }
                }
                ("source", DeValue::Table(table)) if !table.is_empty() => {
                    self.mistake(at, "source", "a source is begun by [[source]], with two brackets");
                }
                ("source", _) => self.mistake(at, "source", "expected tables, each begun by [[source]]"),
                (text, _) => self.key(Within::Top, text, at, value, &mut layer.values),
            }
        }
    }

    fn table(&mut self, within: Within, prefix: &str, table: &DeTable<'_>, values: &mut Values) {
        for (name, value) in table {
            self.key(within, &format!("{prefix}{}", name.get_ref()), name.span().start, value, values);
        }
    }

    fn key(&mut self, within: Within, name: &str, at: usize, value: &Spanned<DeValue<'_>>, values: &mut Values) {
        let shown = match within {
            Within::Top => name.to_owned(),
            Within::Source => format!("source.{name}"),
        };
        let table = format!("{name}.");
        let is_table = KEYS.iter().filter_map(|key| key.name_within(within)).any(|name| name.starts_with(&table));
        match (Key::find(within, name), value.get_ref()) {
            (Some(key), _) if key.kind == Kind::Secret => self.mistake(at, &shown, NO_SECRET),
            (Some(key), value) => match typed(key, value) {
                Ok(value) => {
                    values.insert(key.name, Entry { value, origin: self.origin(at) });
                }
                Err(expected) => {
                    self.mistake(at, &shown, format!("expected {expected}, not {}", article(value.type_str())));
                }
            },
            (None, DeValue::Table(inner)) if is_table => self.table(within, &table, inner, values),
            (None, other) if is_table => {
                let message = format!("expected a table, not {}", article(other.type_str()));
                self.mistake(at, &shown, message);
            }
            (None, _) => {
                let hint = suggestion(within, name).map(|name| format!("; did you mean `{name}`?"));
                self.mistake(at, &shown, format!("unknown key{}", hint.unwrap_or_default()));
            }
        }
    }
}

fn article(name: &str) -> String {
    format!("{} {name}", if name.starts_with(['a', 'i']) { "an" } else { "a" })
}

/// The value, or what was expected instead.
fn typed(key: &Key, value: &DeValue<'_>) -> Result<Value, String> {
    let integer = |value: &DeValue<'_>| match value {
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(|n| n.to_string()),
        _ => None,
    };
    let string = |value: &DeValue<'_>| value.as_str().map(str::to_owned);
    match key.kind {
        Kind::Text | Kind::Secret => string(value).map(Value::One).ok_or_else(|| {
            let example = match key.value {
                "DURATION" => ", as in \"30s\"",
                "RATE" => ", as in \"20MiB\"",
                _ => "",
            };
            format!("a string{example}")
        }),
        Kind::Integer => integer(value).map(Value::One).ok_or_else(|| "an integer".into()),
        Kind::IntegerOr(word) => {
            integer(value).or_else(|| string(value)).map(Value::One).ok_or_else(|| format!("an integer or \"{word}\""))
        }
        Kind::List => match value {
            DeValue::Array(array) => array.iter().map(|element| string(element.get_ref())).collect(),
            value => string(value).map(|text| vec![text]),
        }
        .map(Value::Many)
        .ok_or_else(|| "an array of strings, or one string".into()),
    }
}

/// The key that was probably meant: one of the same table, or one of that name elsewhere.
fn suggestion(within: Within, name: &str) -> Option<&'static str> {
    let names = || KEYS.iter().filter_map(|key| key.name_within(within));
    let tables = || names().filter_map(|name| name.split_once('.')).map(|(table, _)| table).chain(["source"]);
    let (table, last) = name.rsplit_once('.').map_or((None, name), |(table, last)| (Some(table), last));
    let siblings = || names().map(|name| (name.rsplit_once('.').map(|(table, _)| table), name));
    let last_of = |name: &'static str| name.rsplit('.').next().unwrap_or(name);
    let found = closest(last, siblings().filter(|(of, _)| *of == table).map(|(_, name)| last_of(name)))
        .or_else(|| if table.is_none() { closest(last, tables()) } else { None });
    found.or_else(|| names().find(|name| last_of(name) == last)).or_else(|| {
        let is_source = |key: &&Key| key.scope() == Scope::Source && last_of(key.name) == last;
        KEYS.iter().find(is_source).map(|key| key.name).filter(|_| within == Within::Top)
    })
}
