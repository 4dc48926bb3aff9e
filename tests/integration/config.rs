//! The configuration from all its places to settings: precedence, every mistake with its message, no secret shown.

use std::path::{Path, PathBuf};
use std::time::Duration;

use archiver::cli::{Cli, Command, ConfigCommand};
use archiver::config::key::{Kind, Scope};
use archiver::config::keys::KEYS;
use archiver::config::settings::*;
use archiver::config::show::{self, ShowFormat};
use archiver::config::{self, CommandKind, ConfigErrors, Environment, Resolved};
use archiver::domain::{After, DateFrom, HostKeyPolicy, OnConflict};
use tempfile::TempDir;

const DESTINATION: &str = "[destination]\nurl = 'sftp://pine@sftp/upload'\n";
const SOURCE: &str = "[[source]]\nname = 'reports'\npaths = ['/var/reports']\n";

/// A working directory of its own, and an environment that knows nothing else.
struct Place {
    dir: TempDir,
    environment: Environment,
}

impl Place {
    fn new(variables: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().unwrap();
        let home = ("HOME", "/home/pine");
        let mut environment = Environment::with([home].iter().chain(variables).copied());
        environment.directory = dir.path().to_owned();
        Self { dir, environment }
    }

    /// With this text as `./archiver.toml`.
    fn file(self, text: &str) -> Self {
        std::fs::write(self.path(), text).unwrap();
        self
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("archiver.toml")
    }

    fn resolve(&self, arguments: &[&str]) -> Result<Resolved, ConfigErrors> {
        let (layer, kind) = match Cli::parse_from_arguments(["archiver"].iter().chain(arguments)).unwrap().command {
            Command::Push(args) => (args.layer(), CommandKind::Push),
            Command::Watch(args) => (args.layer(), CommandKind::Watch),
            Command::Check(args) => (args.layer(), CommandKind::Check),
            Command::Config(config) => match config.command {
                ConfigCommand::Show(args) => (args.layer(), CommandKind::Show),
                other => panic!("{other:?} has no layer"),
            },
            other => panic!("{other:?} has no layer"),
        };
        config::resolve(&layer, &self.environment, kind)
    }

    fn settings(&self, arguments: &[&str]) -> Settings {
        self.resolve(arguments).unwrap_or_else(|errors| panic!("{errors}")).settings
    }

    /// What is wrong, with the directory taken out.
    fn mistakes(&self, arguments: &[&str]) -> String {
        let errors = self.resolve(arguments).expect_err("no mistake was found").to_string();
        errors.replace(&format!("{}/", self.dir.path().display()), "")
    }
}

#[test]
fn a_source_and_a_destination_are_enough() {
    let settings = Place::new(&[]).settings(&["push", "--to", "sftp://pine@sftp/upload", "reports"]);
    let [source] = &settings.sources[..] else { panic!("not one source") };
    assert_eq!((source.name.as_str(), &source.paths[..]), ("", &[PathBuf::from("reports")][..]));
    assert_eq!((source.settle, &source.after, &source.marker), (Duration::ZERO, &After::Keep, &None));
    let [destination] = &settings.destinations[..] else { panic!("not one destination") };
    assert_eq!(destination.url.to_string(), "sftp://pine@sftp/upload");
    assert_eq!((destination.layout.to_string().as_str(), destination.on_conflict), ("%Y/%m/%d", OnConflict::Rename));
    assert_eq!((&destination.host_key, &destination.ssh_config), (&HostKeyPolicy::Strict, &SshConfigFile::Default));
    assert_eq!(settings.retry.max_attempts, 8);
    assert_eq!(settings.retry.backoff, archiver::domain::Backoff::default());
    assert_eq!(settings.pool.connect_timeout, Duration::from_secs(15));
    assert_eq!(settings.pool.request_timeout, Duration::from_secs(30));
    assert_eq!((settings.pool.connections, settings.pool.jobs), (None, None));
    assert_eq!(settings.watch.grace, Duration::from_secs(25));
    assert_eq!(settings.watch.scan_interval, Duration::from_secs(300));
    assert_eq!(settings.ledger.retention, Duration::from_secs(90 * 86400));
    let ledger = LedgerLocation::File("/home/pine/.local/state/archiver/ledger.db".into());
    assert_eq!(settings.ledger.location, ledger);
    assert_eq!(settings.output.summary_rows, SummaryRows::Limit(100));
    assert_eq!(settings.log.filter, "warn");

    let place = Place::new(&[("XDG_STATE_HOME", "/state")]);
    let settings = place.settings(&["watch", "-t", "sftp://h/", "reports"]);
    assert_eq!(settings.sources[0].settle, Duration::from_secs(2));
    assert_eq!(settings.ledger.location, LedgerLocation::File("/state/archiver/ledger.db".into()));
    assert_eq!(settings.log.filter, "warn,archiver=info");
}

#[test]
fn the_example_of_the_specification_is_understood() {
    let place = Place::new(&[]).file(
        r#"
[destination]
url = "sftp://pine@sftp:22/upload"
identity = "/run/secrets/id_ed25519"
host-key = "strict"
layout = "%Y/%m/%d"
date-from = "claim"
timezone = "UTC"
publish = "rename"

[[source]]
name = "reports"
paths = ["/var/pine/reports"]
include = ["**/*.csv"]
marker = "{name}.done"
after = "delete"
transform = "none"
destination.url = "sftp://other/inbox"

[[source]]
name = "logs"
paths = ["logs"]
"#,
    );
    let settings = place.settings(&["watch"]);
    let urls: Vec<_> = settings.destinations.iter().map(|destination| destination.url.to_string()).collect();
    assert_eq!(urls, ["sftp://other/inbox", "sftp://pine@sftp:22/upload"]);
    assert_eq!(settings.destinations[0].identities, [Path::new("/run/secrets/id_ed25519")]);
    let [reports, logs] = &settings.sources[..] else { panic!("not two sources") };
    assert_eq!((reports.destination, logs.destination), (0, 1));
    assert_eq!(reports.marker.as_deref(), Some("{name}.done"));
    assert_eq!((&reports.after, &logs.after), (&After::Delete, &After::Keep));
    assert_eq!(logs.paths, [place.dir.path().join("logs")]);
}

/// Each row: what is said for `after` by flag, variable, file and the source itself, and what then holds.
#[test]
fn flags_go_before_the_environment_before_the_file_before_the_default() {
    for (flag, variable, top, own, holds) in [
        ("delete", "keep", "keep", "keep", "delete"),
        ("", "delete", "keep", "keep", "delete"),
        ("", "", "keep", "delete", "delete"),
        ("", "", "delete", "", "delete"),
        ("", "", "", "delete", "delete"),
        ("keep", "delete", "delete", "delete", "keep"),
        ("", "", "", "", "keep"),
    ] {
        let line = |text: &str| if text.is_empty() { String::new() } else { format!("after = '{text}'\n") };
        let place = Place::new(&[("ARCHIVER_AFTER", variable)]).file(&format!(
            "{}{DESTINATION}{SOURCE}{}",
            line(top),
            line(own)
        ));
        let arguments = if flag.is_empty() { vec!["watch"] } else { vec!["watch", "--after", flag] };
        assert_eq!(place.settings(&arguments).sources[0].after.to_string(), holds, "{flag} {variable} {top} {own}");
    }
}

#[test]
fn a_list_of_sources_replaces_a_weaker_one() {
    let place = Place::new(&[("ARCHIVER_SOURCE", "name=env,path=/env")]).file(&format!("{DESTINATION}{SOURCE}"));
    let names = |settings: Settings| settings.sources.into_iter().map(|source| source.name).collect::<Vec<_>>();
    assert_eq!(names(place.settings(&["watch"])), ["env"]);
    let flags = ["watch", "--source", "name=a,path=/a", "--source", "name=b,path=/b,after=delete"];
    assert_eq!(names(place.settings(&flags)), ["a", "b"]);
    assert_eq!(names(place.settings(&["watch", "dir"])), [""]);
    assert_eq!(place.settings(&flags).sources[1].after, After::Delete);
}

#[test]
fn the_environment_sets_keys_of_single_sources() {
    let place = Place::new(&[
        ("ARCHIVER_SOURCE__0__AFTER", "delete"),
        ("ARCHIVER_SOURCE__1__NAME", "more"),
        ("ARCHIVER_SOURCE__1__PATHS", "/a;/b"),
        ("ARCHIVER_SOURCE__1__DESTINATION__URL", "sftp://h/more"),
    ])
    .file(&format!("{DESTINATION}{SOURCE}"));
    let settings = place.settings(&["watch"]);
    assert_eq!((settings.sources[0].name.as_str(), &settings.sources[0].after), ("reports", &After::Delete));
    assert_eq!(settings.sources[1].paths, [Path::new("/a"), Path::new("/b")]);
    assert_eq!(settings.destinations[settings.sources[1].destination].url.to_string(), "sftp://h/more");

    let gap = Place::new(&[("ARCHIVER_SOURCE__1__PATHS", "/a")]).mistakes(&["check", "-t", "sftp://h/"]);
    insta::assert_snapshot!(gap, @"ARCHIVER_SOURCE__1__PATHS: there is no source 0; sources are numbered from 0 without gaps");
}

/// A value other than the default for each key, as a variable has it.
fn another_value(name: &str, kind: Kind) -> &'static str {
    match name {
        "include" | "exclude" => "*.{csv,txt};b*",
        "marker" => "_SUCCESS",
        "after" => "delete",
        "after-failure" => "move=/quarantine",
        "destination.url" => "sftp://h/x",
        "destination.host-key" => "accept-new",
        "destination.layout" => "%Y",
        "destination.date-from" => "modified",
        "destination.timezone" => "Europe/Berlin",
        "destination.publish" => "direct",
        "destination.verify" => "readback",
        "destination.on-conflict" => "fail",
        "destination.fsync" => "always",
        "destination.password" => "hunter2",
        "source.transform" => "none",
        "ledger.dedupe" => "content",
        "ledger.lease" => "7s",
        "ledger.prefix" => "another",
        "log.format" => "json",
        "log.level" => "trace",
        "output.summary" => "csv",
        "output.progress" => "never",
        "metrics.listen" => "127.0.0.1:9090",
        "pool.limit-rate" => "1MiB",
        "watch.watcher" => "poll",
        "run.on-failure" => "exit",
        _ if kind == Kind::Integer || matches!(kind, Kind::IntegerOr(_)) => "7",
        "settle" | "retry.initial-backoff" | "retry.max-backoff" => "7s",
        _ if name.ends_with("timeout") || name.ends_with("interval") || name.starts_with("shutdown") => "7s",
        "pool.keepalive" | "ledger.retention" | "watch.idle-exit" => "7s",
        _ => "/some/path",
    }
}

#[test]
fn every_key_has_a_variable_that_sets_it() {
    for key in KEYS {
        let value = another_value(key.name, key.kind);
        for variable in [Some(key.variable()), key.short_variable.map(str::to_owned)].into_iter().flatten() {
            let place = Place::new(&[(&variable, value)]);
            let place = if key.scope() == Scope::Source { place.file(SOURCE) } else { place };
            let resolved = place.resolve(&["config", "show"]).unwrap_or_else(|errors| panic!("{variable}: {errors}"));
            let values =
                if key.scope() == Scope::Source { &resolved.merged.sources[0] } else { &resolved.merged.values };
            assert_eq!(values[key.name].origin.to_string(), variable);
            assert_eq!(resolved.warnings, [""; 0]);
        }
    }
}

#[test]
fn an_unknown_variable_is_a_warning() {
    let place = Place::new(&[
        ("ARCHIVER_DESTINATION__ULR", "hunter2"),
        ("ARCHIVER_SORCE", "hunter2"),
        ("ARCHIVER_XYZZY", "hunter2"),
        ("ARCHIVER_SOURCE__X__NAME", "hunter2"),
        // What Kubernetes sets beside a Service of that name.
        ("ARCHIVER_PORT", "tcp://10.0.0.1:22"),
        ("ARCHIVER_PORT_22_TCP", "tcp://10.0.0.1:22"),
        ("ARCHIVER_PORT_22_TCP_ADDR", "10.0.0.1"),
        ("ARCHIVER_SERVICE_HOST", "10.0.0.1"),
        ("ARCHIVER_SERVICE_PORT_SSH", "22"),
        ("ARCHIVER_MARKER", ""),
    ]);
    let warnings = place.resolve(&["push", "-t", "sftp://h/", "x"]).unwrap().warnings.join("\n");
    insta::assert_snapshot!(warnings, @r"
        ARCHIVER_DESTINATION__ULR is no variable of archiver and has no effect; did you mean ARCHIVER_DESTINATION__URL?
        ARCHIVER_SORCE is no variable of archiver and has no effect; did you mean ARCHIVER_SOURCE?
        ARCHIVER_SOURCE__X__NAME is no variable of archiver and has no effect; did you mean ARCHIVER_SOURCE__0__NAME?
        ARCHIVER_XYZZY is no variable of archiver and has no effect
    ");
}

#[test]
fn several_mistakes_are_reported_together() {
    let place = Place::new(&[("ARCHIVER_SETTLE", "5"), ("ARCHIVER_HOST_KEY", "lax")]).file(
        r#"identity = "id"
[destination]
ulr = "sftp://h/"
url = "ftp://h/"
hots-key = "strict"
password = "hunter2"
layout = "/%Y"
[[source]]
name = "a"
path = ["/a"]
include = ["a["]
marker = "{file}.done"
settle = 2
[retry]
max-attempts = "8"
initial-backoff = "soon"
[metrics]
listen = "0.0.0.0:9090"
[pool]
jobs = 0
[sorce]
"#,
    );
    insta::assert_snapshot!(place.mistakes(&["watch", "--after", "archive", "--source", "nam=b"]), @r#"
        the configuration has 19 mistakes:
          archiver.toml:1: identity: unknown key; did you mean `destination.identity`?
          archiver.toml:3: destination.ulr: unknown key; did you mean `url`?
          archiver.toml:4: destination.url: the scheme `ftp` is not supported; write sftp://user@host/absolute/directory, or sftp://user@host/~/directory for one below the login directory
          archiver.toml:5: destination.hots-key: unknown key; did you mean `host-key`?
          archiver.toml:6: destination.password: a password is never read from here, as it would show; write it to a file and name that with password-file, or set ARCHIVER_PASSWORD
          archiver.toml:7: destination.layout: `/%Y` does not stay below the base; it must be relative, without `.` and `..`
          archiver.toml:10: source.path: unknown key; did you mean `paths`?
          archiver.toml:11: include: `a[` is no glob: unclosed character class; missing ']'; `\` takes a special meaning away
          archiver.toml:12: marker: `{file}.done` has a placeholder other than `{name}` and `{stem}`; write `{name}.done`, `{stem}.ok`, a fixed name such as `_SUCCESS`, or `none`
          archiver.toml:13: source.settle: expected a string, as in "30s", not an integer
          archiver.toml:15: retry.max-attempts: expected an integer, not a string
          archiver.toml:16: retry.initial-backoff: `soon` is no duration; write it with its unit, as in `250ms`, `2s`, `5m` or `1h 30m`
          archiver.toml:20: pool.jobs: `0` is neither `auto` nor a whole number from 1 to 65535
          archiver.toml:21: sorce: unknown key; did you mean `source`?
          ARCHIVER_HOST_KEY: `lax` is not one of `strict`, `accept-new`, `SHA256:…`
          ARCHIVER_SETTLE: `5` is no duration; write it with its unit, as in `250ms`, `2s`, `5m` or `1h 30m`
          --source: nam: unknown key; did you mean `name`?
          --after: `archive` is not one of `keep`, `delete`, `move=DIR`
          a source has no paths; write paths = ["/a/directory"], or path=/a/directory in a spec
    "#);
}

#[test]
fn what_is_missing_is_named_with_every_way_to_give_it() {
    insta::assert_snapshot!(Place::new(&[]).mistakes(&["push", "x"]), @r#"no destination: give --to sftp://user@host/dir, set ARCHIVER_TO, or write url = "sftp://user@host/dir" below [destination] in archiver.toml"#);
    insta::assert_snapshot!(Place::new(&[]).mistakes(&["watch"]), @r#"
        the configuration has 2 mistakes:
          nothing to watch: give a directory or --source SPEC, set ARCHIVER_SOURCE, or write a [[source]] in archiver.toml
          no destination: give --to sftp://user@host/dir, set ARCHIVER_TO, or write url = "sftp://user@host/dir" below [destination] in archiver.toml
    "#);
    insta::assert_snapshot!(Place::new(&[]).mistakes(&["push", "-t", "sftp://h/"]), @"nothing to push: give a PATH, --files-from FILE or --source SPEC, set ARCHIVER_SOURCE, or write a [[source]] in archiver.toml");
    insta::assert_snapshot!(Place::new(&[]).file("[[source]]\nname = 'a'\n").mistakes(&["watch", "-t", "sftp://h/"]), @r#"archiver.toml:2: the source `a` has no paths; write paths = ["/a/directory"], or path=/a/directory in a spec"#);
    let homeless = Place { environment: Environment::with([]), ..Place::new(&[]) };
    insta::assert_snapshot!(homeless.mistakes(&["push", "-t", "sftp://h/", "x"]), @"no place for the ledger, as neither HOME nor XDG_STATE_HOME is set: give --ledger FILE, or set ARCHIVER_LEDGER");
}

#[test]
fn conflicts_are_mistakes() {
    let to = ["-t", "sftp://h/"];
    let both = ["push", "--source", "name=a,path=/a", "x"];
    insta::assert_snapshot!(Place::new(&[]).mistakes(&[&both[..], &to].concat()), @"PATH arguments (or --files-from) and --source exclude each other; give one of them");
    let list = ["push", "--files-from", "-", "a", "b"];
    insta::assert_snapshot!(Place::new(&[]).mistakes(&[&list[..], &to].concat()), @"--files-from takes at most one PATH, the directory that the listed files are below");
    let passwords = Place::new(&[("ARCHIVER_PASSWORD", "hunter2"), ("ARCHIVER_PASSWORD_FILE", "/p")]);
    insta::assert_snapshot!(passwords.mistakes(&[&["push", "x"][..], &to].concat()), @"ARCHIVER_PASSWORD_FILE: ARCHIVER_PASSWORD gives a password too; keep one of them");
    let twice = Place::new(&[("ARCHIVER_TO", "sftp://a/"), ("ARCHIVER_DESTINATION__URL", "sftp://b/")]);
    insta::assert_snapshot!(twice.mistakes(&["push", "x"]), @"ARCHIVER_TO: ARCHIVER_DESTINATION__URL sets the same key to something else; keep one");
    let names = Place::new(&[]).file(&format!("{DESTINATION}{SOURCE}{SOURCE}"));
    insta::assert_snapshot!(names.mistakes(&["watch"]), @"archiver.toml:7: source.name: another source is called `reports` too; give each its own name");
    let backoff = Place::new(&[]).file(&format!("{DESTINATION}[retry]\ninitial-backoff = '1m'"));
    insta::assert_snapshot!(backoff.mistakes(&["push", "x"]), @"archiver.toml:4: retry.initial-backoff: the initial backoff (60s) exceeds the longest one (30s)");
}

#[test]
fn a_password_file_on_the_command_line_goes_before_the_environment() {
    let place = Place::new(&[("ARCHIVER_PASSWORD", "hunter2")]).file("[destination]\npassword-file = 'p'\n");
    let destination = |arguments: &[&str]| place.settings(arguments).destinations.remove(0);
    let environment = destination(&["push", "-t", "sftp://h/", "x"]);
    assert_eq!((environment.password, environment.password_file), (Some(Secret::new("hunter2")), None));
    let flag = destination(&["push", "-t", "sftp://h/", "--password-file", "q", "x"]);
    assert_eq!((flag.password, flag.password_file), (None, Some("q".into())));
}

#[test]
fn moving_files_to_where_they_are_found_again_is_refused() {
    let place = Place::new(&[]);
    let push = |after: &'static str| ["push", "-t", "sftp://h/", "/a", "--after", after];
    insta::assert_snapshot!(place.mistakes(&push("move=/a/done")), @"--after: /a/done lies below /a, so files moved there would be found again; move them elsewhere, into a hidden directory, or exclude it");
    insta::assert_snapshot!(place.mistakes(&push("move=")), @"--after: `move=` needs a directory, as in `move=/var/archived`");
    insta::assert_snapshot!(place.mistakes(&push("move")), @"--after: `move` is not one of `keep`, `delete`, `move=DIR`");
    let settings = place.settings(&push("move=/a/.done"));
    assert_eq!(settings.sources[0].after, After::Move("/a/.done".into()));
    let beside = Place::new(&[]).file(&format!("after = 'move=done'\n{DESTINATION}{SOURCE}"));
    assert_eq!(beside.settings(&["watch"]).sources[0].after, After::Move(beside.dir.path().join("done")));
}

#[test]
fn malformed_values_are_refused_wherever_they_stand() {
    let mistakes = |arguments: &[&str]| Place::new(&[]).mistakes(&[&["push", "x"], arguments].concat());
    let to = ["--to", "sftp://h/"];
    insta::assert_snapshot!(mistakes(&["--to", "pine@host:in"]), @"--to: it has no scheme; did you mean sftp://pine@host/~/in?");
    insta::assert_snapshot!(mistakes(&[&to[..], &["--ledger", "redis://:hunter2@cache"]].concat()), @"--ledger: it contains a password, which would show in process lists, or to whoever reads the file; leave it out, and use ledger.password-file or ARCHIVER_LEDGER_PASSWORD, or give the whole URL as ARCHIVER_LEDGER");
    let malformed = mistakes(&[&to[..], &["--ledger", "redis://:hunter2@cache:port"]].concat());
    assert!(
        malformed.starts_with("--ledger: it has a host or port that cannot be one; ") && !malformed.contains("hunter2")
    );
    insta::assert_snapshot!(mistakes(&[&to[..], &["--retries", "0", "--limit-rate", "fast", "--jobs", "70000"]].concat()), @r"
        the configuration has 3 mistakes:
          --jobs: `70000` is neither `auto` nor a whole number from 1 to 65535
          --limit-rate: `fast` is no rate; write bytes a second, as in `20MiB` or `500kB`
          --retries: `0` is no number of attempts; write 1 or more, as in 8
    ");
    insta::assert_snapshot!(mistakes(&[&to[..], &["--timezone", "Mars/Olympus", "--host-key", "SHA256:x"]].concat()), @r"
        the configuration has 2 mistakes:
          --host-key: `SHA256:x` is no SHA-256 fingerprint; `ssh-keygen -lf KEY.pub` prints one
          --timezone: `Mars/Olympus` is neither `UTC`, `local` nor a zone of the IANA database such as `Europe/Berlin`
    ");
}

#[test]
fn a_malformed_value_is_a_mistake_even_where_a_stronger_one_hides_it() {
    let place = Place::new(&[("ARCHIVER_LAYOUT", "/%Y")]);
    let mistakes = place.mistakes(&["push", "-t", "sftp://h/", "--layout", "%Y", "x"]);
    assert!(mistakes.starts_with("ARCHIVER_LAYOUT: `/%Y` does not stay below the base"), "{mistakes}");
}

#[test]
fn a_password_in_a_url_is_refused_and_not_repeated() {
    for url in ["sftp://pine:hunter2@h/x", "pine:hunter2@h:/x", "sftp://pine:hunter2@h:99999/", "ftp://pine:hunter2@h/"]
    {
        let flag = Place::new(&[]).mistakes(&["push", "--to", url, "x"]);
        let variable = Place::new(&[("ARCHIVER_TO", url)]).mistakes(&["config", "show"]);
        let spec = Place::new(&[]).mistakes(&["watch", "--source", &format!("name=a,path=/a,destination.url={url}")]);
        let file = Place::new(&[]).file(&format!("[destination]\nurl = '{url}'\n")).mistakes(&["push", "x"]);
        for mistakes in [flag, variable, spec, file] {
            assert!(!mistakes.contains("hunter2"), "{mistakes}");
        }
    }
}

#[test]
fn sources_in_one_variable_are_separated_by_semicolons_or_lines() {
    let specs = "name=a,path=/a;name=b,path=/b,include=*.{x,y}\n name=c,path=/c\\;d,destination.url=sftp://h/c\n";
    let place = Place::new(&[
        ("ARCHIVER_SOURCE", specs),
        ("ARCHIVER_TO", "sftp://h/"),
        ("ARCHIVER_SOURCE__2__DESTINATION__PASSWORD", "hunter2"),
    ]);
    let settings = place.settings(&["watch"]);
    let sources: Vec<_> =
        settings.sources.iter().map(|source| (source.name.as_str(), source.paths[0].as_path())).collect();
    assert_eq!(sources, [("a", Path::new("/a")), ("b", Path::new("/b")), ("c", Path::new("/c;d"))]);
    assert_eq!(settings.sources[1].include, ["*.{x,y}"]);
    let passwords: Vec<_> =
        settings.sources.iter().map(|source| &settings.destinations[source.destination].password).collect();
    assert_eq!(passwords, [&None, &None, &Some(Secret::new("hunter2"))]);
}

#[test]
fn paths_in_the_home_directory_are_found_there() {
    let place =
        Place::new(&[("ARCHIVER_IDENTITY", "~/.ssh/archive")]).file("[destination]\npassword-file = '~/secret'\n");
    let destination = place.settings(&["push", "-t", "sftp://h/", "x"]).destinations.remove(0);
    assert_eq!(destination.identities, [Path::new("/home/pine/.ssh/archive")]);
    assert_eq!(destination.password_file.as_deref(), Some(Path::new("/home/pine/secret")));
}

#[test]
fn a_file_that_is_no_toml_is_located() {
    let place = Place::new(&[]).file("[destination]\nurl = \"sftp://h/\npassword = hunter2\n");
    let mistakes = place.mistakes(&["push", "x"]);
    insta::assert_snapshot!(mistakes, @r#"
        the configuration has 2 mistakes:
          archiver.toml:2: column 17: not valid TOML: invalid basic string, expected `"`
          archiver.toml:3: column 12: not valid TOML: string values must be quoted, expected literal string
    "#);
    assert!(!mistakes.contains("hunter2"));
}

#[test]
fn a_file_that_was_asked_for_must_exist() {
    let place = Place::new(&[]);
    insta::assert_snapshot!(place.mistakes(&["push", "-c", "/nonexistent/a.toml", "x"]), @"--config: cannot read the configuration file /nonexistent/a.toml: No such file or directory (os error 2); `archiver config init` prints one to start from");
    let variable = Place::new(&[("ARCHIVER_CONFIG", "/nonexistent/a.toml")]);
    insta::assert_snapshot!(variable.mistakes(&["push", "x"]), @"ARCHIVER_CONFIG: cannot read the configuration file /nonexistent/a.toml: No such file or directory (os error 2); `archiver config init` prints one to start from");
    let directory = Place::new(&[]);
    std::fs::create_dir(directory.path()).unwrap();
    insta::assert_snapshot!(directory.mistakes(&["push", "x"]), @"cannot read the configuration file archiver.toml: Is a directory (os error 21); make it readable, or name another with --config");
}

#[test]
fn the_first_file_of_the_search_order_is_read() {
    let mut place = Place::new(&[]);
    let xdg = place.dir.path().join("config");
    place.environment = Environment::with([("XDG_CONFIG_HOME", xdg.to_str().unwrap())]);
    place.environment.directory = place.dir.path().to_owned();
    place.environment.system_file = place.dir.path().join("system.toml");
    let found = |place: &Place| place.resolve(&["config", "show"]).unwrap().file;
    assert_eq!(found(&place), None);
    std::fs::write(&place.environment.system_file, "").unwrap();
    assert_eq!(found(&place), Some(place.environment.system_file.clone()));
    std::fs::create_dir_all(xdg.join("archiver")).unwrap();
    std::fs::write(xdg.join("archiver/archiver.toml"), "").unwrap();
    assert_eq!(found(&place), Some(xdg.join("archiver/archiver.toml")));
    let place = place.file("");
    assert_eq!(found(&place), Some(place.path()));
}

#[test]
fn show_names_the_origin_of_each_value_and_no_secret() {
    let place = Place::new(&[("ARCHIVER_PASSWORD", "hunter2"), ("ARCHIVER_LAYOUT", "%Y")])
        .file(&format!("{DESTINATION}date-from = 'modified'\n{SOURCE}destination.verify = 'readback'\n"));
    let resolved = place.resolve(&["config", "show", "--to", "sftp://h/"]).unwrap();
    let shown = |format| {
        let mut out = Vec::new();
        show::write(&resolved, format, &mut out).unwrap();
        String::from_utf8(out).unwrap().replace(&format!("{}/", place.dir.path().display()), "")
    };
    let toml = shown(ShowFormat::Toml);
    for line in [
        "url = \"sftp://h/\" # --to",
        "date-from = \"modified\" # archiver.toml:3",
        "layout = \"%Y\" # ARCHIVER_LAYOUT",
        "# password = (set) # ARCHIVER_PASSWORD",
        "verify = \"size\" # default",
        "destination.verify = \"readback\" # archiver.toml:7",
        "# identity = # default: the agent, then ~/.ssh/id_*",
        "settle = \"2s\" # default: 2s for watch, 0s for push",
    ] {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(toml.lines().any(|shown| words(shown) == words(line)), "{line} is not in\n{toml}");
    }
    let json: serde_json::Value = serde_json::from_str(&shown(ShowFormat::Json)).unwrap();
    assert_eq!(json["values"]["destination.url"], serde_json::json!({"value": "sftp://h/", "origin": "--to"}));
    assert_eq!(json["values"]["destination.password"]["value"], "(set)");
    assert_eq!(json["values"]["retry.max-attempts"]["value"], 8);
    assert_eq!(json["sources"][0]["paths"]["value"][0], "/var/reports");
    for text in [toml, json.to_string(), format!("{resolved:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    assert_eq!(resolved.settings.destinations[0].date_from, DateFrom::Modified);
}

#[test]
fn what_show_prints_can_be_read_again() {
    let place = Place::new(&[]).file(&format!("{DESTINATION}{SOURCE}"));
    let mut out = Vec::new();
    show::write(&place.resolve(&["config", "show"]).unwrap(), ShowFormat::Toml, &mut out).unwrap();
    let again = Place::new(&[]).file(std::str::from_utf8(&out).unwrap());
    let first = format!("{:?}", place.settings(&["watch"]));
    assert_eq!(first, format!("{:?}", again.settings(&["watch"])));
}

#[test]
fn the_commented_file_is_valid_as_it_is_and_with_every_comment_removed() {
    let mut out = Vec::new();
    config::init::write(&mut out).unwrap();
    let commented = String::from_utf8(out).unwrap();
    Place::new(&[]).file(&commented).settings(&["push", "-t", "sftp://h/", "x"]);
    let head = commented.find("\n# include").unwrap();
    let uncommented: String = commented[head..]
        .lines()
        .filter(|line| !line.starts_with("# Where") && !line.starts_with("# of each"))
        .map(|line| {
            let line =
                line.strip_prefix("# ").filter(|line| line.starts_with('[') || line.contains(" = ")).unwrap_or(line);
            format!("{line}\n")
        })
        .collect();
    let resolved = Place::new(&[])
        .file(&uncommented)
        .resolve(&["watch"])
        .unwrap_or_else(|errors| panic!("{errors}\n{uncommented}"));
    for key in KEYS.iter().filter(|key| key.kind != Kind::Secret) {
        let values = if key.scope() == Scope::Source { &resolved.merged.sources[0] } else { &resolved.merged.values };
        assert!(values[key.name].origin.to_string().contains("archiver.toml:"), "{} is not in it", key.name);
    }
}

#[test]
fn the_schema_has_every_key_and_refuses_others() {
    let mut out = Vec::new();
    config::schema::write(&mut out).unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&out).unwrap();
    for key in KEYS.iter().filter(|key| key.kind != Kind::Secret) {
        let pointer = match key.name.strip_prefix("source.") {
            Some(name) => format!("/properties/source/items/properties/{name}"),
            None => format!("/properties/{}", key.name.replace('.', "/properties/")),
        };
        assert!(schema.pointer(&pointer).is_some(), "{pointer}");
    }
    assert_eq!(schema["properties"]["destination"]["additionalProperties"], false);
    assert!(schema.pointer("/properties/source/items/properties/destination/properties/url").is_some());
    assert_eq!(schema.pointer("/properties/destination/properties/password"), None);
}

#[test]
fn logs_of_commands_without_a_configuration_follow_flags_and_environment() {
    let log = |arguments: &[&str], variables: &[(&str, &str)]| {
        let Command::Serve(args) =
            Cli::parse_from_arguments(["archiver", "serve"].iter().chain(arguments)).unwrap().command
        else {
            panic!("not serve")
        };
        config::resolve_log(&args.log.layer(), &Environment::with(variables.iter().copied()), CommandKind::Serve)
    };
    assert_eq!(log(&[], &[]).unwrap().filter, "warn,archiver=info");
    assert_eq!(log(&["-q"], &[]).unwrap().filter, "error");
    assert_eq!(log(&["-vv"], &[]).unwrap().filter, "warn,archiver=trace");
    let json = log(&["--log-format", "json"], &[("ARCHIVER_LOG", "trace")]).unwrap();
    assert_eq!((json.filter.as_str(), json.format), ("trace", LogFormat::Json));
    insta::assert_snapshot!(log(&[], &[("ARCHIVER_LOG", "archiver=loud")]).unwrap_err(), @r#"ARCHIVER_LOG: `archiver=loud` is no log filter (error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5); write a level such as `info`, or `warn,archiver=debug`"#);
}
