//! The environment layer. Every key has a variable: `ARCHIVER_DESTINATION__URL` for `destination.url`, with `__`
//! between levels and `_` for `-`; some have a short one as well, such as `ARCHIVER_TO`.
//!
//! A variable that is set to nothing counts as unset, as Compose files write it. Elements of a list are separated by
//! `;` or a newline.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use super::key::{Key, Kind, Within, closest, variable_part};
use super::keys::KEYS;
use super::layer::{Entry, Layer, Origin, Value, Values};
use super::mistake::Mistake;
use super::source_spec;
use crate::domain::RedisUrl;

/// What surrounds the process, as data, so that tests have their own.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
    /// Where `./archiver.toml` is looked for.
    pub directory: PathBuf,
    /// The last file of the search order.
    pub system_file: PathBuf,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        Self {
            variables: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
                .collect(),
            directory: PathBuf::from("."),
            system_file: "/etc/archiver/archiver.toml".into(),
        }
    }

    /// One with these variables, and no file to find.
    pub fn with<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        Self { variables, directory: "/nonexistent".into(), system_file: "/nonexistent".into() }
    }

    /// The variables that hold secrets: no other process is to inherit them.
    pub fn secrets(&self) -> impl Iterator<Item = String> {
        let secret = |name: &&String| match target(name) {
            Some(Target::Key(key)) if key.name == "ledger.url" => self.variables[*name]
                .to_str()
                .is_some_and(|text| RedisUrl::is_meant(text) && RedisUrl::without_password(text) != text),
            Some(Target::Key(key) | Target::OfSource(_, key)) => key.kind == Kind::Secret,
            Some(Target::Sources) | None => false,
        };
        self.variables.keys().filter(secret).cloned()
    }

    /// The value, where it is set and not empty.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.variables.get(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// A base directory of the XDG specification; relative ones are to be ignored.
    pub(super) fn xdg(&self, name: &str, below_home: &str) -> Option<PathBuf> {
        let home = || self.path("HOME").map(|home| home.join(below_home));
        self.path(name).filter(|dir| dir.is_absolute()).or_else(home)
    }
}

/// What the variables say. Unknown ones are warned about, as other programs may set them; they are no mistake.
pub(super) fn layer(environment: &Environment, mistakes: &mut Vec<Mistake>, warnings: &mut Vec<String>) -> Layer {
    let mut layer = Layer::default();
    let ours = environment.variables.iter().filter(|(name, value)| name.starts_with("ARCHIVER_") && !value.is_empty());
    for (name, value) in ours.filter(|(name, _)| *name != "ARCHIVER_CONFIG") {
        let origin = Origin::Variable(name.clone());
        let Some(target) = target(name) else {
            warnings.extend(unknown(name));
            continue;
        };
        let Some(text) = value.to_str() else {
            mistakes.push(Mistake::at(origin, "its value is not UTF-8"));
            continue;
        };
        match target {
            Target::Sources => layer.sources = Some(sources(text, origin, mistakes)),
            Target::Key(key) => set(&mut layer.values, key, text, origin, mistakes),
            Target::OfSource(index, key) => {
                set(layer.patches.entry(index).or_default(), key, text, origin, mistakes);
            }
        }
    }
    layer
}

/// What a variable sets.
enum Target {
    Sources,
    Key(&'static Key),
    /// A key of the source at this position.
    OfSource(usize, &'static Key),
}

fn target(name: &str) -> Option<Target> {
    if name == "ARCHIVER_SOURCE" {
        return Some(Target::Sources);
    }
    if let Some((index, rest)) = name.strip_prefix("ARCHIVER_SOURCE__").and_then(|rest| rest.split_once("__")) {
        let same = |key: &&Key| key.name_within(Within::Source).is_some_and(|name| variable_part(name) == rest);
        return Some(Target::OfSource(index.parse().ok()?, KEYS.iter().find(same)?));
    }
    let at_top = |key: &&Key| key.name_within(Within::Top).is_some();
    let same = |key: &&Key| key.short_variable == Some(name) || key.variable() == name;
    KEYS.iter().filter(at_top).find(same).map(Target::Key)
}

fn set(values: &mut Values, key: &'static Key, text: &str, origin: Origin, mistakes: &mut Vec<Mistake>) {
    let value = match key.kind {
        Kind::List => match source_spec::split(text, &[';', '\n']) {
            Some(parts) => Value::Many(
                parts.into_iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect(),
            ),
            None => {
                mistakes.push(Mistake::at(origin, "a `{` has no `}`; write `\\{` for a brace by itself"));
                return;
            }
        },
        _ => Value::of(key, text.to_owned()),
    };
    match values.get(key.name) {
        Some(other) if other.value != value => {
            mistakes
                .push(Mistake::at(origin, format!("{} sets the same key to something else; keep one", other.origin)));
        }
        _ => {
            values.insert(key.name, Entry { value, origin });
        }
    }
}

fn sources(text: &str, origin: Origin, mistakes: &mut Vec<Mistake>) -> Vec<Values> {
    let Some(specs) = source_spec::split(text, &[';', '\n']) else {
        mistakes.push(Mistake::at(origin, "a `{` has no `}`; write `\\{` for a brace by itself"));
        return Vec::new();
    };
    let specs = specs.iter().filter(|spec| !spec.trim().is_empty()).enumerate();
    specs.map(|(number, spec)| source_spec::parse(spec, &Origin::VariableSpec(number + 1), mistakes)).collect()
}

/// The warning about a variable that is no key's. None for the links that Kubernetes makes for a Service called
/// `archiver` (`ARCHIVER_SERVICE_HOST`, `ARCHIVER_PORT_22_TCP_ADDR`, …): they are nobody's mistake.
fn unknown(name: &str) -> Option<String> {
    let rest = name.strip_prefix("ARCHIVER_")?;
    #[cfg(feature = "failpoints")]
    if name.starts_with(crate::failpoint::VARIABLE) {
        return None;
    }
    let port = |rest: &str| {
        rest.is_empty() || rest.strip_prefix('_').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let service_link = rest == "SERVICE_HOST"
        || rest == "SERVICE_PORT"
        || rest.starts_with("SERVICE_PORT_")
        || rest.strip_prefix("PORT").is_some_and(port);
    if service_link {
        return None;
    }
    let variables: Vec<String> = KEYS
        .iter()
        .flat_map(|key| [Some(key.variable()), key.short_variable.map(str::to_owned)])
        .flatten()
        .chain(["ARCHIVER_CONFIG", "ARCHIVER_SOURCE"].map(str::to_owned))
        .collect();
    let hint = closest(name, variables.iter().map(String::as_str));
    let name = crate::domain::display::escaped(name);
    Some(match hint {
        Some(hint) => format!("{name} is no variable of archiver and has no effect; did you mean {hint}?"),
        None => format!("{name} is no variable of archiver and has no effect"),
    })
}
