//! `--source name=reports,path=/a,path=/b,include=*.csv,marker={name}.done`: a whole source in one argument.
//!
//! A comma ends a value, except inside balanced braces, where it belongs to a glob; `\,` is a comma in a value. A
//! value may contain `=`. Keys are those of `[[source]]`; `path` stands for `paths`; a list is made by repetition.

use super::key::{Key, Kind, Within, closest};
use super::keys::KEYS;
use super::layer::{Entry, Origin, Value, Values};
use super::mistake::Mistake;

/// Splits at any of `separators` that stands outside braces and after no backslash. A backslash before a separator
/// is dropped; any other stays, as globs use it. `None` where a brace is never closed.
pub(super) fn split(text: &str, separators: &[char]) -> Option<Vec<String>> {
    let mut parts = vec![String::new()];
    let mut depth = 0_usize;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if depth == 0 && separators.contains(&c) {
            parts.push(String::new());
            continue;
        }
        let part = parts.last_mut()?;
        match c {
            '\\' => match chars.next() {
                Some(escaped) if separators.contains(&escaped) => part.push(escaped),
                Some(escaped) => part.extend(['\\', escaped]),
                None => part.push('\\'),
            },
            _ => {
                match c {
                    '{' => depth += 1,
                    '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                part.push(c);
            }
        }
    }
    (depth == 0).then_some(parts)
}

/// The values of a spec. Messages name keys and positions, never values: a value may hold what is secret.
pub(super) fn parse(spec: &str, origin: &Origin, mistakes: &mut Vec<Mistake>) -> Values {
    let mut values = Values::new();
    let Some(parts) = split(spec, &[',']) else {
        mistakes.push(Mistake::at(origin.clone(), "a `{` has no `}`; write `\\{` for a brace by itself"));
        return values;
    };
    for (number, part) in parts.iter().enumerate().filter(|(_, part)| !part.trim().is_empty()) {
        let Some((name, text)) = part.split_once('=') else {
            let message = format!(
                "part {} has no `=`; write key=value pairs, as in name=reports,path=/var/reports, and `\\,` for a comma in a value",
                number + 1
            );
            mistakes.push(Mistake::at(origin.clone(), message));
            continue;
        };
        let name = match name.trim() {
            "path" => "paths",
            name => name,
        };
        match Key::find(Within::Source, name) {
            None => {
                let names = KEYS.iter().filter_map(|key| key.name_within(Within::Source));
                let hint = closest(name, names).map(|name| format!("; did you mean `{name}`?"));
                mistakes.push(Mistake::of(name, origin, format!("unknown key{}", hint.unwrap_or_default())));
            }
            Some(key) if key.kind == Kind::Secret => mistakes.push(Mistake::of(name, origin, NO_SECRET)),
            Some(key) => match values.get_mut(key.name).map(|entry| &mut entry.value) {
                Some(Value::Many(texts)) => texts.push(text.to_owned()),
                Some(_) => mistakes.push(Mistake::of(name, origin, "it is given twice; keep one")),
                None => {
                    let entry = Entry { value: Value::of(key, text.to_owned()), origin: origin.clone() };
                    values.insert(key.name, entry);
                }
            },
        }
    }
    values
}

pub(super) const NO_SECRET: &str = "a password is never read from here, as it would show; write it to a file and name that with password-file, or set ARCHIVER_PASSWORD";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(spec: &str) -> (Vec<(&'static str, Vec<String>)>, Vec<String>) {
        let mut mistakes = Vec::new();
        let values = parse(spec, &Origin::FlagSpec(1), &mut mistakes);
        let values = values.into_iter().map(|(name, entry)| (name, entry.value.texts().to_vec())).collect();
        (values, mistakes.iter().map(Mistake::to_string).collect())
    }

    #[test]
    fn a_spec_holds_a_whole_source() {
        let (values, mistakes) = parsed(
            "name=reports, path=/a,path=/b,include=*.{csv,txt},exclude=a\\,b,marker={name}.done,destination.url=sftp://h/x=y",
        );
        assert!(mistakes.is_empty(), "{mistakes:?}");
        let expected = [
            ("destination.url", vec!["sftp://h/x=y"]),
            ("exclude", vec!["a,b"]),
            ("include", vec!["*.{csv,txt}"]),
            ("marker", vec!["{name}.done"]),
            ("source.name", vec!["reports"]),
            ("source.paths", vec!["/a", "/b"]),
        ];
        assert_eq!(values, expected.map(|(name, texts)| (name, texts.into_iter().map(str::to_owned).collect())));
    }

    #[test]
    fn glob_escapes_survive() {
        let (values, _) = parsed(r"path=/a,include=\[x\]*");
        assert_eq!(values[0].1, [r"\[x\]*"]);
    }

    #[test]
    fn every_mistake_of_a_spec_is_named_and_no_value_is_repeated() {
        let (_, mistakes) = parsed("nam=a,path=/a,hunter2,after=keep,after=delete,destination.password=hunter2");
        insta::assert_snapshot!(mistakes.join("\n"), @r"
            --source: nam: unknown key; did you mean `name`?
            --source: part 3 has no `=`; write key=value pairs, as in name=reports,path=/var/reports, and `\,` for a comma in a value
            --source: after: it is given twice; keep one
            --source: destination.password: a password is never read from here, as it would show; write it to a file and name that with password-file, or set ARCHIVER_PASSWORD
        ");
        assert!(!mistakes.concat().contains("hunter2"));
        insta::assert_snapshot!(parsed("include={a,path=/b").1.join("\n"), @r"--source: a `{` has no `}`; write `\{` for a brace by itself");
    }
}
