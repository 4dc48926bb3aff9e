//! Who is let in, whom we trust, and that no secret shows: not even with every log line there is.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Bench, Pushed};
use crate::support::embedded::{Embedded, PASSWORD};
use crate::support::env::{TestEnv, run, write};
use crate::support::openssh::{OpenSsh, keygen};

const PASSPHRASE: &str = "needle in the haystack";

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Runs with all logs, and looks for secrets in what it said: whole ones, and lines of private keys.
#[track_caller]
fn run_without_a_word(bench: &Bench, command: &mut Command, keys: &[PathBuf]) -> Pushed {
    let pushed = Pushed::run(command.arg("-vvv").args(["--retries", "2", "--after", "delete"]));
    let said = format!("{}{}", pushed.finished.stdout, pushed.finished.stderr);
    for secret in [PASSWORD, PASSPHRASE, "wrong secret"] {
        assert!(!said.contains(secret), "{secret:?} shows:\n{said}");
    }
    for key in keys {
        let text = std::fs::read_to_string(key).unwrap();
        assert!(text.lines().filter(|line| line.len() > 20).all(|line| !said.contains(line)), "a private key shows");
    }
    if pushed.finished.code() != Some(0) {
        assert!(bench.env.local().join("a").exists(), "nothing was archived, so nothing may go");
        assert!(bench.archived().is_empty());
    }
    pushed
}

fn embedded() -> (Bench, Embedded) {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    std::fs::remove_file(env.home().join(".ssh/id_ed25519")).unwrap();
    let bench = Bench::embedded(env, &server);
    write(&bench.env.local(), "a", "a");
    (bench, server)
}

fn openssh() -> (Bench, OpenSsh) {
    let (bench, server) = Bench::plain();
    write(&bench.env.local(), "a", "a");
    (bench, server)
}

/// To this server with these options instead of those that are right.
fn to(bench: &Bench, server: &OpenSsh, identity: &Path, known_hosts: &Path) -> Command {
    let mut command = bench.bare_push(["--to", &server.url()]);
    command.arg(bench.env.local()).arg("-i").arg(identity).arg("--known-hosts").arg(known_hosts);
    command
}

#[test]
fn a_password_from_a_file_or_the_environment_lets_us_in() {
    let (bench, _server) = embedded();
    let file = write(&bench.env.home(), "password", format!("{PASSWORD}\n"));
    private(&file);
    let mut command = bench.push([bench.env.local()]);
    run_without_a_word(&bench, command.arg("--password-file").arg(&file), &[]).expect(0);
    write(&bench.env.local(), "b", "b");
    let mut command = bench.push([bench.env.local()]);
    run_without_a_word(&bench, command.env("ARCHIVER_PASSWORD", PASSWORD), &[]).expect(0);
    assert_eq!(bench.archived().len(), 2);
}

#[test]
fn a_wrong_password_is_refused_at_once() {
    let (bench, _server) = embedded();
    let mut command = bench.push([bench.env.local()]);
    let pushed = run_without_a_word(&bench, command.env("ARCHIVER_PASSWORD", "wrong secret"), &[]).expect(3);
    pushed.says(&["password"]);
    pushed.assert_counts([0, 0, 0, 1]);
}

#[test]
fn nothing_to_log_in_with_says_what_to_give() {
    let (bench, _server) = embedded();
    let pushed = run_without_a_word(&bench, &mut bench.push([bench.env.local()]), &[]).expect(3);
    pushed.says(&["--identity", "--password-file"]);
}

#[test]
fn a_password_file_that_is_missing_or_empty_is_named() {
    let (bench, _server) = embedded();
    for (name, content) in [("missing", None), ("empty", Some(""))] {
        let file = bench.env.home().join(name);
        if let Some(content) = content {
            write(&bench.env.home(), name, content);
        }
        let mut command = bench.push([bench.env.local()]);
        let pushed = run_without_a_word(&bench, command.arg("--password-file").arg(&file), &[]);
        assert!(matches!(pushed.finished.code(), Some(2 | 3)), "{:?}", pushed.finished);
        pushed.says(&[file.to_str().unwrap()]);
    }
}

#[test]
fn a_wrong_key_is_refused_at_once() {
    let (bench, server) = openssh();
    let key = bench.env.home().join("other");
    keygen(&key, "ed25519");
    let pushed =
        run_without_a_word(&bench, &mut to(&bench, &server, &key, &server.known_hosts()), std::slice::from_ref(&key));
    pushed.expect(3).says(&[key.to_str().unwrap()]);
}

#[test]
fn a_key_that_others_may_read_is_warned_of_or_refused_with_the_command_that_helps() {
    use std::os::unix::fs::PermissionsExt;
    let (bench, server) = openssh();
    let key = bench.env.home().join("loose");
    std::fs::copy(server.client_key(), &key).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let pushed =
        run_without_a_word(&bench, &mut to(&bench, &server, &key, &server.known_hosts()), std::slice::from_ref(&key));
    pushed.expect(3).says(&[key.to_str().unwrap(), "chmod 600"]);
}

#[test]
fn an_encrypted_key_needs_its_passphrase() {
    let (bench, server) = openssh();
    let key = bench.env.home().join("encrypted");
    std::fs::copy(server.client_key(), &key).unwrap();
    private(&key);
    let encrypt = ["-q", "-p", "-P", "", "-N", PASSPHRASE, "-f"];
    run(bench.env.command("ssh-keygen").args(encrypt).arg(&key)).assert_code(0);
    let wrong = write(&bench.env.home(), "wrong", "wrong secret\n");
    let right = write(&bench.env.home(), "right", format!("{PASSPHRASE}\n"));
    for (file, code, says) in [(None, 3, "--passphrase-file"), (Some(wrong), 3, "passphrase"), (Some(right), 0, "")] {
        let mut command = to(&bench, &server, &key, &server.known_hosts());
        if let Some(file) = file {
            private(&file);
            command.arg("--passphrase-file").arg(file);
        }
        let pushed = run_without_a_word(&bench, &mut command, &[key.clone(), server.client_key()]);
        pushed.expect(code).says(&[says]);
    }
    assert_eq!(bench.archived().len(), 1);
}

#[test]
fn a_missing_or_broken_key_file_is_named() {
    let (bench, server) = openssh();
    let broken = write(&bench.env.home(), "broken", "-----BEGIN OPENSSH PRIVATE KEY-----\nwrong secret\n");
    private(&broken);
    for key in [bench.env.home().join("missing"), broken] {
        let pushed = run_without_a_word(&bench, &mut to(&bench, &server, &key, &server.known_hosts()), &[]);
        assert!(matches!(pushed.finished.code(), Some(2 | 3)), "{:?}", pushed.finished);
        pushed.says(&[key.to_str().unwrap()]);
    }
}

#[test]
fn an_unknown_host_is_refused_until_its_key_is_accepted() {
    let (bench, server) = openssh();
    let known = write(bench.env.path(), "known_hosts", "");
    let pushed = run_without_a_word(&bench, &mut to(&bench, &server, &server.client_key(), &known), &[]).expect(3);
    let fingerprint = run(bench.env.command("ssh-keygen").arg("-lf").arg(server.dir().join("host_ed25519.pub")));
    let fingerprint = fingerprint.stdout.split_whitespace().nth(1).unwrap().to_owned();
    pushed.says(&[&fingerprint, "known_hosts", "accept-new"]);
    assert_eq!(std::fs::read_to_string(&known).unwrap(), "");
    assert!(!server.log().contains("Accepted"), "no login may be tried with a host that is not trusted");

    let mut command = to(&bench, &server, &server.client_key(), &known);
    run_without_a_word(&bench, command.args(["--host-key", "accept-new"]), &[]).expect(0);
    assert!(std::fs::read_to_string(&known).unwrap().contains(&server.host_key("ed25519")));
    // Known from now on.
    write(&bench.env.local(), "b", "b");
    run_without_a_word(&bench, &mut to(&bench, &server, &server.client_key(), &known), &[]).expect(0);
    assert_eq!(bench.archived().len(), 2);
}

#[test]
fn a_changed_host_key_is_refused_even_where_new_ones_are_accepted() {
    let (bench, server) = openssh();
    let other = bench.env.home().join("other");
    keygen(&other, "ed25519");
    let public = std::fs::read_to_string(other.with_extension("pub")).unwrap();
    let known = write(bench.env.path(), "known_hosts", format!("[127.0.0.1]:{} {public}", server.port()));
    for policy in ["strict", "accept-new"] {
        let mut command = to(&bench, &server, &server.client_key(), &known);
        let pushed = run_without_a_word(&bench, command.args(["--host-key", policy]), &[]).expect(3);
        pushed.says(&["the server was set up anew, or somebody is in between", "ssh-keygen -R", "known_hosts line 1"]);
    }
    assert!(!server.log().contains("Accepted"));
    assert!(std::fs::read_to_string(&known).unwrap().contains(public.trim()));
}

#[test]
fn a_pinned_fingerprint_is_all_that_counts() {
    let (bench, server) = openssh();
    let empty = write(bench.env.path(), "known_hosts", "");
    let wrong = format!("SHA256:{}", "A".repeat(43));
    let right = run(bench.env.command("ssh-keygen").arg("-lf").arg(server.dir().join("host_ed25519.pub")));
    let right = right.stdout.split_whitespace().nth(1).unwrap().to_owned();
    for (pin, code) in [(wrong, 3), (right, 0)] {
        let mut command = to(&bench, &server, &server.client_key(), &empty);
        run_without_a_word(&bench, command.args(["--host-key", &pin]), &[]).expect(code);
    }
    assert_eq!(bench.archived().len(), 1);
}
