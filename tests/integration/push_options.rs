//! Options that change how files travel and where they go.

use std::process::Command;

use archiver::embedded::{AnnouncedExtensions, Fault, Operation, Quirks, RenamePolicy, Request};

use super::{Bench, Pushed, set_stamp, stamps};
use crate::support::embedded::Embedded;
use crate::support::env::{TestEnv, noise, write};

#[test]
fn every_way_of_verifying_archives_the_same() {
    for verify in ["size", "readback", "none"] {
        let (bench, _server) = Bench::plain();
        write(&bench.env.local(), "small", "s");
        write(&bench.env.local(), "empty", "");
        write(&bench.env.local(), "large", noise(3 << 20, 1));
        Pushed::run(bench.push([bench.env.local()]).args(["--verify", verify])).expect(0).assert_counts([3, 0, 0, 0]);
        bench.assert_same_files();
    }
}

#[test]
fn readback_notices_a_server_that_lies() {
    let env = TestEnv::new();
    // It takes the first WRITE of every file for granted; the size is right all the same.
    let server = Embedded::with_faults(&env, |request: &Request| match request.operation {
        Operation::Write if request.offset == 0 && request.path.contains("liar") => Fault::Pretend,
        _ => Fault::None,
    });
    let bench = Bench::embedded(env, &server);
    write(&bench.env.local(), "liar", noise(600_000, 1));
    write(&bench.env.local(), "honest", noise(600_000, 2));
    let arguments = ["--verify", "readback", "--retries", "2", "--after", "delete"];
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(arguments)).expect(1);
    pushed.assert_counts([1, 0, 0, 1]);
    assert!(bench.env.local().join("liar").exists());
    assert_eq!(bench.archived().len(), 1);
    bench.assert_no_part();
}

#[test]
fn a_layout_has_dates_source_and_host() {
    let (bench, server) = Bench::plain();
    let path = write(&bench.env.local(), "a", "a");
    set_stamp(&path, 0o644, 1_577_836_799); // 2019-12-31T23:59:59Z
    let spec = format!("name=reports,path={}", bench.env.local().display());
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    for (layout, zone, wanted) in [
        ("{source}/%Y/%j", "UTC", "reports/2019/365".to_owned()),
        ("{hostname}/%Y-%m-%d_%H", "Europe/Berlin", format!("{host}/2020-01-01_00")),
        ("%Y", "local", "2020".into()),
    ] {
        let arguments =
            ["--layout", layout, "--timezone", zone, "--date-from", "modified", "--force", "--source", &spec];
        let mut command = bench.push(arguments);
        command.env("TZ", "Asia/Tokyo");
        let pushed = Pushed::run(&mut command).expect(0);
        assert_eq!(pushed.row("/a")["remote"], format!("{}/{wanted}/a", server.base()));
        assert!(bench.base.join(wanted).join("a").exists());
    }
}

#[test]
fn a_base_that_is_missing_is_made() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), "a", "a");
    let to = format!("{}/made/on the way", bench.to()).replace(' ', "%20");
    Pushed::run(&mut bench.push_to(&to, [bench.env.local()])).expect(0).assert_counts([1, 0, 0, 0]);
    assert_eq!(std::fs::read(bench.base.join("made/on the way/in/a")).unwrap(), b"a");
}

#[test]
fn a_base_below_the_login_directory() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    let bench = Bench::embedded(env, &server);
    write(&bench.env.local(), "a", "a");
    let pushed = Pushed::run(&mut bench.push_to(&server.url("/~/box"), [bench.env.local()])).expect(0);
    assert_eq!(pushed.row("/a")["remote"], "box/in/a");
    assert_eq!(std::fs::read(bench.base.join("box/in/a")).unwrap(), b"a");
}

#[test]
fn one_connection_and_one_job_are_enough() {
    let (bench, server) = Bench::plain();
    for number in 0..30 {
        write(&bench.env.local(), number.to_string(), noise(20_000, number));
    }
    let arguments = ["--connections", "1", "-j", "1"];
    Pushed::run(bench.push([bench.env.local()]).args(arguments)).expect(0).assert_counts([30, 0, 0, 0]);
    bench.assert_same_files();
    assert_eq!(server.log().matches("Accepted publickey").count(), 1);
}

#[test]
fn a_server_with_one_session_and_few_startups_is_enough() {
    let server = crate::support::openssh::OpenSsh::builder().option("MaxSessions 1").option("MaxStartups 1").start();
    let bench = Bench::openssh(&server);
    for number in 0..100 {
        write(&bench.env.local(), number.to_string(), noise(5_000, number));
    }
    bench.push_local().assert_counts([100, 0, 0, 0]);
    bench.assert_same_files();
}

#[test]
fn a_rate_limit_is_kept() {
    let (bench, _server) = Bench::plain();
    for number in 0..4 {
        write(&bench.env.local(), number.to_string(), noise(256 << 10, number));
    }
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(["--limit-rate", "1MiB"])).expect(0);
    bench.assert_same_files();
    // 1 MiB at 1 MiB a second, less what may go in a first burst.
    let seconds = pushed.json["totals"]["seconds"].as_f64().unwrap();
    assert!((0.5..5.0).contains(&seconds), "{seconds} s");
}

#[test]
fn files_are_published_directly_where_a_server_cannot_rename() {
    let env = TestEnv::new();
    let server = Embedded::with_quirks(
        &env,
        Quirks { rename: RenamePolicy::Unsupported, extensions: AnnouncedExtensions::None, ..Quirks::default() },
    );
    let bench = Bench::embedded(env, &server);
    write(&bench.env.local(), "small", "s");
    write(&bench.env.local(), "empty", "");
    write(&bench.env.local(), "d/large", noise(3 << 20, 1));
    write(&bench.base, "in/small", "theirs");
    // By rename it cannot be done, and the message says what can be.
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(["--retries", "3"]));
    assert!(pushed.reason("/empty").contains("publish = \"direct\""), "{}", pushed.finished.stdout);
    bench.assert_no_part();

    let pushed = Pushed::run(bench.push([bench.env.local()]).args(["--publish", "direct"])).expect(0);
    pushed.assert_counts([3, 0, 0, 0]);
    assert_eq!(std::fs::read(bench.base.join("in/small")).unwrap(), b"theirs");
    assert_eq!(bench.archived().len(), 4);
    bench.assert_no_part();
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(["--publish", "direct", "--force"])).expect(0);
    pushed.assert_counts([3, 0, 0, 0]);
    assert_eq!(bench.archived().len(), 4);
}

#[test]
fn a_server_that_replaces_on_rename_loses_nothing() {
    for extensions in [AnnouncedExtensions::All, AnnouncedExtensions::None] {
        replaced_on_rename(extensions);
    }
}

/// With hard links the new name is taken atomically; without, it is looked at first.
fn replaced_on_rename(extensions: AnnouncedExtensions) {
    let env = TestEnv::new();
    let server =
        Embedded::with_quirks(&env, Quirks { rename: RenamePolicy::Overwrites, extensions, ..Quirks::default() });
    let bench = Bench::embedded(env, &server);
    write(&bench.env.local(), "report", "ours");
    write(&bench.env.local(), "other", "o");
    write(&bench.base, "in/report", "theirs");
    bench.push_local().assert_counts([2, 0, 0, 0]);
    assert_eq!(std::fs::read(bench.base.join("in/report")).unwrap(), b"theirs");
    assert_eq!(bench.archived().len(), 3);
    bench.assert_no_part();
}

#[test]
fn a_server_that_keeps_no_times_gets_the_files_and_one_warning() {
    let env = TestEnv::new();
    let quirks = Quirks::default().with("setstat-refused").unwrap().with("no-extensions").unwrap();
    let server = Embedded::with_quirks(&env, quirks);
    let bench = Bench::embedded(env, &server);
    for number in 0..10 {
        write(&bench.env.local(), number.to_string(), noise(40_000, number));
    }
    let pushed = bench.push_local();
    bench.assert_same_files();
    assert_eq!(pushed.finished.stderr.matches("modification times").count(), 1, "{}", pushed.finished.stderr);
}

#[test]
fn modes_and_times_are_kept_but_for_bits_that_mean_something_else_there() {
    let (bench, _server) = Bench::plain();
    let stamped = [
        (0o444, 0, 0o444),
        (0o6755, 1, 0o755),
        (0o1600, 4_000_000_000, 0o600),
        (0o751, 1_600_000_000, 0o751),
        (0o000, 1_700_000_000, 0o400),
    ];
    for (number, (mode, mtime, _)) in stamped.iter().enumerate() {
        let path = write(&bench.env.local(), number.to_string(), number.to_string());
        set_stamp(&path, *mode, *mtime);
    }
    if !crate::support::openssh::is_root() {
        eprintln!("SKIPPED in part: only root reads what nobody may");
        std::fs::remove_file(bench.env.local().join("4")).unwrap();
    }
    bench.push_local();
    for (path, stamp) in stamps(&bench.base.join("in")) {
        let (_, mtime, mode) = stamped[path.to_str().unwrap().parse::<usize>().unwrap()];
        assert_eq!(stamp, (mode, mtime as i64), "{path:?}");
    }
}

#[test]
fn a_configuration_file_can_say_it_all() {
    let (bench, server) = Bench::plain();
    write(&bench.env.local(), "reports/a.csv", "a");
    let config = format!(
        "[destination]\nurl = \"{}\"\nidentity = \"{}\"\nknown-hosts = \"{}\"\nlayout = \"from-file\"\n\
         [[source]]\nname = \"reports\"\npaths = [\"local/reports\"]\ninclude = [\"*.csv\"]\nafter = \"delete\"\n",
        server.url(),
        server.client_key().display(),
        server.known_hosts().display()
    );
    write(bench.env.path(), "archiver.toml", config);
    let mut command: Command = bench.env.archiver(["push", "--summary", "json"]);
    let pushed = Pushed::run(&mut command).expect(0);
    pushed.assert_counts([1, 0, 0, 0]);
    assert_eq!(pushed.row("/a.csv")["remote"], format!("{}/from-file/a.csv", server.base()));
    // The default place of the ledger.
    assert!(bench.env.home().join(".local/state/archiver/ledger.db").exists());
}
