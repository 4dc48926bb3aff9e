//! Any configuration: each mistake in it is reported at its place, and what is shown of it can be read again.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::key::{Kind, Scope};
use super::keys::KEYS;
use super::layer::Value;
use super::show::ShowFormat;
use super::*;

/// A value that the key takes, as TOML writes it. Text that could be mistaken for something else is among them.
fn good(key: &Key, choice: usize) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let of = |values: &[&str]| quoted(values[choice % values.len()]);
    match key.name {
        "include" | "exclude" => ["[\"*.csv\", 'a\"b']", "\"**/x\"", "[]", "['a\\[1\\]']"][choice % 4].into(),
        "marker" => of(&["{name}.done", "_SUCCESS", "none", "é\u{202e}{stem}"]),
        "after" => of(&["keep", "delete", "move=/elsewhere"]),
        "after-failure" => of(&["keep", "move=/else where"]),
        "destination.url" => of(&["sftp://h/", "sftp://u%40x@[::1]:2222/~/a%20b"]),
        "destination.host-key" => of(&["strict", "accept-new", "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"]),
        "destination.layout" => of(&["%Y", "{source}/%j", "a b"]),
        // What is refused beside others.
        "destination.publish" => of(&["rename"]),
        "destination.on-conflict" => of(&["rename", "skip", "fail"]),
        "destination.timezone" => of(&["UTC", "local", "Europe/Berlin"]),
        "ledger.url" => of(&["/a\tb", "redis://pine@h/2", "redis+sentinel://[::1],b:7/é"]),
        "ledger.prefix" => of(&["archiver", "team-1/a.b:c"]),
        "ledger.lease" => of(&["1s", "1h 30m"]),
        "log.level" => of(&["info", "warn,archiver=debug"]),
        "metrics.listen" => of(&["none", ":9090", "[::1]:80"]),
        "pool.limit-rate" => of(&["none", "20MiB"]),
        // The one must not exceed the other.
        "retry.initial-backoff" => of(&["250ms", "1s"]),
        "retry.max-backoff" => of(&["30s", "90days"]),
        "watch.idle-exit" => of(&["none", "1h 30m"]),
        _ if !key.choices.is_empty() => of(key.choices),
        _ => match (key.kind, key.value) {
            (Kind::Integer, _) => ["1", "0x10", "1_000"][choice % 3].into(),
            (Kind::IntegerOr(word), _) => [quoted(word), "7".into(), "\"007\"".into()][choice % 3].clone(),
            (_, "DURATION") => of(&["250ms", "90days"]),
            (Kind::List, _) => ["[\"/a\", \"b c\"]", "\"~/x\"", "['\\']"][choice % 3].into(),
            _ => of(&["/a\tb", "x\"y'''", "multi\nline", "é", "007"]),
        },
    }
}

#[derive(Debug, Clone)]
enum Line {
    Good(usize, usize),
    /// A value of no type that the key takes.
    WrongType(usize),
    /// A text that the key does not take.
    WrongValue(usize),
    Unknown(u8),
}

fn lines() -> impl Strategy<Value = Vec<Line>> {
    let line = prop_oneof![
        6 => (0..KEYS.len(), 0..8_usize).prop_map(|(key, choice)| Line::Good(key, choice)),
        1 => (0..KEYS.len()).prop_map(Line::WrongType),
        1 => (0..KEYS.len()).prop_map(Line::WrongValue),
        1 => (0..9_u8).prop_map(Line::Unknown),
    ];
    proptest::collection::vec(line, 0..14)
}

/// The text of a file, and the lines and keys in it that are mistakes.
fn written(lines: &[Line]) -> (String, BTreeSet<(usize, String)>) {
    let (mut text, mut wrong, mut seen) = (String::new(), BTreeSet::new(), BTreeSet::new());
    for line in lines {
        let (name, value, is_wrong) = match line {
            Line::Unknown(n) => (format!("nonsense{n}"), "1".to_owned(), true),
            Line::Good(key, choice) => (KEYS[*key].name.to_owned(), good(&KEYS[*key], *choice), false),
            Line::WrongType(key) => (KEYS[*key].name.to_owned(), "[[1.5]]".to_owned(), true),
            Line::WrongValue(key) => (KEYS[*key].name.to_owned(), "\"\\u0000\"".to_owned(), true),
        };
        let key = KEYS.iter().find(|key| key.name == name);
        // Sources are not begun here, a secret is wrong in any case, and some keys take any text.
        let skipped = key.is_some_and(|key| {
            let takes_it = matches!(line, Line::WrongValue(_)) && (key.check)("\0").is_ok();
            key.scope() == Scope::Source || key.kind == Kind::Secret || takes_it
        });
        if skipped || !seen.insert(name.clone()) {
            continue;
        }
        if is_wrong {
            wrong.insert((text.matches('\n').count() + 1, name.clone()));
        }
        text.push_str(&format!("{name} = {value}\n"));
    }
    (text, wrong)
}

fn read(text: &str) -> Result<Resolved, ConfigErrors> {
    let environment = Environment::with([("HOME", "/home/me")]);
    let file = ConfigFile { path: "/etc/archiver.toml".into(), text: text.to_owned() };
    resolve_read(&CommandLayer::default(), &environment, CommandKind::Show, Some(file), Vec::new())
}

fn shown(resolved: &Resolved, format: ShowFormat) -> String {
    let mut out = Vec::new();
    show::write(resolved, format, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

const SOURCES: &str = "
[[source]]
paths = ['/s \"x']
[[source]]
name = 'é'
paths = '~/y'
settle = '7s'
destination.layout = '%Y'
";

proptest! {
    /// Whatever the mistakes are and wherever they stand, all of them are reported, each with its line and key, and
    /// nothing else is.
    #[test]
    fn every_mistake_is_reported_at_its_place(lines in lines()) {
        let (text, wrong) = written(&lines);
        let errors = read(&text).err();
        let mistakes = errors.iter().flat_map(ConfigErrors::mistakes);
        let found: BTreeSet<_> = mistakes
            .map(|mistake| match &mistake.origin {
                Some(Origin::File { line, .. }) => (*line, mistake.key.clone().unwrap_or_default()),
                other => panic!("{other:?}: {mistake}\n{text}"),
            })
            .collect();
        prop_assert_eq!(found, wrong, "{}", text);
    }

    /// `config show` prints a file that means the same, as TOML and, value by value, as JSON.
    #[test]
    fn what_is_shown_is_read_again(lines in lines()) {
        let good: Vec<_> = lines.into_iter().filter(|line| matches!(line, Line::Good(..))).collect();
        let text = written(&good).0 + SOURCES;
        let first = read(&text).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        let toml = shown(&first, ShowFormat::Toml);
        let again = read(&toml).unwrap_or_else(|errors| panic!("{errors}\n{toml}"));
        prop_assert_eq!(format!("{:?}", first.settings), format!("{:?}", again.settings), "{}", toml);

        let json: serde_json::Value = serde_json::from_str(&shown(&first, ShowFormat::Json)).unwrap();
        for (name, entry) in &first.merged.values {
            let value = &json["values"][*name]["value"];
            let same = match &entry.value {
                Value::One(text) => match value.as_u64() {
                    Some(number) => text.parse() == Ok(number),
                    None => value.as_str() == Some(text),
                },
                Value::Many(texts) => value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).eq(texts),
                Value::Secret(_) => value == "(set)",
            };
            prop_assert!(same, "{} is {:?} and shows as {}", name, entry.value, value);
        }
    }
}

/// Wherever each of the two comes from, and only where both hold for a source.
#[test]
fn overwriting_directly_is_a_mistake() {
    let resolve = |flags: [Option<&str>; 2], variables: [Option<&str>; 2], text: &str| {
        let mut command = CommandLayer { paths: vec!["/x".into()], ..CommandLayer::default() };
        if !text.is_empty() {
            command.paths.clear();
        }
        command.set("destination.publish", flags[0].map(str::to_owned));
        command.set("destination.on-conflict", flags[1].map(str::to_owned));
        let names = ["ARCHIVER_DESTINATION__PUBLISH", "ARCHIVER_DESTINATION__ON_CONFLICT"];
        let variables = names.into_iter().zip(variables).filter_map(|(name, value)| Some((name, value?)));
        let environment =
            Environment::with([("HOME", "/home/me"), ("ARCHIVER_TO", "sftp://h/")].into_iter().chain(variables));
        let file = ConfigFile { path: "a.toml".into(), text: text.to_owned() };
        resolve_read(&command, &environment, CommandKind::Watch, Some(file), Vec::new())
    };
    let (direct, overwrite, no) = (Some("direct"), Some("overwrite"), [None, None]);
    let both = [direct, overwrite];
    let (general, own) = ("on-conflict = 'overwrite'\n", "[[source]]\npaths = '/x'\n");
    let said = "it cannot be used with publish = \"direct\" ";
    let general = format!("[destination]\npublish = 'direct'\n{general}");
    let in_source = format!("{own}destination.publish = 'direct'\n");
    for (flags, variables, text, start) in [
        (both, no, "", format!("--on-conflict: {said}(--publish), ")),
        (no, both, "", format!("ARCHIVER_DESTINATION__ON_CONFLICT: {said}(ARCHIVER_DESTINATION__PUBLISH), ")),
        (no, no, &*format!("{general}{own}"), format!("a.toml:3: destination.on-conflict: {said}(a.toml:2), ")),
        ([None, overwrite], no, &in_source, format!("--on-conflict: {said}(a.toml:3), ")),
        ([direct, None], [None, overwrite], "", format!("ARCHIVER_DESTINATION__ON_CONFLICT: {said}(--publish), ")),
    ] {
        let errors = resolve(flags, variables, text).expect_err(text).to_string();
        assert!(errors.starts_with(&start) && errors.ends_with("where the server can rename"), "{errors}");
    }
    resolve(no, no, &format!("{general}{own}destination.on-conflict = 'skip'\n")).unwrap();
    resolve([Some("rename"), None], no, &format!("{general}{own}")).unwrap();
}
