//! From merged text to [`Settings`]: every value in its type, and the rules between keys. All mistakes are collected.

use std::path::{Component, Path, PathBuf};

use super::CommandKind;
use super::check;
use super::key::{Key, Scope};
use super::layer::{CommandLayer, Entry, Origin, Rank, Values};
use super::merge::Merged;
use super::mistake::Mistake;
use super::resolver::{Resolver, exposed};
use super::settings::*;
use crate::domain::{After, AfterFailure, Backoff, DestinationUrl, OnConflict, Publish, RedisUrl, display};

/// `None` where there are mistakes; each of them is in `mistakes` then.
pub(super) fn resolve(
    command: &CommandLayer,
    merged: &Merged,
    kind: CommandKind,
    home: Option<PathBuf>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Settings> {
    let mut resolver = Resolver { home, mistakes };
    let settings = resolver.settings(command, merged, kind);
    if mistakes.is_empty() { settings } else { None }
}

/// Of a command line's paths: one source without a name.
fn from_command_line(command: &CommandLayer) -> bool {
    !command.paths.is_empty() || command.files_from.is_some()
}

impl Resolver<'_> {
    fn settings(&mut self, command: &CommandLayer, merged: &Merged, kind: CommandKind) -> Option<Settings> {
        let values = &merged.values;
        self.inputs(command, merged, kind);
        let mut destinations = Vec::new();
        let sources = if from_command_line(command) {
            vec![self.source(values, command.paths.clone(), &mut destinations, kind)]
        } else {
            let sources = merged.sources.iter();
            sources.map(|values| self.configured_source(values, &mut destinations, kind)).collect()
        };
        if sources.is_empty() {
            self.destination(values, &mut destinations, kind);
        }
        self.names(command, merged);
        let sources: Option<Vec<_>> = sources.into_iter().collect();
        let retry = self.retry(values);
        let pool = self.pool(values);
        let ledger = self.ledger(values, kind);
        self.dedupe(values, &destinations);
        let metrics = self.metrics(values);
        let log = self.log(values);
        let output = self.output(values, command);
        let watch = self.watch(values);
        let on_failure = self.value(values, "run.on-failure", str::parse);
        Some(Settings {
            destinations,
            sources: sources?,
            files_from: command.files_from.clone(),
            retry: retry?,
            pool: pool?,
            ledger: ledger?,
            metrics: metrics?,
            log: log?,
            output: output?,
            watch: watch?,
            on_failure: on_failure?,
            repeat: command.repeat,
            execution: command.execution,
        })
    }

    /// What is to be archived must be said, in one way.
    fn inputs(&mut self, command: &CommandLayer, merged: &Merged, kind: CommandKind) {
        if from_command_line(command) && !command.source_specs.is_empty() {
            self.missing("PATH arguments (or --files-from) and --source exclude each other; give one of them");
        }
        if command.files_from.is_some() && command.paths.len() > 1 {
            self.missing("--files-from takes at most one PATH, the directory that the listed files are below");
        }
        if !from_command_line(command) && merged.sources.is_empty() {
            match kind {
                CommandKind::Push => self.missing(
                    "nothing to push: give a PATH, --files-from FILE or --source SPEC, set ARCHIVER_SOURCE, or write a [[source]] in archiver.toml",
                ),
                CommandKind::Watch => self.missing(
                    "nothing to watch: give a directory or --source SPEC, set ARCHIVER_SOURCE, or write a [[source]] in archiver.toml",
                ),
                CommandKind::Check
                | CommandKind::Inspect
                | CommandKind::Serve
                | CommandKind::Demo
                | CommandKind::Show => {}
            }
        }
    }

    /// A name is part of the ledger's keys, so no two sources can share one.
    fn names(&mut self, command: &CommandLayer, merged: &Merged) {
        if from_command_line(command) {
            return;
        }
        let mut seen: Vec<&str> = Vec::new();
        for entry in merged.sources.iter().filter_map(|values| values.get("source.name")) {
            for name in entry.value.texts() {
                if seen.contains(&name.as_str()) {
                    let message = format!("another source is called `{name}` too; give each its own name");
                    self.mistakes.push(Mistake::of("source.name", &entry.origin, message));
                }
                seen.push(name);
            }
        }
    }

    fn configured_source(
        &mut self,
        values: &Values,
        destinations: &mut Vec<DestinationSettings>,
        kind: CommandKind,
    ) -> Option<SourceSettings> {
        let paths = self.paths(values, "source.paths");
        if paths.is_empty() {
            // Any value of its own says where it was begun.
            let own = values.iter().filter(|(name, _)| Key::named(name).scope() == Scope::Source);
            let origin = own.map(|(_, entry)| &entry.origin).find(|origin| **origin != Origin::Default);
            let name = values.get("source.name").and_then(|entry| entry.value.texts().first());
            let name = name.map(|name| format!("the source `{name}`")).unwrap_or_else(|| "a source".into());
            let message =
                format!("{name} has no paths; write paths = [\"/a/directory\"], or path=/a/directory in a spec");
            self.mistakes.push(match origin {
                Some(origin) => Mistake::at(origin.clone(), message),
                None => Mistake::missing(message),
            });
        }
        self.source(values, paths, destinations, kind)
    }

    fn source(
        &mut self,
        values: &Values,
        paths: Vec<PathBuf>,
        destinations: &mut Vec<DestinationSettings>,
        kind: CommandKind,
    ) -> Option<SourceSettings> {
        let destination = self.destination(values, destinations, kind);
        let marker = self.value(values, "marker", check::marker);
        let settle = self.value(values, "settle", check::duration);
        let after = self.after(values, &paths);
        let after_failure = self.after_failure(values, &paths);
        let list = |name: &str| values.get(name).map(|entry| entry.value.texts().to_vec()).unwrap_or_default();
        Some(SourceSettings {
            name: list("source.name").pop().unwrap_or_default(),
            paths,
            include: list("include"),
            exclude: list("exclude"),
            marker: marker.flatten(),
            settle: settle?,
            after: after?,
            after_failure: after_failure?,
            destination: destination?,
        })
    }

    fn after(&mut self, values: &Values, paths: &[PathBuf]) -> Option<After> {
        Some(match self.value(values, "after", str::parse)? {
            After::Move(dir) => After::Move(self.outside(values, "after", dir, paths)?),
            after => after,
        })
    }

    fn after_failure(&mut self, values: &Values, paths: &[PathBuf]) -> Option<AfterFailure> {
        Some(match self.value(values, "after-failure", str::parse)? {
            AfterFailure::Move(dir) => AfterFailure::Move(self.outside(values, "after-failure", dir, paths)?),
            after => after,
        })
    }

    /// A directory to move to, which must not lie where the same source would find the files again. Below a hidden
    /// directory, or with an exclude of the user's, it may.
    fn outside(&mut self, values: &Values, name: &str, dir: PathBuf, paths: &[PathBuf]) -> Option<PathBuf> {
        let entry = values.get(name)?;
        let dir = self.place(entry, &dir);
        let excluded = values.get("exclude").is_some_and(|entry| !entry.value.texts().is_empty());
        let hidden = |below: &Path| {
            below
                .components()
                .any(|part| matches!(part, Component::Normal(name) if name.as_encoded_bytes().starts_with(b".")))
        };
        let target = plain(&dir);
        let found_again = |path: &&PathBuf| target.strip_prefix(plain(path)).is_ok_and(|below| !hidden(below));
        match paths.iter().find(found_again).filter(|_| !excluded) {
            None => Some(dir),
            Some(path) => {
                let message = format!(
                    "{} lies below {}, so files moved there would be found again; move them elsewhere, into a hidden directory, or exclude it",
                    display::path(&dir),
                    display::path(path)
                );
                self.mistakes.push(Mistake::of(name, &entry.origin, message));
                None
            }
        }
    }

    /// The index of the destination; a new one only where no other is the same in every key.
    fn destination(
        &mut self,
        values: &Values,
        destinations: &mut Vec<DestinationSettings>,
        kind: CommandKind,
    ) -> Option<usize> {
        self.replacing(values);
        if !values.contains_key("destination.url") {
            if !matches!(kind, CommandKind::Show | CommandKind::Inspect) {
                self.missing(
                    "no destination: give --to sftp://user@host/dir, set ARCHIVER_TO, or write url = \"sftp://user@host/dir\" below [destination] in archiver.toml",
                );
            }
            return Some(0);
        }
        let parsed = self.destination_settings(values)?;
        let index = destinations.iter().position(|other| *other == parsed).unwrap_or(destinations.len());
        if index == destinations.len() {
            destinations.push(parsed);
        }
        Some(index)
    }

    /// What stands is replaced by renames alone: a server may carry out a removal late, when a newer version has the name.
    fn replacing(&mut self, values: &Values) {
        let entry = |name: &str, text: &str| values.get(name).filter(|entry| entry.value.texts() == [text]);
        let (publish, on_conflict) = ("destination.publish", "destination.on-conflict");
        let (Some(direct), Some(overwrite)) = (entry(publish, "direct"), entry(on_conflict, "overwrite")) else {
            return;
        };
        let message = format!(
            "it cannot be used with publish = \"direct\" ({}), where nothing keeps an older version from taking away a newer \
             one; use \"rename\", \"skip\" or \"fail\" here, or publish = \"rename\" where the server can rename",
            direct.origin
        );
        self.mistakes.push(Mistake::of(on_conflict, &overwrite.origin, message));
    }

    fn destination_settings(&mut self, values: &Values) -> Option<DestinationSettings> {
        let (password, password_file) = self.secret(values, "destination.password", "destination.password-file");
        let url = self.value(values, "destination.url", str::parse::<DestinationUrl>);
        let host_key = self.value(values, "destination.host-key", str::parse);
        let layout = self.value(values, "destination.layout", str::parse);
        let date_from = self.value(values, "destination.date-from", str::parse);
        let timezone = self.value(values, "destination.timezone", str::parse);
        let publish = self.value(values, "destination.publish", str::parse);
        let verify = self.value(values, "destination.verify", str::parse);
        let on_conflict = self.value(values, "destination.on-conflict", str::parse);
        let fsync = self.value(values, "destination.fsync", str::parse);
        let ssh_config = match values.get("destination.ssh-config").map(|entry| (entry, entry.value.texts())) {
            None => SshConfigFile::Default,
            Some((_, [text])) if text == "none" => SshConfigFile::None,
            Some(_) => self.path(values, "destination.ssh-config").map(SshConfigFile::Path).unwrap_or_default(),
        };
        Some(DestinationSettings {
            url: url?,
            identities: self.paths(values, "destination.identity"),
            passphrase_file: self.path(values, "destination.passphrase-file"),
            certificates: self.paths(values, "destination.certificate"),
            password,
            password_file,
            known_hosts: self.paths(values, "destination.known-hosts"),
            host_key: host_key?,
            ssh_config,
            layout: layout?,
            date_from: date_from?,
            timezone: timezone?,
            publish: publish?,
            verify: verify?,
            on_conflict: on_conflict?,
            fsync: fsync?,
        })
    }

    /// Two ways to give one thing: the stronger one holds, and equally strong ones are a mistake.
    fn secret(&mut self, values: &Values, itself: &str, in_file: &str) -> (Option<Secret>, Option<PathBuf>) {
        let secret = values.get(itself);
        let file = values.get(in_file);
        if let (Some(secret), Some(file)) = (secret, file) {
            match secret.origin.rank().cmp(&file.origin.rank()) {
                std::cmp::Ordering::Less => return (exposed(secret), None),
                std::cmp::Ordering::Greater => {}
                std::cmp::Ordering::Equal => {
                    let message = format!("{} gives a password too; keep one of them", secret.origin);
                    self.mistakes.push(Mistake::of(in_file, &file.origin, message));
                }
            }
            return (None, self.path(values, in_file));
        }
        (secret.and_then(exposed), self.path(values, in_file))
    }

    fn retry(&mut self, values: &Values) -> Option<RetrySettings> {
        let max_attempts = self.value(values, "retry.max-attempts", check::attempts);
        let initial = self.value(values, "retry.initial-backoff", check::interval);
        let max = self.value(values, "retry.max-backoff", check::interval);
        let backoff = match Backoff::new(initial?, max?) {
            Ok(backoff) => backoff,
            Err(message) => {
                // The one that was typed in is the one to change.
                let names = ["retry.initial-backoff", "retry.max-backoff"];
                let typed = names.into_iter().filter_map(|name| Some((name, values.get(name)?)));
                let (name, entry) = typed.min_by_key(|(_, entry)| entry.origin.rank())?;
                self.mistakes.push(Mistake::of(name, &entry.origin, message));
                return None;
            }
        };
        Some(RetrySettings { max_attempts: max_attempts?, backoff })
    }

    fn pool(&mut self, values: &Values) -> Option<PoolSettings> {
        let connections = self.value(values, "pool.connections", check::count_or_auto);
        let jobs = self.value(values, "pool.jobs", check::count_or_auto);
        let connect_timeout = self.value(values, "pool.connect-timeout", check::interval);
        let request_timeout = self.value(values, "pool.request-timeout", check::interval);
        let keepalive = self.value(values, "pool.keepalive", check::interval);
        let limit_rate = self.value(values, "pool.limit-rate", check::optional_rate);
        Some(PoolSettings {
            connections: connections?,
            jobs: jobs?,
            connect_timeout: connect_timeout?,
            request_timeout: request_timeout?,
            keepalive: keepalive?,
            limit_rate: limit_rate?,
        })
    }

    fn ledger(&mut self, values: &Values, kind: CommandKind) -> Option<LedgerSettings> {
        let retention = self.value(values, "ledger.retention", check::duration);
        let lease = self.value(values, "ledger.lease", check::lease);
        let shared = values.get("ledger.url").and_then(|entry| Some((entry, entry.value.texts().first()?)));
        let location = match shared {
            Some((entry, text)) if RedisUrl::is_meant(text) => {
                self.redis(values, entry, text).map(LedgerLocation::Redis)
            }
            Some(_) => self.path(values, "ledger.url").map(LedgerLocation::File),
            None if kind == CommandKind::Show => Some(LedgerLocation::File(PathBuf::new())),
            None => {
                self.missing(
                    "no place for the ledger, as neither HOME nor XDG_STATE_HOME is set: give --ledger FILE, or set ARCHIVER_LEDGER",
                );
                None
            }
        };
        let dedupe = self.value(values, "ledger.dedupe", str::parse);
        Some(LedgerSettings { location: location?, lease: lease?, retention: retention?, dedupe: dedupe? })
    }

    /// A name that was promised for a duplicate must be one that appears all at once or not at all, and stays.
    fn dedupe(&mut self, values: &Values, destinations: &[DestinationSettings]) {
        let Some(entry) = values.get("ledger.dedupe").filter(|entry| entry.value.texts() == ["content"]) else {
            return;
        };
        let refused = [
            (
                destinations.iter().any(|destination| destination.publish == Publish::Direct),
                "it cannot be used with publish = \"direct\", whose uploads cannot be called back from an archiver that was \
                 stopped: two could archive the same bytes; leave it out, or archive by rename",
            ),
            (
                destinations.iter().any(|destination| destination.on_conflict == OnConflict::Overwrite),
                "it cannot be used with on-conflict = \"overwrite\", which may take away the only copy that a skipped file \
                 refers to; leave it out, or use on-conflict = \"rename\"",
            ),
        ];
        for (_, message) in refused.iter().filter(|(is_refused, _)| *is_refused) {
            self.mistakes.push(Mistake::of("ledger.dedupe", &entry.origin, *message));
        }
    }

    fn redis(&mut self, values: &Values, entry: &Entry, text: &str) -> Option<RedisSettings> {
        // What cannot be read was reported when it was checked.
        let (url, inline) = RedisUrl::parse(text).ok()?;
        if inline.is_some() && entry.origin.rank() != Rank::Environment {
            let message = "it contains a password, which would show in process lists, or to whoever reads the file; \
                           leave it out, and use ledger.password-file or ARCHIVER_LEDGER_PASSWORD, or give the whole URL as ARCHIVER_LEDGER";
            self.mistakes.push(Mistake::of("ledger.url", &entry.origin, message));
        }
        let (password, password_file) = self.secret(values, "ledger.password", "ledger.password-file");
        // What was said for itself goes before what came with the URL.
        let password = password.or_else(|| inline.filter(|_| password_file.is_none()).map(Secret::new));
        let prefix = self.value(values, "ledger.prefix", check::ledger_prefix);
        let replicas = self.value(values, "ledger.replicas", check::replicas);
        let ca_file = self.path(values, "ledger.ca-file");
        Some(RedisSettings { url, password, password_file, ca_file, prefix: prefix?, replicas: replicas? })
    }

    fn metrics(&mut self, values: &Values) -> Option<MetricsSettings> {
        Some(MetricsSettings { listen: self.value(values, "metrics.listen", check::optional_address)? })
    }

    fn log(&mut self, values: &Values) -> Option<LogSettings> {
        let format = self.value(values, "log.format", str::parse);
        let filter = self.value(values, "log.level", |text| check::log_filter(text).map(|()| text.to_owned()));
        Some(LogSettings { format: format?, filter: filter? })
    }

    fn output(&mut self, values: &Values, command: &CommandLayer) -> Option<OutputSettings> {
        let summary = self.value(values, "output.summary", str::parse);
        let summary_rows = self.value(values, "output.summary-rows", check::rows);
        let progress = self.value(values, "output.progress", str::parse);
        Some(OutputSettings {
            summary: summary?,
            summary_file: self.path(values, "output.summary-file"),
            summary_rows: summary_rows?,
            status_file: self.path(values, "output.status-file"),
            progress: progress?,
            quiet: command.quiet,
            termination_log: self.path(values, "shutdown.termination-log"),
        })
    }

    fn watch(&mut self, values: &Values) -> Option<WatchSettings> {
        let watcher = self.value(values, "watch.watcher", str::parse);
        let scan_interval = self.value(values, "watch.scan-interval", check::interval);
        let grace = self.value(values, "shutdown.grace", check::duration);
        let idle_exit = self.value(values, "watch.idle-exit", check::optional_interval);
        Some(WatchSettings {
            watcher: watcher?,
            scan_interval: scan_interval?,
            grace: grace?,
            until: self.path(values, "watch.until"),
            idle_exit: idle_exit?,
        })
    }
}

/// Where the end is told, whatever else may be wrong.
pub(super) fn termination_log(merged: &Merged, home: Option<PathBuf>) -> Option<PathBuf> {
    Resolver { home, mistakes: &mut Vec::new() }.path(&merged.values, "shutdown.termination-log")
}

/// The settings of the log alone, for commands that need no others.
pub(super) fn log(merged: &Merged, mistakes: &mut Vec<Mistake>) -> Option<LogSettings> {
    Resolver { home: None, mistakes }.log(&merged.values)
}

/// Where metrics are served.
pub(super) fn metrics(merged: &Merged, mistakes: &mut Vec<Mistake>) -> Option<MetricsSettings> {
    Resolver { home: None, mistakes }.metrics(&merged.values)
}

/// An absolute path without `.` and `..`, by its text alone: for comparing what a person wrote, not for opening it.
fn plain(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.components().fold(PathBuf::new(), |mut plain, part| {
        match part {
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
        plain
    })
}
