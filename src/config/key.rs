//! What a key of the configuration is: its name, its kind of value, and every way to set it.
//!
//! The table of all keys ([`super::keys::KEYS`]) is the only description there is. The file and the environment are
//! read by it, flags take their help from it, and the schema, the commented file and the reference are written from it.

use std::str::FromStr;

use super::keys::KEYS;

/// One key, known by its dotted name: `destination.url`, or `after` for a key of the file's top level.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    /// What stands for the value in help texts: `URL`, `DURATION`.
    pub value: &'static str,
    pub default: Default,
    /// A value as TOML writes it, for the commented file where there is no default to show.
    pub example: &'static str,
    /// The flag that sets it: `--to`.
    pub flag: Option<&'static str>,
    /// A variable beside the systematic one ([`Key::variable`]): `ARCHIVER_TO`.
    pub short_variable: Option<&'static str>,
    /// All words that are allowed, where only fixed words are.
    pub choices: &'static [&'static str],
    /// One sentence, without a full stop.
    pub help: &'static str,
    /// Checks one value, or one element of a list.
    pub check: fn(&str) -> Result<(), String>,
}

/// The shape of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Integer,
    /// An integer or this word.
    IntegerOr(&'static str),
    /// An array of strings, or one string.
    List,
    /// A string that is taken from the environment only and never shown.
    Secret,
}

/// What holds where nothing was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// This value.
    Value(&'static str),
    /// No value; what happens then.
    Unset(&'static str),
    /// A value that depends on the command or the environment (`super::defaults`); in words.
    Depends(&'static str),
}

/// Where a key may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Once in the file.
    Once,
    /// For all sources, and again in any `[[source]]`, which then has its own.
    Overridable,
    /// In a `[[source]]` only.
    Source,
}

/// The table that a name is looked up in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    Top,
    Source,
}

fn anything(_: &str) -> Result<(), String> {
    Ok(())
}

fn parses<T: FromStr<Err = String>>(text: &str) -> Result<(), String> {
    text.parse::<T>().map(drop)
}

impl Key {
    pub(super) const fn new(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Text,
            value,
            default: Default::Unset("none"),
            example: "",
            flag: None,
            short_variable: None,
            choices: &[],
            help,
            check: anything,
        }
    }

    pub(super) const fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    pub(super) const fn default(mut self, value: &'static str) -> Self {
        self.default = Default::Value(value);
        self
    }

    pub(super) const fn unset(mut self, meaning: &'static str) -> Self {
        self.default = Default::Unset(meaning);
        self
    }

    pub(super) const fn depends(mut self, meaning: &'static str) -> Self {
        self.default = Default::Depends(meaning);
        self
    }

    pub(super) const fn example(mut self, toml: &'static str) -> Self {
        self.example = toml;
        self
    }

    pub(super) const fn flag(mut self, flag: &'static str) -> Self {
        self.flag = Some(flag);
        self
    }

    pub(super) const fn short(mut self, variable: &'static str) -> Self {
        self.short_variable = Some(variable);
        self
    }

    pub(super) const fn check(mut self, check: fn(&str) -> Result<(), String>) -> Self {
        self.check = check;
        self
    }

    pub(super) const fn parsed<T: FromStr<Err = String>>(self) -> Self {
        self.check(parses::<T>)
    }

    pub(super) const fn choice<T: FromStr<Err = String>>(self, choices: &'static [&'static str]) -> Self {
        self.words(choices, parses::<T>)
    }

    pub(super) const fn words(mut self, words: &'static [&'static str], check: fn(&str) -> Result<(), String>) -> Self {
        self.choices = words;
        self.check(check)
    }

    /// The key of that name. The names in the program are literals, each looked up by every resolution.
    pub fn named(name: &str) -> &'static Self {
        KEYS.iter().find(|key| key.name == name).unwrap_or_else(|| unreachable!("`{name}` is not in the table of keys"))
    }

    /// The key that is called `name` there: in a source, `paths` is `source.paths` and `after` is `after`.
    pub fn find(within: Within, name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name_within(within) == Some(name))
    }

    /// What it is called there, or `None` where it cannot stand.
    pub fn name_within(&self, within: Within) -> Option<&'static str> {
        match (within, self.scope()) {
            (Within::Top, Scope::Once | Scope::Overridable) | (Within::Source, Scope::Overridable) => Some(self.name),
            (Within::Source, Scope::Source) => self.name.strip_prefix("source."),
            (Within::Top, Scope::Source) | (Within::Source, Scope::Once) => None,
        }
    }

    pub fn scope(&self) -> Scope {
        match self.name.split_once('.') {
            Some(("source", _)) => Scope::Source,
            None | Some(("destination", _)) => Scope::Overridable,
            Some(_) => Scope::Once,
        }
    }

    /// The table it stands in and its name there; no table for a key of the top level.
    pub fn table_and_name(&self) -> (Option<&'static str>, &'static str) {
        self.name.split_once('.').map_or((None, self.name), |(table, name)| (Some(table), name))
    }

    /// The variable that follows from its name: `ARCHIVER_DESTINATION__URL`. For a key of a source, it has the
    /// source's number: `ARCHIVER_SOURCE__0__NAME`.
    pub fn variable(&self) -> String {
        match self.name.strip_prefix("source.") {
            Some(name) => format!("ARCHIVER_SOURCE__0__{}", variable_part(name)),
            None => format!("ARCHIVER_{}", variable_part(self.name)),
        }
    }
}

/// `destination.host-key` as a variable has it: `DESTINATION__HOST_KEY`.
pub fn variable_part(name: &str) -> String {
    name.to_ascii_uppercase().replace('.', "__").replace('-', "_")
}

/// The candidate that `word` was probably meant to be.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + word.len().min(candidate.len()) / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_keys_share_a_name_a_flag_or_a_variable() {
        let mut seen = BTreeSet::new();
        for key in KEYS {
            let short = key.short_variable.map(str::to_owned).filter(|short| *short != key.variable());
            let ways = [Some(key.name.to_owned()), key.flag.map(str::to_owned), Some(key.variable()), short];
            for way in ways.into_iter().flatten() {
                assert!(seen.insert(way.clone()), "{way} is there twice");
            }
        }
    }

    #[test]
    fn defaults_and_choices_pass_their_own_check() {
        for key in KEYS {
            if let Default::Value(value) = key.default {
                assert_eq!((key.check)(value), Ok(()), "{}", key.name);
            }
            for choice in key.choices {
                assert_eq!((key.check)(choice), Ok(()), "{}", key.name);
            }
        }
    }

    #[test]
    fn suggestions_are_near_or_absent() {
        assert_eq!(closest("hots-key", ["host-key", "identity"]), Some("host-key"));
        assert_eq!(closest("path", ["paths", "name"]), Some("paths"));
        assert_eq!(closest("colour", ["paths", "name"]), None);
    }
}
