//! `archiver config schema`: a JSON Schema of the file, for editors. Written from the table of keys, so that it and
//! the reader cannot differ.

use std::io::{self, Write};

use serde_json::{Map, Value as Json, json};

use super::key::{Default, Key, Kind, Within};
use super::keys::KEYS;

/// Writes the schema (draft 2020-12).
pub fn write(out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &schema())?;
    writeln!(out)
}

fn schema() -> Json {
    let mut top = table(Within::Top);
    let source = table(Within::Source);
    if let Some(Json::Object(properties)) = top.get_mut("properties") {
        let sources = json!({"type": "array", "items": source, "description": "Where files come from"});
        properties.insert("source".into(), sources);
    }
    top.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
    top.insert("title".into(), json!("archiver.toml"));
    Json::Object(top)
}

fn object(properties: Map<String, Json>) -> Map<String, Json> {
    let mut object = Map::new();
    object.insert("type".into(), json!("object"));
    object.insert("additionalProperties".into(), json!(false));
    object.insert("properties".into(), Json::Object(properties));
    object
}

fn table(within: Within) -> Map<String, Json> {
    let mut properties = Map::new();
    let mut tables: Map<String, Json> = Map::new();
    for key in KEYS.iter().filter(|key| key.kind != Kind::Secret) {
        let Some(name) = key.name_within(within) else { continue };
        match name.split_once('.') {
            None => properties.insert(name.into(), property(key)),
            Some((table, name)) => match tables.entry(table).or_insert_with(|| json!({})) {
                Json::Object(inner) => inner.insert(name.into(), property(key)),
                _ => None,
            },
        };
    }
    for (name, inner) in tables {
        if let Json::Object(inner) = inner {
            properties.insert(name, Json::Object(object(inner)));
        }
    }
    object(properties)
}

fn property(key: &Key) -> Json {
    let mut property = match key.kind {
        Kind::Text | Kind::Secret if !key.choices.is_empty() => json!({"type": "string", "enum": key.choices}),
        Kind::Text | Kind::Secret => json!({"type": "string"}),
        Kind::Integer => json!({"type": "integer", "minimum": 1}),
        Kind::IntegerOr(word) => {
            // Only a table may have no rows; nothing works with no connection.
            let minimum = u8::from((key.check)("0").is_err());
            json!({"anyOf": [{"type": "integer", "minimum": minimum}, {"const": word}]})
        }
        Kind::List => json!({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]}),
    };
    if let Json::Object(property) = &mut property {
        property.insert("description".into(), json!(key.help));
        if let Default::Value(text) = key.default {
            let number = text.parse::<u64>().ok().filter(|_| key.kind != Kind::Text);
            property.insert("default".into(), number.map_or_else(|| json!(text), |number| json!(number)));
        }
    }
    property
}
