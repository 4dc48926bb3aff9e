//! The embedded server as others see it: OpenSSH's own clients, rclone and lftp where they are installed.

use std::path::Path;
use std::process::Command;

use archiver::domain::DestinationUrl;
use russh::client::KeyboardInteractiveAuthResponse;

use crate::support::embedded::{Embedded, PASSWORD, USER};
use crate::support::env::*;

/// Names that a shell, a listing or a glob could trip over. A newline cannot be typed into a batch file.
const ODD_NAMES: [&str; 6] = ["with space", "naïve 🌲.txt", "'quoted'", "#hash", "a;b&c|d", "-dash"];

fn sftp(env: &TestEnv, server: &Embedded, batch: &str) -> Finished {
    let batch = write(env.path(), "batch", batch);
    let mut command = env.command("sftp");
    server.client_options(&mut command);
    run(command.arg("-b").arg(batch).arg(format!("{USER}@{}", server.address().ip())))
}

#[test]
fn openssh_sftp_puts_gets_and_tidies_up() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    for (index, name) in ODD_NAMES.iter().enumerate() {
        write(&env.local(), format!("tree/{name}"), noise(1000 + index, index as u64));
    }
    write(&env.local(), "tree/sub/empty", "");
    write(&env.local(), "tree/sub/large", noise(20 << 20, 99));
    sftp(&env, &server, "put -pR local/tree\nls -l tree\nget -pR tree back\n").assert_code(0);
    assert_eq!(tree(&env.local().join("tree")), tree(&env.remote().join("tree")));
    assert_eq!(tree(&env.local().join("tree")), tree(&env.path().join("back")));
    let modified = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let seconds = |path: &Path| modified(path).duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(seconds(&env.local().join("tree/#hash")), seconds(&env.remote().join("tree/#hash")), "-p keeps times");

    let batch = "mkdir dir\nrename tree/sub/empty dir/moved\nchmod 600 dir/moved\nln dir/moved dir/hard\n\
                 symlink moved dir/soft\nls -la dir\nrm dir/moved\nrm dir/soft\ndf\n";
    let listed = sftp(&env, &server, batch);
    listed.assert_code(0);
    assert!(listed.stdout.lines().any(|line| line.starts_with("lrwx") && line.ends_with("soft")), "{}", listed.stdout);
    assert!(listed.stdout.lines().any(|line| line.starts_with("-rw-------")), "{}", listed.stdout);
    assert_eq!(files(&env.remote().join("dir")).len(), 1);
    sftp(&env, &server, "rm dir/hard\nrmdir dir\n").assert_code(0);
    assert!(!env.remote().join("dir").exists());

    for (batch, why) in [
        ("get missing\n", "not found"),
        ("rmdir tree\n", "Failure"),
        ("mkdir tree\n", "Failure"),
        ("rename -l tree/sub/large tree/-dash\n", "Failure"),
        ("ls ../../etc\n", "not found"),
        ("get /etc/passwd\n", "not found"),
    ] {
        let refused = sftp(&env, &server, batch);
        assert_eq!(refused.code(), Some(1), "{batch}");
        assert!(refused.stderr.contains(why), "{batch}: {}", refused.stderr);
    }
}

#[test]
fn openssh_scp_copies_both_ways() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    write(&env.local(), "new\nline", noise(70_000, 1));
    write(&env.local(), "sub/x", "x");
    let at = |path: &str| format!("{USER}@{}:{path}", server.address().ip());
    let scp = |from: &str, to: &str| {
        let mut command = env.command("scp");
        server.client_options(&mut command);
        run(command.args(["-s", "-rp", from, to])).assert_code(0);
    };
    scp("local", &at("/copy"));
    scp(&at("/copy"), "back");
    assert_eq!(tree(&env.local()), tree(&env.remote().join("copy")));
    assert_eq!(tree(&env.local()), tree(&env.path().join("back")));
}

#[test]
fn the_host_key_has_the_fingerprint_that_ssh_keygen_prints() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    let url: DestinationUrl = server.url("/upload").parse().unwrap();
    let mut keygen = env.command("ssh-keygen");
    keygen.args(["-l", "-F", &format!("[{}]:{}", url.host, url.port.unwrap()), "-f", "home/.ssh/known_hosts"]);
    let found = run(&mut keygen);
    assert!(found.assert_code(0).stdout.contains(server.fingerprint()), "{}", found.stdout);
}

/// Runs `command` if its program is installed, and says so if it is not.
fn run_if_installed(command: &mut Command) -> Option<Finished> {
    let program = command.get_program().to_owned();
    if !Command::new("which").arg(&program).output().is_ok_and(|out| out.status.success()) {
        eprintln!("not tested: {} is not installed", program.display());
        return None;
    }
    Some(run(command))
}

#[test]
fn rclone_copies_and_finds_no_difference() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    for name in ODD_NAMES {
        write(&env.local(), format!("sub/{name}"), name);
    }
    write(&env.local(), "large", noise(3 << 20, 1));
    let ssh = env.home().join(".ssh");
    let remote = format!(
        ":sftp,host={},port={},user={USER},shell_type=none,key_file={},known_hosts_file={}:/",
        server.address().ip(),
        server.address().port(),
        ssh.join("id_ed25519").display(),
        ssh.join("known_hosts").display(),
    );
    for subcommand in [["copy"].as_slice(), &["check", "--download"]] {
        let local = env.local();
        let Some(finished) = run_if_installed(env.command("rclone").args(subcommand).arg(local).arg(&remote)) else {
            return;
        };
        finished.assert_code(0);
    }
    assert_eq!(tree(&env.local()), tree(&env.remote()));
}

#[test]
fn lftp_mirrors_both_ways() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    for name in ODD_NAMES {
        write(&env.local(), format!("sub/{name}"), name);
    }
    write(&env.local(), "large", noise(3 << 20, 1));
    let ssh = env.home().join(".ssh");
    let connect = format!(
        "ssh -a -x -F none -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes -o UserKnownHostsFile={} -i {}",
        ssh.join("known_hosts").display(),
        ssh.join("id_ed25519").display(),
    );
    let script = format!(
        "set net:max-retries 1; set sftp:connect-program '{connect}'; open -u {USER}, -p {} sftp://{}; \
         mirror -R local /; mirror / back",
        server.address().port(),
        server.address().ip(),
    );
    let Some(finished) = run_if_installed(env.command("lftp").args(["-c", &script])) else { return };
    finished.assert_code(0);
    assert_eq!(tree(&env.local()), tree(&env.remote()));
    assert_eq!(tree(&env.local()), tree(&env.path().join("back")));
}

#[test]
fn only_sftp_is_to_be_had() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    let ssh = env.home().join(".ssh");
    let attempt = |arguments: &[&str]| {
        let mut command = env.command("ssh");
        command.args(["-F", "none", "-o", "BatchMode=yes", "-p", &server.address().port().to_string(), "-i"]);
        command.arg(ssh.join("id_ed25519")).args(arguments);
        command.arg("-o").arg(format!("UserKnownHostsFile={}", ssh.join("known_hosts").display()));
        run(command.arg(format!("{USER}@{}", server.address().ip())).arg("true"))
    };
    let command = attempt(&[]);
    assert_eq!(command.code(), Some(255));
    assert!(command.stderr.contains("exec request failed"), "{}", command.stderr);
    let terminal = attempt(&["-tt"]);
    assert!(terminal.code() == Some(255) && terminal.stderr.contains("PTY allocation request failed"));
    let forward = attempt(&["-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1"]);
    assert!(forward.stderr.contains("remote port forwarding failed"), "{}", forward.stderr);
}

#[test]
fn logins_need_the_right_user_and_password_or_key() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    server.block_on(async {
        let connect = async || server.connect_unauthenticated().await;
        assert!(connect().await.authenticate_password(USER, PASSWORD).await.unwrap().success());
        for (user, password) in [(USER, "wrong"), ("fir", PASSWORD), (USER, "")] {
            assert!(!connect().await.authenticate_password(user, password).await.unwrap().success());
        }
        for (answer, expected) in [(PASSWORD, true), ("wrong", false)] {
            let mut handle = connect().await;
            let asked = handle.authenticate_keyboard_interactive_start(USER, None).await.unwrap();
            assert!(matches!(asked, KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. }
                if prompts.len() == 1 && !prompts[0].echo));
            let answered = handle.authenticate_keyboard_interactive_respond(vec![answer.to_owned()]).await.unwrap();
            assert_eq!(matches!(answered, KeyboardInteractiveAuthResponse::Success), expected);
        }
    });
    // The key works in every test with OpenSSH's client; another one must not.
    let stranger = env.path().join("stranger");
    run(env.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&stranger)).assert_code(0);
    std::fs::rename(&stranger, env.home().join(".ssh/id_ed25519")).unwrap();
    let refused = sftp(&env, &server, "ls\n");
    assert_eq!(refused.code(), Some(255));
    assert!(refused.stderr.contains("Permission denied"), "{}", refused.stderr);
}
