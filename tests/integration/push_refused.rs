//! What cannot work, said at once and with what to do instead.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use super::{Bench, Pushed};
use crate::support::env::{TestEnv, run, write};
use crate::support::openssh::{OpenSsh, is_root};

/// A bench whose destination is never reached.
fn unreached() -> Bench {
    let env = TestEnv::new();
    write(&env.local(), "a", "a");
    let base = env.remote();
    Bench::of(env, "sftp://u@127.0.0.1:9/x".into(), base)
}

#[test]
fn without_a_destination_it_says_how_to_give_one() {
    let bench = unreached();
    Pushed::run(&mut bench.bare_push([bench.env.local()])).expect(2).says(&[
        "no destination",
        "--to sftp://",
        "ARCHIVER_TO",
    ]);
    assert!(!bench.ledger().exists());
}

#[test]
fn without_a_path_it_says_how_to_give_one() {
    let bench = unreached();
    let pushed = Pushed::run(&mut bench.push(Vec::<String>::new())).expect(2);
    pushed.says(&["give a PATH", "--files-from", "ARCHIVER_SOURCE"]);
}

#[test]
fn malformed_urls_are_explained_and_never_repeat_a_password() {
    let bench = unreached();
    for (url, hints) in [
        ("host:in", ["did you mean sftp://host/~/in?", "--to"]),
        ("u:hunter2@host:/in", ["no scheme", "sftp://user@host"]),
        ("ftp://host/in", ["`ftp` is not supported", "sftp://"]),
        ("sftp://u:hunter2@host/in", ["--password-file", "ARCHIVER_PASSWORD"]),
        ("sftp://host:99999/in", ["port", "sftp://"]),
        ("sftp:///in", ["host", "sftp://"]),
        ("sftp://host/a/../b", ["`..`", "--to"]),
        ("", ["--to", "sftp://"]),
    ] {
        let pushed = Pushed::run(&mut bench.push_to(url, [bench.env.local()])).expect(2);
        pushed.says(&hints);
        assert!(!pushed.finished.stderr.contains("hunter2"), "{}", pushed.finished.stderr);
    }
}

#[test]
fn all_mistakes_of_a_configuration_are_named_at_once_with_their_lines() {
    let bench = unreached();
    let text = "[destination]\nurll = \"sftp://h/x\"\nlayout = \"{nope}\"\n[retry]\nmax-attempts = 0\n[[source]]\npaths = []\n";
    write(bench.env.path(), "archiver.toml", text);
    let pushed = Pushed::run(&mut bench.push(["--layout", "../x"])).expect(2);
    pushed.says(&["archiver.toml:2", "did you mean `url`", "{nope}", "max-attempts", "../x", "paths"]);
}

#[test]
fn unknown_flags_and_choices_are_usage() {
    let bench = unreached();
    for (arguments, hint) in [
        (["--afte", "delete"], "--after"),
        (["--after", "destroy"], "keep"),
        (["--on-conflict", "maybe"], "rename"),
        (["--timezone", "Mars/Base"], "Europe/Berlin"),
        (["--layout", "../%Y"], "stay below"),
        (["--retries", "0"], "retries"),
        (["--limit-rate", "fast"], "20MiB"),
        (["--summary", "xml"], "json"),
        (["--include", "[z-a]"], "[z-a]"),
        (["--password", "x"], "--password-file"),
    ] {
        let pushed = Pushed::run(bench.push([bench.env.local()]).args(arguments)).expect(2);
        assert!(pushed.finished.stderr.contains(hint), "{arguments:?}: no {hint:?} in\n{}", pushed.finished.stderr);
    }
}

#[test]
fn a_missing_directory_fails_and_the_others_go() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), "a", "a");
    let missing = bench.env.path().join("missing");
    let pushed = Pushed::run(&mut bench.push([bench.env.local(), missing])).expect(1);
    pushed.assert_counts([1, 0, 0, 1]);
    assert!(
        pushed.reason("/missing").contains("no such file or directory; check the path"),
        "{}",
        pushed.finished.stdout
    );
    bench.assert_same_files();
}

#[test]
fn an_unusable_ledger_stops_before_anything_is_sent() {
    let (bench, _server) = Bench::plain();
    write(&bench.env.local(), "a", "a");
    write(&bench.env.home(), "ledger.db", "this is no database, but somebody's notes");
    Pushed::run(&mut bench.push([bench.env.local()])).expect(2).says(&["ledger.db"]);
    assert!(bench.archived().is_empty());
    assert_eq!(std::fs::read(bench.ledger()).unwrap(), b"this is no database, but somebody's notes");
}

#[test]
fn an_unreachable_port_ends_soon_with_nothing_lost() {
    let bench = unreached();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let to = format!("sftp://u@{closed}/x");
    let arguments = ["--retries", "3", "--after", "delete"];
    let pushed = Pushed::run(bench.push_to(&to, [bench.env.local()]).args(arguments)).expect(3);
    pushed.says(&[&closed.to_string(), "refused"]);
    pushed.assert_counts([0, 0, 0, 1]);
    assert!(bench.env.local().join("a").exists());
}

#[test]
fn a_host_that_does_not_exist_is_named() {
    let bench = unreached();
    let pushed =
        Pushed::run(bench.push_to("sftp://u@no-such-host.invalid/x", [bench.env.local()]).args(["--retries", "1"]));
    pushed.expect(3).says(&["no-such-host.invalid"]);
}

#[test]
fn a_port_that_accepts_and_says_nothing_ends_in_time() {
    let bench = unreached();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("sftp://u@{}/x", silent.local_addr().unwrap());
    let mut command = bench.push_to(&to, [bench.env.local()]);
    command.args(["--retries", "2"]).env("ARCHIVER_POOL__CONNECT_TIMEOUT", "300ms");
    Pushed::run(&mut command).expect(3);
}

#[test]
fn something_that_is_no_ssh_server_is_said_so() {
    let bench = unreached();
    let web = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("sftp://u@{}/x", web.local_addr().unwrap());
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = web.accept() {
            // The client may be gone already.
            let _ = std::io::Write::write_all(&mut client, b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        }
    });
    let mut command = bench.push_to(&to, [bench.env.local()]);
    command.args(["--retries", "2"]).env("ARCHIVER_POOL__CONNECT_TIMEOUT", "2s");
    Pushed::run(&mut command).expect(3);
}

#[test]
fn a_chroot_that_is_not_writable_is_explained() {
    let Some(builder) = OpenSsh::builder().chrooted() else { return };
    let server = builder.start();
    let bench = Bench::openssh(&server);
    write(&bench.env.local(), "a", "a");
    let to = server.url().replace("/upload", "");
    let pushed = Pushed::run(&mut bench.push_to(&to, [bench.env.local()])).expect(1);
    pushed.assert_counts([0, 0, 0, 1]);
    let reason = pushed.reason("/a");
    assert!(reason.contains("/in") && reason.contains("permission denied"), "{reason}");
    assert!(reason.contains("writable") || reason.contains("archiver check"), "no word of what to do: {reason}");
}

/// The binary as a user who is bound by permissions; `None` where that cannot be had, and it says so.
fn as_nobody(env: &TestEnv, command: &Command) -> Option<Command> {
    if !is_root() {
        let mut same = env.command(command.get_program());
        same.args(command.get_args());
        return Some(same);
    }
    let program = Path::new(command.get_program());
    let prefix = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    let works = env.command("setpriv").args(prefix).arg(program).arg("--version").current_dir("/").output();
    if !works.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: nobody cannot run {}, and root may read everything", program.display());
        return None;
    }
    let mut other = env.command("setpriv");
    other.args(prefix).arg(program).args(command.get_args());
    Some(other)
}

/// Gives the whole directory to the user that [`as_nobody`] runs as.
fn give_away(path: &Path) {
    if !is_root() {
        return;
    }
    chown(path, Some(65534), Some(65534)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| give_away(&entry.unwrap().path()));
    }
}

#[test]
fn what_may_not_be_read_fails_alone_and_says_what_to_do() {
    let env = TestEnv::new();
    let server = OpenSsh::plain();
    let key = env.home().join("key");
    std::fs::copy(server.client_key(), &key).unwrap();
    let bench = Bench::openssh_in(env, &server);
    let local = bench.env.local();
    write(&local, "fine", "fine");
    write(&local, "secret", "secret");
    write(&local, "closed/a", "a");
    give_away(bench.env.path());
    for (name, mode) in [("secret", 0o000), ("closed", 0o000)] {
        std::fs::set_permissions(local.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut command = bench.bare_push(["--to", bench.to()]);
    command.arg(&local).arg("-i").arg(&key).arg("--known-hosts").arg(server.known_hosts());
    let Some(mut command) = as_nobody(&bench.env, &command).map(|mut bound| {
        bound.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        bound
    }) else {
        return;
    };
    let pushed = Pushed::run(&mut command);
    // Rooms that cannot be entered would keep the test's directory from being removed.
    std::fs::set_permissions(local.join("closed"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let pushed = pushed.expect(1);
    pushed.assert_counts([1, 0, 0, 2]);
    for name in ["/secret", "/closed"] {
        let reason = pushed.reason(name).to_lowercase();
        assert!(reason.contains("permission"), "{reason}");
    }
    assert_eq!(bench.archived().len(), 1);
}

#[test]
fn help_is_not_an_error() {
    let env = TestEnv::new();
    let help = run(&mut env.archiver(["push", "--help"]));
    assert!(help.assert_code(0).stdout.contains("--files-from"));
}
