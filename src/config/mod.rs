//! Settings in stages: typed in (file, environment, flags), merged, resolved.
//!
//! ```text
//! keys ──▶ file ─────────┐
//!      ──▶ environment ──┼─ layer ──▶ merge ──▶ resolve ──▶ settings
//!      ──▶ cli ──────────┤                └──▶ show
//!      ──▶ defaults ─────┘
//! ```
//!
//! The precedence is stated by [`layer::Rank`], and only there. Mistakes are collected over all stages and reported
//! together. Nothing here reads the process's environment: it comes in as an [`Environment`].

pub(crate) mod check;
mod defaults;
mod environment;
mod file;
pub mod init;
pub mod key;
pub mod keys;
pub mod layer;
mod merge;
mod mistake;
mod resolve;
mod resolver;
pub mod schema;
pub mod settings;
pub mod show;
mod source_spec;

pub use environment::Environment;
pub use layer::CommandLayer;
pub use merge::Merged;
pub use mistake::{ConfigErrors, Mistake};
use settings::{LogSettings, MetricsSettings, Settings};

#[cfg(test)]
mod tests;

pub(crate) use file::ConfigFile;
use file::Syntax;
use key::Key;
use layer::{Layer, Origin};
use merge::Layers;

/// For which command settings are resolved: it decides some defaults, and what must not be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandKind {
    Push,
    Watch,
    /// Needs a destination, but no source.
    Check,
    /// Asks the ledger: needs neither a destination nor a source.
    Inspect,
    /// Needs nothing but a log.
    Serve,
    /// Needs nothing but a log, which leaves the telling to the demo itself.
    Demo,
    /// `config show`: needs nothing, and shows the defaults of `watch`.
    Show,
}

/// What was typed in, and what surrounds the process: all there is to resolve, now and whenever the file has changed.
#[derive(Debug, Clone)]
pub struct Typed {
    pub command: CommandLayer,
    pub environment: Environment,
    pub kind: CommandKind,
}

impl Typed {
    pub fn resolve(&self) -> Result<Resolved, ConfigErrors> {
        resolve(&self.command, &self.environment, self.kind)
    }
}

/// A configuration without mistakes.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub settings: Settings,
    /// The same as text, each value with its origin.
    pub merged: Merged,
    /// For a person to read, one a line; nothing was changed because of them.
    pub warnings: Vec<String>,
    /// The file that was read.
    pub file: Option<std::path::PathBuf>,
}

/// Reads the file, merges all layers and checks everything. Errors name every mistake there is.
///
/// May be called again with the same layer to read a changed file.
pub fn resolve(command: &CommandLayer, environment: &Environment, kind: CommandKind) -> Result<Resolved, ConfigErrors> {
    let mut mistakes = Vec::new();
    let file = file::read(asked(command, environment), environment).unwrap_or_else(|mistake| {
        mistakes.push(mistake);
        None
    });
    resolve_read(command, environment, kind, file, mistakes)
}

/// The file that was named, and where.
fn asked(command: &CommandLayer, environment: &Environment) -> Option<(std::path::PathBuf, Origin)> {
    match &command.config {
        Some(path) => Some((path.clone(), Origin::Flag("--config"))),
        None => environment.path("ARCHIVER_CONFIG").map(|path| (path, Origin::Variable("ARCHIVER_CONFIG".into()))),
    }
}

/// The same with the file already read, and the mistakes of that.
pub(crate) fn resolve_read(
    command: &CommandLayer,
    environment: &Environment,
    kind: CommandKind,
    file: Option<ConfigFile>,
    mut mistakes: Vec<Mistake>,
) -> Result<Resolved, ConfigErrors> {
    // What an unread file would have said is unknown, so nothing is reported as missing.
    let readable = if mistakes.is_empty() { Syntax::Sound } else { Syntax::Broken };
    let (layers, syntax, warnings) = gather(command, environment, kind, file.as_ref(), &mut mistakes);
    let merged = layers.merge(&mut mistakes);
    check_all(&layers, &mut mistakes);
    let mut missing = Vec::new();
    let settings = resolve::resolve(command, &merged, kind, environment.path("HOME"), &mut missing);
    let complete = readable == Syntax::Sound && syntax == Syntax::Sound;
    mistakes.extend(missing.into_iter().filter(|mistake| complete || mistake.origin.is_some()));
    ConfigErrors::unless_empty(mistakes).map_err(|mut errors| {
        errors.termination_log = resolve::termination_log(&merged, environment.path("HOME"));
        errors
    })?;
    match settings {
        Some(settings) => Ok(Resolved { settings, merged, warnings, file: file.map(|file| file.path) }),
        None => unreachable!("a resolver that gives nothing has named a mistake"),
    }
}

/// The settings of the log from flags and environment, for commands that read no file.
pub fn resolve_log(
    command: &CommandLayer,
    environment: &Environment,
    kind: CommandKind,
) -> Result<LogSettings, ConfigErrors> {
    let mut others = Vec::new();
    let (layers, _, _) = gather(command, environment, kind, None, &mut others);
    let mut mistakes = Vec::new();
    let log = resolve::log(&layers.merge(&mut others), &mut mistakes);
    ConfigErrors::unless_empty(mistakes)?;
    match log {
        Some(log) => Ok(log),
        None => unreachable!("both keys of the log have a default"),
    }
}

/// Where metrics are served, and whether anybody said so. Of the file too, so that `health` asks where `watch` listens;
/// mistakes of other keys are not its matter.
pub fn resolve_metrics(
    command: &CommandLayer,
    environment: &Environment,
) -> Result<(MetricsSettings, Origin), ConfigErrors> {
    let mut others = Vec::new();
    let file = match file::read(asked(command, environment), environment) {
        Ok(file) => file,
        // A file that was named here and now is needed.
        Err(mistake) if command.config.is_some() => ConfigErrors::unless_empty(vec![mistake]).map(|()| None)?,
        Err(_) => None,
    };
    let (layers, _, _) = gather(command, environment, CommandKind::Show, file.as_ref(), &mut others);
    let merged = layers.merge(&mut others);
    let origin = merged.values.get("metrics.listen").map_or(Origin::Default, |entry| entry.origin.clone());
    let mut mistakes = Vec::new();
    let metrics = resolve::metrics(&merged, &mut mistakes);
    ConfigErrors::unless_empty(mistakes)?;
    match metrics {
        Some(metrics) => Ok((metrics, origin)),
        None => unreachable!("the key of the metrics has a default"),
    }
}

fn gather(
    command: &CommandLayer,
    environment: &Environment,
    kind: CommandKind,
    file: Option<&ConfigFile>,
    mistakes: &mut Vec<Mistake>,
) -> (Layers, Syntax, Vec<String>) {
    let mut warnings = Vec::new();
    let (file, syntax) = match file {
        Some(file) => file::parse(file, mistakes),
        None => (Layer::default(), Syntax::Sound),
    };
    let variables = environment::layer(environment, mistakes, &mut warnings);
    let mut flags = command.layer.clone();
    if !command.source_specs.is_empty() {
        let specs = command.source_specs.iter().enumerate();
        let sources = specs.map(|(number, spec)| source_spec::parse(spec, &Origin::FlagSpec(number + 1), mistakes));
        flags.sources = Some(sources.collect());
    }
    let layers = Layers { flags, environment: variables, file, defaults: defaults::layer(kind, environment) };
    (layers, syntax, warnings)
}

/// Checks every value that was typed in, also those that a stronger one hides: they wait to become true.
fn check_all(layers: &Layers, mistakes: &mut Vec<Mistake>) {
    for (name, entry) in layers.entries() {
        for text in entry.value.texts() {
            if let Err(message) = (Key::named(name).check)(text) {
                mistakes.push(Mistake::of(name, &entry.origin, message));
            }
        }
    }
}
