//! `archiver config show`: what holds, and where each value comes from. Of a secret it shows that it is set.

use std::io::{self, Write};

use serde_json::{Map, Value as Json, json};

use super::Merged;
use super::Resolved;
use super::key::{Default, Key, Kind, Scope, Within};
use super::keys::KEYS;
use super::layer::{Entry, Origin, Value, Values};
use crate::domain::{RedisUrl, display};

/// How settings are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ShowFormat {
    // A configuration file with the origins as comments. No doc comments here: they would become help.
    #[default]
    Toml,
    Json,
}

/// Writes the effective settings with the origin of each.
pub fn write(resolved: &Resolved, format: ShowFormat, out: &mut impl Write) -> io::Result<()> {
    match format {
        ShowFormat::Toml => toml(resolved, out),
        ShowFormat::Json => {
            let text = serde_json::to_string_pretty(&as_json(&resolved.merged))?;
            writeln!(out, "{}", display::inert(&text))
        }
    }
}

/// A value as TOML writes it.
pub(super) fn literal(key: &Key, value: &Value) -> String {
    // As TOML writes it by itself, unless that would steer a terminal, or take several lines.
    let string = |text: &String| {
        let plain = toml::Value::String(text.clone()).to_string();
        let harmless = display::escaped(&plain).to_string() == plain;
        if harmless { plain } else { display::quoted(text) }
    };
    match value {
        Value::Secret(_) => "(set)".into(),
        Value::One(text) if RedisUrl::is_meant(text) => string(&RedisUrl::without_password(text)),
        Value::One(text) => match text.parse::<u64>() {
            // Without the zeros and the plus sign that TOML would not have in front.
            Ok(number) if key.kind != Kind::Text => number.to_string(),
            _ => string(text),
        },
        Value::Many(texts) => format!("[{}]", texts.iter().map(string).collect::<Vec<_>>().join(", ")),
    }
}

/// The origin, and for a default what it means.
fn origin(key: &Key, entry: Option<&Entry>) -> String {
    match (entry.map(|entry| &entry.origin), key.default) {
        (Some(Origin::Default) | None, Default::Unset(meaning) | Default::Depends(meaning)) => {
            format!("default: {meaning}")
        }
        (None, Default::Value(_)) => "default".into(),
        (Some(origin), _) => origin.to_string(),
    }
}

fn line(key: &Key, name: &str, values: &Values, out: &mut impl Write) -> io::Result<()> {
    let entry = values.get(key.name);
    let is_empty = entry.is_none_or(|entry| entry.origin == Origin::Default && entry.value.texts().is_empty());
    let assignment = match entry {
        Some(entry) if !is_empty || key.kind == Kind::Secret => format!("{name} = {}", literal(key, &entry.value)),
        _ => format!("{name} ="),
    };
    // What is not set, or cannot stand in a file, is a comment.
    let comment = if is_empty || key.kind == Kind::Secret { "# " } else { "" };
    writeln!(out, "{:<44} # {}", format!("{comment}{assignment}"), origin(key, entry))
}

fn toml(resolved: &Resolved, out: &mut impl Write) -> io::Result<()> {
    match &resolved.file {
        Some(path) => writeln!(out, "# configuration file: {}", display::path(path))?,
        None => writeln!(out, "# configuration file: none")?,
    }
    let mut table = None;
    for key in KEYS.iter().filter(|key| key.scope() != Scope::Source) {
        let (of, name) = key.table_and_name();
        if of != table {
            table = of;
            writeln!(out, "\n[{}]", of.unwrap_or_default())?;
        }
        line(key, name, &resolved.merged.values, out)?;
    }
    for values in &resolved.merged.sources {
        writeln!(out, "\n[[source]]")?;
        for (key, name) in of_source(values, &resolved.merged) {
            line(key, name, values, out)?;
        }
    }
    Ok(())
}

/// The keys of a source; those of the destination only where it has its own.
fn of_source<'a>(values: &'a Values, merged: &'a Merged) -> impl Iterator<Item = (&'static Key, &'static str)> + 'a {
    let keys = KEYS.iter().filter_map(|key| Some((key, key.name_within(Within::Source)?)));
    let mut keys: Vec<_> = keys
        .filter(|(key, _)| !key.name.starts_with("destination.") || values.get(key.name) != merged.values.get(key.name))
        .collect();
    // Its name and paths first.
    keys.sort_by_key(|(key, _)| key.scope() != Scope::Source);
    keys.into_iter()
}

fn as_json(merged: &Merged) -> Json {
    let entry = |key: &'static Key, values: &Values| {
        let entry = values.get(key.name);
        let value = match entry.map(|entry| &entry.value) {
            None => Json::Null,
            Some(Value::Secret(_)) => json!("(set)"),
            Some(Value::Many(texts)) => json!(texts),
            Some(Value::One(text)) if RedisUrl::is_meant(text) => json!(RedisUrl::without_password(text)),
            Some(Value::One(text)) if key.kind != Kind::Text => {
                text.parse::<u64>().map_or_else(|_| json!(text), |number| json!(number))
            }
            Some(Value::One(text)) => json!(text),
        };
        json!({"value": value, "origin": origin(key, entry)})
    };
    let once = KEYS.iter().filter(|key| key.scope() != Scope::Source);
    let values: Map<_, _> = once.map(|key| (key.name.to_owned(), entry(key, &merged.values))).collect();
    let sources = merged.sources.iter().map(|values| {
        of_source(values, merged).map(|(key, name)| (name.to_owned(), entry(key, values))).collect::<Map<_, _>>()
    });
    json!({"values": values, "sources": sources.collect::<Vec<_>>()})
}
