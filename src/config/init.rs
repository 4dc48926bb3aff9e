//! `archiver config init`: a file with every key, its default and one line about it, all commented out.

use std::io::{self, Write};

use super::key::{Default, Key, Kind, Scope, Within};
use super::keys::KEYS;

const HEAD: &str = "\
# Configuration of archiver. Every key is here with its default; remove the `# ` in front of what you change.
# A flag goes before an environment variable, that before this file, this file before the default.
# Relative paths are relative to the directory of this file; `~/` is the home directory.
# Durations have units: 250ms, 2s, 5m, 1h 30m, 90days.

# What holds for every source that does not say otherwise, and for paths given on a command line:
";

const SOURCE: &str = "
# Where files come from; as many as there are. A source may also have its own value of each key of the top level, and
# of each key of [destination], as in destination.url = \"sftp://…\".
";

/// Writes the commented file.
pub fn write(out: &mut impl Write) -> io::Result<()> {
    out.write_all(HEAD.as_bytes())?;
    let mut table = None;
    for key in KEYS.iter().filter(|key| key.kind != Kind::Secret && key.scope() != Scope::Source) {
        let (of, name) = key.table_and_name();
        if of != table {
            table = of;
            writeln!(out, "\n# [{}]", of.unwrap_or_default())?;
        }
        entry(key, name, out)?;
    }
    out.write_all(SOURCE.as_bytes())?;
    writeln!(out, "# [[source]]")?;
    for key in KEYS.iter().filter(|key| key.scope() == Scope::Source) {
        entry(key, key.name_within(Within::Source).unwrap_or(key.name), out)?;
    }
    Ok(())
}

fn entry(key: &Key, name: &str, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "## {}", key.help)?;
    match key.default {
        Default::Value(text) => {
            writeln!(out, "# {name} = {}", super::show::literal(key, &super::layer::Value::One(text.into())))
        }
        Default::Unset(meaning) | Default::Depends(meaning) => {
            writeln!(out, "## default: {meaning}")?;
            writeln!(out, "# {name} = {}", key.example)
        }
    }
}
