//! `docs/configuration.md` says what the code does: its tables are written from the table of keys and from the
//! definition of the command line, and this test fails where they are stale.

use std::fmt::Write;

use archiver::config::key::{Default, Key, Kind, Scope, Within};
use archiver::config::keys::KEYS;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('*', "\\*")
}

fn row(key: &Key, name: &str) -> String {
    let variable = match key.short_variable {
        Some(short) if short != key.variable() => format!("`{short}`, `{}`", key.variable()),
        _ => format!("`{}`", key.variable()),
    };
    let flag = key.flag.map(|flag| format!("`{flag} {}`", key.value)).unwrap_or_default();
    let default = match key.default {
        Default::Value(value) => format!("`{value}`"),
        Default::Unset(meaning) | Default::Depends(meaning) => cell(meaning),
    };
    let name = if key.kind == Kind::Secret { "(not in a file)".to_owned() } else { format!("`{name}`") };
    let choices = key.choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", ");
    let choices = if choices.is_empty() { choices } else { format!(": {choices}") };
    format!("| {name} | {flag} | {variable} | {default} | {}{choices} |\n", cell(key.help))
}

fn keys() -> String {
    let mut text = String::new();
    let mut table = Some("");
    for key in KEYS {
        let (of, name) = key.table_and_name();
        if of != table {
            table = of;
            let title = match (of, key.scope()) {
                (None, _) => "The top level: for every source".to_owned(),
                (Some(_), Scope::Source) => "`[[source]]`".to_owned(),
                (Some(of), _) => format!("`[{of}]`"),
            };
            write!(
                text,
                "\n### {title}\n\n| key | flag | environment | default | meaning |\n| --- | --- | --- | --- | --- |\n"
            )
            .unwrap();
        }
        let name = key.name_within(Within::Source).filter(|_| key.scope() == Scope::Source).unwrap_or(name);
        text.push_str(&row(key, name));
    }
    text
}

fn other_flags() -> String {
    let mut text = String::from("\n| command | argument | meaning |\n| --- | --- | --- |\n");
    let mut command = archiver::cli::command();
    command.build();
    let shared = ["config", "source", "quiet", "verbose"];
    let mut seen = Vec::new();
    let mut rows = |name: &str, command: &clap::Command| {
        for arg in command.get_arguments() {
            let id = arg.get_id().as_str();
            let of_key =
                arg.get_long().is_some_and(|long| KEYS.iter().any(|key| key.flag == Some(&format!("--{long}"))));
            let own_host_key = name == "serve" && matches!(id, "host_key" | "password_file");
            if matches!(id, "help" | "version") || (of_key && !own_host_key) || seen.contains(&id.to_owned()) {
                continue;
            }
            let name = if shared.contains(&id) {
                seen.push(id.to_owned());
                "all that have it"
            } else {
                name
            };
            let short = arg.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
            let value = arg.get_value_names().filter(|_| arg.get_action().takes_values());
            let value = value.map(|names| names.join(" ")).unwrap_or_default();
            let flag = arg.get_long().map(|long| format!("{short}--{long} {value}")).unwrap_or(value);
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            writeln!(text, "| {name} | `{}` | {} |", flag.trim(), cell(&help.replace('\n', " "))).unwrap();
        }
    };
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        rows(command.get_name(), command);
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            rows(&format!("{} {}", command.get_name(), inner.get_name()), inner);
        }
    }
    text
}

/// The document with the part between the markers of `name` replaced.
fn replaced(document: &str, name: &str, text: &str) -> String {
    let begin = format!("<!-- written by the test from here: {name} -->\n");
    let end = "<!-- to here -->";
    let start = document.find(&begin).unwrap_or_else(|| panic!("{PATH} has no marker for {name}")) + begin.len();
    let stop = start + document[start..].find(end).unwrap();
    format!("{}{text}\n{}", &document[..start], &document[stop..])
}

#[test]
fn the_reference_is_up_to_date() {
    let document = std::fs::read_to_string(PATH).unwrap();
    let current = replaced(&replaced(&document, "keys", &keys()), "arguments", &other_flags());
    if document != current && std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PATH, &current).unwrap();
        return;
    }
    assert!(
        document == current,
        "docs/configuration.md is stale; run `UPDATE_DOCS=1 cargo test --test integration reference` and commit it"
    );
}
