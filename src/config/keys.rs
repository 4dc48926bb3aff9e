//! The table of all keys, in the order in which people read them.

use super::check;
use super::key::{Key, Kind};
use super::settings::{LogFormat, OnFailure, ProgressMode, SummaryFormat, WatcherKind};
use crate::domain::{
    After, AfterFailure, DateFrom, Dedupe, DestinationUrl, Fsync, HostKeyPolicy, Layout, OnConflict, Publish, Timezone,
    Verify,
};

/// Every key there is.
pub static KEYS: &[Key] = &[
    // The top level: what holds for every source that does not say otherwise, and for paths given on a command line.
    Key::new("include", "GLOB", "Archive only files whose path below the source matches one of these globs")
        .kind(Kind::List)
        .flag("--include")
        .unset("all files that are not excluded")
        .example(r#"["**/*.csv"]"#)
        .check(check::include),
    Key::new("exclude", "GLOB", "Leave out files whose path below the source matches; an include that matches wins")
        .kind(Kind::List)
        .flag("--exclude")
        .unset("hidden files and names in flight (*.tmp, *.part, *.partial, *.filepart, *.crdownload, *.swp, *~)")
        .example(r#"["scratch/**"]"#)
        .check(check::exclude),
    Key::new("marker", "PATTERN", "A file is finished only when this companion file stands: {name}.done, {stem}.ok, or a fixed name such as _SUCCESS for its whole directory; `none` for no marker")
        .flag("--marker")
        .example(r#""{name}.done""#)
        .check(|text| check::marker(text).map(drop)),
    Key::new("settle", "DURATION", "A file is finished only when it did not change for so long while we looked")
        .flag("--settle")
        .depends("2s for watch, 0s for push")
        .example(r#""2s""#)
        .check(|text| check::duration(text).map(drop)),
    Key::new("after", "ACTION", "What happens to the local file once it is archived: keep, delete or move=DIR")
        .flag("--after")
        .default("keep")
        .parsed::<After>(),
    Key::new("after-failure", "ACTION", "What happens to the local file once its retries are used up: keep or move=DIR")
        .flag("--after-failure")
        .default("keep")
        .parsed::<AfterFailure>(),
    Key::new("destination.url", "URL", "Where files go: sftp://[user@]host[:port]/absolute/base, or …/~/relative/to/login/dir")
        .flag("--to")
        .short("ARCHIVER_TO")
        .example(r#""sftp://pine@sftp.example.com/upload""#)
        .parsed::<DestinationUrl>(),
    Key::new("destination.identity", "FILE", "Private keys to authenticate with")
        .kind(Kind::List)
        .flag("--identity")
        .short("ARCHIVER_IDENTITY")
        .unset("the agent, then ~/.ssh/id_*")
        .example(r#""/run/secrets/id_ed25519""#)
        .check(check::path),
    Key::new("destination.passphrase-file", "FILE", "File whose first line is the passphrase of the private keys")
        .flag("--passphrase-file")
        .example(r#""/run/secrets/passphrase""#)
        .check(check::path),
    Key::new("destination.certificate", "FILE", "OpenSSH certificates of the private keys")
        .kind(Kind::List)
        .flag("--certificate")
        .unset("<identity>-cert.pub where it exists")
        .example(r#""/run/secrets/id_ed25519-cert.pub""#)
        .check(check::path),
    Key::new("destination.password", "SECRET", "Password to authenticate with; from the environment only, as a file or a command line would show it")
        .kind(Kind::Secret)
        .short("ARCHIVER_PASSWORD"),
    Key::new("destination.password-file", "FILE", "File whose first line is the password to authenticate with; ARCHIVER_PASSWORD holds the password itself")
        .flag("--password-file")
        .short("ARCHIVER_PASSWORD_FILE")
        .example(r#""/run/secrets/password""#)
        .check(check::path),
    Key::new("destination.known-hosts", "FILE", "Files with the host keys that are known")
        .kind(Kind::List)
        .flag("--known-hosts")
        .short("ARCHIVER_KNOWN_HOSTS")
        .unset("~/.ssh/known_hosts, /etc/ssh/ssh_known_hosts")
        .example(r#""/run/secrets/known_hosts""#)
        .check(check::path),
    Key::new("destination.host-key", "POLICY", "Which host keys are accepted: strict (known ones), accept-new (also unknown ones, never changed ones), or one fingerprint SHA256:…")
        .flag("--host-key")
        .short("ARCHIVER_HOST_KEY")
        .default("strict")
        .parsed::<HostKeyPolicy>(),
    Key::new("destination.ssh-config", "FILE", "OpenSSH client configuration to follow; `none` for none")
        .flag("--ssh-config")
        .unset("~/.ssh/config")
        .example(r#""none""#)
        .check(check::path),
    Key::new("destination.layout", "FORMAT", "Directory below the base: strftime, plus {source} and {hostname}")
        .flag("--layout")
        .short("ARCHIVER_LAYOUT")
        .default("%Y/%m/%d")
        .parsed::<Layout>(),
    Key::new("destination.date-from", "INSTANT", "Which instant the directory is named for: the claim of the file, or its modification")
        .flag("--date-from")
        .default("claim")
        .choice::<DateFrom>(&["claim", "modified"]),
    Key::new("destination.timezone", "ZONE", "Whose midnight starts a new directory: UTC, local, or an IANA name such as Europe/Berlin")
        .flag("--timezone")
        .default("UTC")
        .parsed::<Timezone>(),
    Key::new("destination.publish", "HOW", "How the final name appears: by rename, or written directly for servers that cannot rename (readers can then see a partial file)")
        .flag("--publish")
        .default("rename")
        .choice::<Publish>(Publish::NAMES),
    Key::new("destination.verify", "CHECK", "How an upload is checked before its final name appears: by size, by reading it back, or not at all")
        .flag("--verify")
        .default("size")
        .choice::<Verify>(Verify::NAMES),
    Key::new("destination.on-conflict", "POLICY", "What to do where other bytes already have the name; the same bytes always count as archived; overwrite needs publish = rename")
        .flag("--on-conflict")
        .default("rename")
        .choice::<OnConflict>(OnConflict::NAMES),
    Key::new("destination.fsync", "WHEN", "Whether the server must have the bytes on its disk before the commit; auto: where the local file is deleted or moved afterwards")
        .flag("--fsync")
        .default("auto")
        .choice::<Fsync>(Fsync::NAMES),
    Key::new("source.name", "NAME", "Name of the source, in summaries, in {source} and in the ledger; must not change later")
        .unset("none; the ledger then goes by absolute paths")
        .example(r#""reports""#)
        .check(check::source_name),
    Key::new("source.paths", "PATH", "Directories and single files")
        .kind(Kind::List)
        .unset("none; each source needs one")
        .example(r#"["/var/pine/reports"]"#)
        .check(check::path),
    Key::new("source.transform", "TRANSFORM", "What is done to the bytes on their way; this version has only none")
        .default("none")
        .words(&["none"], |text| check::only("none", text)),
    Key::new("retry.max-attempts", "N", "Attempts for one file before it counts as failed")
        .kind(Kind::Integer)
        .flag("--retries")
        .default("8")
        .check(|text| check::attempts(text).map(drop)),
    Key::new("retry.initial-backoff", "DURATION", "Longest pause before the second attempt; doubled for each further one, drawn at random up to that")
        .default("500ms")
        .check(|text| check::interval(text).map(drop)),
    Key::new("retry.max-backoff", "DURATION", "Longest pause between attempts")
        .default("30s")
        .check(|text| check::interval(text).map(drop)),
    Key::new("pool.connections", "N", "SSH connections; `auto` grows and shrinks with the work and the server")
        .kind(Kind::IntegerOr("auto"))
        .flag("--connections")
        .default("auto")
        .check(|text| check::count_or_auto(text).map(drop)),
    Key::new("pool.jobs", "N", "Files in flight to each destination; `auto` follows the round trip time")
        .kind(Kind::IntegerOr("auto"))
        .flag("--jobs")
        .default("auto")
        .check(|text| check::count_or_auto(text).map(drop)),
    Key::new("pool.limit-rate", "RATE", "Bytes a second, all connections together, as in 20MiB; `none` for no limit")
        .flag("--limit-rate")
        .default("none")
        .check(|text| check::optional_rate(text).map(drop)),
    Key::new("pool.connect-timeout", "DURATION", "Longest time for a connection to be made and authenticated")
        .default("15s")
        .check(|text| check::interval(text).map(drop)),
    Key::new("pool.request-timeout", "DURATION", "Longest silence of a server that owes a reply")
        .default("30s")
        .check(|text| check::interval(text).map(drop)),
    Key::new("pool.keepalive", "DURATION", "Interval of SSH keepalives; three without an answer end a connection")
        .default("15s")
        .check(|text| check::interval(text).map(drop)),
    Key::new("ledger.url", "URL", "Where the ledger is: a file on a local disk (SQLite), or redis://[user@]host[:port][/database], rediss://… (TLS) or redis+sentinel://host,host/master for one that several hosts share")
        .flag("--ledger")
        .short("ARCHIVER_LEDGER")
        .depends("$XDG_STATE_HOME/archiver/ledger.db, else ~/.local/state/archiver/ledger.db")
        .example(r#""/var/lib/archiver/ledger.db""#)
        .check(check::ledger),
    Key::new("ledger.password", "SECRET", "Password of a Redis ledger; from the environment only, as a file or a command line would show it")
        .kind(Kind::Secret)
        .short("ARCHIVER_LEDGER_PASSWORD"),
    Key::new("ledger.password-file", "FILE", "File whose first line is the password of a Redis ledger, read at each connection; ARCHIVER_LEDGER_PASSWORD holds the password itself")
        .flag("--ledger-password-file")
        .short("ARCHIVER_LEDGER_PASSWORD_FILE")
        .example(r#""/run/secrets/redis-password""#)
        .check(check::path),
    Key::new("ledger.ca-file", "FILE", "Certificates (PEM) that a Redis server's is checked against, over TLS")
        .unset("those that the system trusts")
        .example(r#""/run/secrets/redis-ca.pem""#)
        .check(check::path),
    Key::new("ledger.prefix", "NAME", "What the keys of a Redis ledger begin with; one ledger for each volume that is shared")
        .default("archiver")
        .check(|text| check::ledger_prefix(text).map(drop)),
    Key::new("ledger.replicas", "N", "Replicas that must have a change of a Redis ledger before it counts")
        .kind(Kind::Integer)
        .default("0")
        .check(|text| check::replicas(text).map(drop)),
    Key::new("ledger.lease", "DURATION", "How long a claim outlives its process, or a process that is stopped or cut off, before another one takes the file over; with SQLite, a dead process is noticed at once")
        .default("1m")
        .check(|text| check::lease(text).map(drop)),
    Key::new("ledger.retention", "DURATION", "Records older than this are forgotten once their local file is gone")
        .default("90days")
        .check(|text| check::duration(text).map(drop)),
    Key::new("ledger.dedupe", "HOW", "What becomes of a file whose bytes are archived at its destination already, under any name or date: off archives it again; content skips it, says where the first one stands, and disposes of it as archived")
        .flag("--dedupe")
        .default("off")
        .choice::<Dedupe>(Dedupe::NAMES),
    Key::new("metrics.listen", "ADDR", "Serve metrics, health and a status page over HTTP there: 127.0.0.1:9090, or :9090 for all addresses of this machine; `none` for nowhere")
        .flag("--metrics")
        .short("ARCHIVER_METRICS")
        .default("none")
        .check(|text| check::optional_address(text).map(drop)),
    Key::new("log.format", "FORMAT", "Format of the log on standard error")
        .flag("--log-format")
        .short("ARCHIVER_LOG_FORMAT")
        .default("text")
        .choice::<LogFormat>(LogFormat::NAMES),
    Key::new("log.level", "FILTER", "What is logged: a level, or a filter such as warn,archiver=debug; --quiet and --verbose set it too")
        .short("ARCHIVER_LOG")
        .depends("warn,archiver=info for watch and serve, warn for the others")
        .example(r#""warn,archiver=info""#)
        .check(check::log_filter),
    Key::new("output.summary", "FORMAT", "Format of the summary at the end")
        .flag("--summary")
        .short("ARCHIVER_SUMMARY")
        .default("table")
        .choice::<SummaryFormat>(SummaryFormat::NAMES),
    Key::new("output.summary-file", "FILE", "Write the summary to this file")
        .flag("--summary-file")
        .unset("standard output")
        .example(r#""/var/log/archiver/summary.json""#)
        .check(check::path),
    Key::new("output.summary-rows", "N", "Rows of the summary table, failures first, or `all`; json and csv always have all")
        .kind(Kind::IntegerOr("all"))
        .flag("--summary-rows")
        .default("100")
        .check(|text| check::rows(text).map(drop)),
    Key::new("output.status-file", "FILE", "Keep the live state as JSON in this file, written anew at most once a second")
        .flag("--status-file")
        .short("ARCHIVER_STATUS_FILE")
        .example(r#""/run/archiver/status.json""#)
        .check(check::path),
    Key::new("output.progress", "WHEN", "Progress on standard error; auto: where that is a terminal")
        .flag("--progress")
        .default("auto")
        .choice::<ProgressMode>(ProgressMode::NAMES),
    Key::new("watch.watcher", "KIND", "How changes are noticed; auto: inotify where its events arrive, else polling")
        .flag("--watcher")
        .default("auto")
        .choice::<WatcherKind>(WatcherKind::NAMES),
    Key::new("watch.scan-interval", "DURATION", "Interval of the scan that finds what the watcher missed")
        .flag("--scan-interval")
        .default("5m")
        .check(|text| check::interval(text).map(drop)),
    Key::new("watch.until", "FILE", "Stop and drain when this file appears")
        .flag("--until")
        .example(r#""/var/pine/finished""#)
        .check(check::path),
    Key::new("watch.idle-exit", "DURATION", "Stop when nothing happened for so long; `none` for never")
        .flag("--idle-exit")
        .default("none")
        .check(|text| check::optional_interval(text).map(drop)),
    Key::new("shutdown.grace", "DURATION", "How long a stop waits for files that are ready or become ready")
        .flag("--grace")
        .default("25s")
        .check(|text| check::duration(text).map(drop)),
    Key::new("shutdown.termination-log", "FILE", "Write one short line of JSON to this file at the end: the exit code, why, and what was left")
        .flag("--termination-log")
        .short("ARCHIVER_TERMINATION_LOG")
        .example(r#""/dev/termination-log""#)
        .check(check::path),
    Key::new("run.on-failure", "ACTION", "What `run` does with its command once archiving has failed for good: nothing, ask it to stop (SIGTERM), or stop it (SIGTERM, and SIGKILL when the grace is over)")
        .flag("--on-failure")
        .default("ignore")
        .choice::<OnFailure>(OnFailure::NAMES),
];
