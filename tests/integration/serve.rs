//! `archiver serve` through the binary, with OpenSSH's own client and with `archiver push`.

use rustix::process::Signal;

use crate::support::env::*;

/// A server that runs, and how to reach it.
struct Served {
    running: Running,
    port: String,
    fingerprint: String,
}

impl Served {
    #[track_caller]
    fn start(env: &TestEnv, arguments: &[&str]) -> Self {
        let root = env.remote();
        let fixed = ["serve", "--listen", "127.0.0.1:0", "--root", root.to_str().unwrap()];
        let mut running = Running::start(&mut env.archiver(fixed.iter().chain(arguments)));
        let word = |line: String| line.split_whitespace().last().unwrap().to_owned();
        let port = word(running.expect_line("  address "));
        let fingerprint = word(running.expect_line("  host key "));
        running.expect_line("archiver push --to sftp://");
        Self { running, port, fingerprint }
    }

    /// Asks it to end, as an init system does.
    #[track_caller]
    fn stop(self) -> Finished {
        self.running.signal(Signal::TERM);
        let finished = self.running.finish();
        assert_eq!(finished.assert_code(0).stdout, "");
        finished
    }
}

#[test]
fn openssh_logs_in_with_an_authorized_key() {
    let env = TestEnv::new();
    let key = env.home().join(".ssh/id");
    run(env.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key)).assert_code(0);
    let authorized = key.with_extension("pub");
    let served = Served::start(&env, &["--user", "pine", "--authorized-keys", authorized.to_str().unwrap()]);
    let (source, known) = (write(&env.local(), "a.csv", "a,b\n"), env.home().join("known"));
    let batch = write(env.path(), "batch", format!("put {} /b.csv\n", source.display()));
    let sftp = |key: &std::path::Path| {
        let mut command = env.command("sftp");
        command.args([
            "-q",
            "-F",
            "none",
            "-oBatchMode=yes",
            "-oIdentitiesOnly=yes",
            "-oStrictHostKeyChecking=accept-new",
        ]);
        command.arg(format!("-oUserKnownHostsFile={}", known.display()));
        command.arg("-b").arg(&batch).arg("-i").arg(key).args(["-P", &served.port, "pine@127.0.0.1"]);
        run(&mut command)
    };
    sftp(&key).assert_code(0);
    assert_eq!(std::fs::read(env.remote().join("b.csv")).unwrap(), b"a,b\n");

    let other = env.home().join(".ssh/other");
    run(env.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&other)).assert_code(0);
    assert_ne!(sftp(&other).code(), Some(0));
    let finished = served.stop();
    assert_eq!(finished.stderr.matches("login user=pine").count(), 1, "{}", finished.stderr);
    assert!(!finished.stderr.contains("password    "), "with keys there is no password to make up");
}

#[test]
fn openssh_and_push_log_in_with_the_password_of_a_file() {
    let env = TestEnv::new();
    let password = write(&env.home(), "password", "cone & needle\n");
    let wrong = write(&env.home(), "wrong", "leaf\n");
    let served = Served::start(&env, &["--password-file", password.to_str().unwrap()]);
    write(&env.local(), "a.csv", "a,b\n");
    let to = format!("sftp://archiver@127.0.0.1:{}/in", served.port);
    let local = env.local();
    let push = |password: &std::path::Path| {
        let fixed = ["push", "--to", &to, "--host-key", &served.fingerprint, "--password-file"];
        run(env.archiver(fixed).arg(password).arg(&local))
    };
    let refused = push(&wrong);
    refused.assert_code(3);
    push(&password).assert_code(0);
    assert_eq!(files(&env.remote()).len(), 1);

    // OpenSSH asks a program for passwords where there is no terminal (ssh(1), SSH_ASKPASS_REQUIRE).
    let ask = write(env.path(), "ask", format!("#!/bin/sh\ncat '{}'\n", password.display()));
    run(env.command("chmod").arg("700").arg(&ask)).assert_code(0);
    let batch = write(env.path(), "batch", "ls -1 /in\n");
    let mut sftp = env.command("sftp");
    sftp.env("SSH_ASKPASS", &ask).env("SSH_ASKPASS_REQUIRE", "force").args(["-q", "-F", "none"]);
    sftp.args(["-oStrictHostKeyChecking=accept-new", "-oPubkeyAuthentication=no", "-oBatchMode=no"]);
    sftp.arg(format!("-oUserKnownHostsFile={}", env.home().join("known").display()));
    sftp.arg("-b").arg(&batch).args(["-P", &served.port, "archiver@127.0.0.1"]);
    // `-b` sets BatchMode, which the first value on the command line forestalls.
    let listed = run(&mut sftp);
    assert!(listed.assert_code(0).stdout.contains("/in/20"), "{}", listed.stdout);
    let finished = served.stop();
    for text in [&finished.stderr, &refused.stderr] {
        assert!(!text.contains("cone") && !text.contains("leaf"), "{text}");
    }
}

#[test]
fn what_cannot_be_served_is_refused_with_a_hint() {
    let env = TestEnv::new();
    let missing = env.path().join("missing");
    for arguments in [
        ["--root", missing.to_str().unwrap(), "--listen", "127.0.0.1:0"],
        ["--password-file", missing.to_str().unwrap(), "--listen", "127.0.0.1:0"],
        ["--listen", "192.0.2.1:2222", "--root", "."],
    ] {
        let finished = run(&mut env.archiver(["serve"].iter().chain(&arguments)));
        finished.assert_code(2);
        assert!(finished.stderr.starts_with("error: the server cannot run\n  cause: "), "{}", finished.stderr);
    }
}
