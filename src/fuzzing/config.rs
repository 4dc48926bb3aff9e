//! A configuration out of three texts: the file, the environment, the flags.

use super::Input;
use super::domain::is_inert;
use crate::config::key::{Key, Kind};
use crate::config::keys::KEYS;
use crate::config::layer::Origin;
use crate::config::show::{self, ShowFormat};
use crate::config::{CommandKind, CommandLayer, ConfigFile, Environment, Resolved, resolve_read};
use crate::selection::{MarkerPattern, Selection};

pub(super) const WORDS: &[&str] = &[
    "[destination]\n",
    "[[source]]\n",
    "[retry]\n",
    "[pool]\n",
    "[source]\n",
    "url = ",
    "destination.url = ",
    "paths = ",
    "include = ",
    "marker = ",
    "after = ",
    "settle = ",
    "jobs = ",
    "max-attempts = ",
    "\"sftp://h/up\"",
    "\"sftp://u:p@h/\"",
    "\"{name}.done\"",
    "\"move=/x\"",
    "\"\"",
    "[\"/a\", \"b\"]",
    "[\"*.csv\"]",
    "007",
    "0x10",
    "1_0",
    "\"+8\"",
    "-1",
    "\"2s\"",
    "true",
    "\n",
    "=",
    "\"",
    "'",
    "'''",
    "\\",
    "#",
    "\u{0}",
    "é",
    "\u{202e}",
    "password = \"hunter2zq\"\n",
    "---\n",
    "ARCHIVER_TO=sftp://h/\n",
    "ARCHIVER_SOURCE=path=/a\n",
    "ARCHIVER_SOURCE__0__PATHS=/a\n",
    "ARCHIVER_POOL__JOBS=007\n",
    "ARCHIVER_INCLUDE=*.a;*.b\n",
    "ARCHIVER_PASSWORD=hunter2zq\n",
    "ARCHIVER_RETRY__MAX_ATTEMPTS=+8\n",
    "ARCHIVER_X=1\n",
    "--to=sftp://h/\n",
    "--source=path=/a,include=*.{a,b}\n",
    "--layout=%Y\n",
    "--include=*.csv\n",
    "--jobs=4\n",
];

const PASSWORD: &str = "hunter2zq";

/// The parts of the input are divided by such a line.
const DIVIDER: &str = "---\n";

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.one_of(&[CommandKind::Show, CommandKind::Watch, CommandKind::Push, CommandKind::Check]);
    let text = input.text();
    let mut parts = text.split(DIVIDER);
    let mut part = || parts.next().unwrap_or_default();
    let file = ConfigFile { path: "/etc/archiver.toml".into(), text: part().to_owned() };
    let variables = part().lines().filter_map(|line| line.split_once('='));
    let environment =
        Environment::with(variables.filter(|(name, _)| !name.contains('\0')).chain([("HOME", "/home/me")]));
    let command = flags(part());

    let lines = file.text.matches('\n').count() + 1;
    let resolved = match resolve_read(&command, &environment, kind, Some(file), Vec::new()) {
        Ok(resolved) => resolved,
        Err(errors) => {
            assert!(!errors.mistakes().is_empty());
            for mistake in errors.mistakes() {
                let shown = mistake.to_string();
                assert!(is_inert(&shown), "{shown:?}");
                assert!(!mistake.message.is_empty());
                if let Some(Origin::File { line, path }) = &mistake.origin {
                    assert!((1..=lines).contains(line), "{shown}");
                    assert!(shown.starts_with(&format!("{}:{line}: ", path.display())), "{shown}");
                }
                let names = mistake.key.as_deref().unwrap_or_default();
                assert!(
                    names.contains(PASSWORD)
                        || !mistake.message.contains(PASSWORD)
                        || !is_secret(mistake.key.as_deref())
                );
            }
            return;
        }
    };
    for warning in &resolved.warnings {
        assert!(is_inert(warning), "{warning:?}");
    }
    // What was checked can be used: there is no later place to report a mistake with its line.
    for source in &resolved.settings.sources {
        let marker = source.marker.as_deref().map(|text| text.parse::<MarkerPattern>().expect("it was checked"));
        Selection::new(&source.include, &source.exclude, marker.as_ref()).expect("they were checked");
    }
    read_again(&resolved);
}

fn is_secret(key: Option<&str>) -> bool {
    key.is_some_and(|key| KEYS.iter().any(|known| known.kind == Kind::Secret && key.ends_with(known.name)))
}

/// `--flag=value`, one a line.
fn flags(text: &str) -> CommandLayer {
    let mut command = CommandLayer::default();
    for (flag, value) in text.lines().filter_map(|line| line.split_once('=')) {
        if flag == "--source" {
            command.source_specs.push(value.to_owned());
        } else if let Some(key) = KEYS.iter().find(|key| key.flag == Some(flag)) {
            match key.kind {
                Kind::List => command.set_all(key.name, vec![value.to_owned()]),
                _ => command.set(key.name, Some(value.to_owned())),
            }
        }
    }
    command
}

/// What `config show` prints is a file that says the same.
fn read_again(resolved: &Resolved) {
    let shown = |format| {
        let mut out = Vec::new();
        show::write(resolved, format, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    let json = shown(ShowFormat::Json);
    serde_json::from_str::<serde_json::Value>(&json).unwrap();
    let text = shown(ShowFormat::Toml);
    for shown in [&json, &text, &format!("{resolved:?}")] {
        let secrets = resolved.merged.values.iter().filter(|(name, _)| Key::named(name).kind == Kind::Secret);
        let open = |values: &crate::config::layer::Values| {
            values.values().any(|entry| {
                entry.value.texts().iter().any(|text| text.contains(PASSWORD))
                    || entry.origin.to_string().contains(PASSWORD)
            })
        };
        let elsewhere = open(&resolved.merged.values) || resolved.merged.sources.iter().any(open);
        assert!(secrets.count() == 0 || elsewhere || !shown.contains(PASSWORD), "{shown}");
    }
    let file = ConfigFile { path: "/etc/archiver.toml".into(), text: text.clone() };
    let environment = Environment::with([("HOME", "/home/me")]);
    let again = resolve_read(&CommandLayer::default(), &environment, CommandKind::Show, Some(file), Vec::new())
        .unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    let values = |resolved: &Resolved| {
        let of = |values: &crate::config::layer::Values| {
            let typed = values.iter().filter(|(name, _)| Key::named(name).kind != Kind::Secret);
            typed.map(|(name, entry)| (*name, meaning(name, entry.value.texts()))).collect::<Vec<_>>()
        };
        (of(&resolved.merged.values), resolved.merged.sources.iter().map(of).collect::<Vec<_>>())
    };
    assert_eq!(values(&again), values(resolved), "{text}");
}

/// Numbers as such: `007` and `7` are the same one.
fn meaning(name: &str, texts: &[String]) -> Vec<String> {
    let number = |text: &String| text.parse::<u64>().map_or_else(|_| text.clone(), |number| number.to_string());
    match Key::named(name).kind {
        Kind::Integer | Kind::IntegerOr(_) => texts.iter().map(number).collect(),
        _ => texts.to_vec(),
    }
}
