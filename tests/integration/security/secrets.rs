//! Passwords, passphrases and keys: with every log line of every library, in every format, whatever goes wrong, and as
//! seen through `/proc`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use russh::MethodKind;

use crate::support::embedded::PASSWORD;
use crate::support::env::{Running, TestEnv, run, wait_until, write};
use crate::support::hostile::{Hostile, Manners};
use crate::support::openssh::{OpenSsh, is_root, keygen};

const PASSPHRASE: &str = "needle in the haystack";

/// A secret in all forms in which a careless program prints one.
fn forms(secret: &[u8]) -> Vec<String> {
    let hex = |separator: &str, upper: bool| {
        let digits = secret.iter().map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") });
        digits.collect::<Vec<_>>().join(separator)
    };
    let percent = |unreserved: fn(u8) -> bool| {
        let encode = |&byte: &u8| if unreserved(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        secret.iter().map(encode).collect::<String>()
    };
    let mut forms = vec![
        String::from_utf8_lossy(secret).into_owned(),
        percent(|byte| byte.is_ascii_alphanumeric()),
        percent(|_| false),
        hex("", false),
        hex("", true),
        hex(" ", false),
        hex(":", false),
        hex(", 0x", false),
        secret.iter().map(u8::to_string).collect::<Vec<_>>().join(", "),
        String::from_utf8_lossy(secret).escape_default().to_string(),
        String::from_utf8_lossy(secret).replace(' ', "+"),
    ];
    // Base64 of a text in which it stands at any offset has one of these in it.
    for offset in 0..3 {
        let padded = [&vec![0; offset][..], secret].concat();
        let whole = base64(&padded);
        let (from, to) = ((offset * 8).div_ceil(6), padded.len() * 8 / 6);
        forms.push(whole[from..to].to_owned());
    }
    forms
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    bits.chunks(6)
        .map(|chunk| {
            let value = chunk.iter().fold(0, |value, bit| value << 1 | bit) << (6 - chunk.len());
            char::from(DIGITS[usize::from(value)])
        })
        .collect()
}

#[track_caller]
fn assert_silent(what: &str, said: &str, secrets: &[&[u8]]) {
    for secret in secrets {
        for form in forms(secret) {
            assert!(!said.contains(&form), "{what}: a secret shows as {form:?}");
        }
    }
}

/// All that a run says when it says most.
fn loudest(command: &mut Command) -> [String; 4] {
    let mut said = Vec::new();
    for format in ["text", "json"] {
        // Every crate, down to the last packet.
        let finished = run(command.env("ARCHIVER_LOG", "trace").env("ARCHIVER_LOG_FORMAT", format));
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
        said.extend([finished.stdout, finished.stderr]);
    }
    said.try_into().unwrap()
}

#[test]
fn the_search_finds_what_it_should() {
    let secret = PASSWORD.as_bytes();
    for text in [
        format!("{secret:?}"),
        base64(secret),
        base64(&[b"x", secret, b"yz"].concat()),
        base64(&[b"xy", secret].concat()),
        "cone%20and%20needle".into(),
        "636F6E6520616E64206E6565646C65".into(),
    ] {
        assert!(forms(secret).iter().any(|form| text.contains(form)), "{text}");
    }
}

/// Given in every way, right and wrong, to servers that ask in every way.
#[test]
fn a_password_is_never_said() {
    let wrong = "wrong answer";
    let mut runs = 0;
    for method in [MethodKind::Password, MethodKind::KeyboardInteractive] {
        let env = TestEnv::new();
        write(&env.local(), "a", "a");
        let server = Hostile::start(&env, Manners { method, ..Manners::default() });
        let right_file = write(&env.home(), "right", format!("{PASSWORD}\n"));
        for password in [PASSWORD, wrong] {
            let file = if password == wrong { write(&env.home(), "wrong", wrong) } else { right_file.clone() };
            let in_url = format!("sftp://pine:{}@127.0.0.1:1/x", password.replace(' ', "%20"));
            let commands: [(&[&str], Option<&str>); 8] = [
                (&["push", "--force", "--retries", "1"], None),
                (&["push", "--dry-run", "--summary", "json"], None),
                (&["push", "--password-file"], None),
                (&["watch", "--idle-exit", "1ms", "--summary", "csv"], None),
                (&["check"], None),
                (&["config", "show"], None),
                (&["config", "show", "--format", "json"], None),
                (&["push"], Some(&in_url)),
            ];
            for (arguments, url) in commands {
                let mut command = env.archiver(arguments);
                let by_file = arguments.contains(&"--password-file");
                if by_file {
                    command.arg(&file);
                } else {
                    command.env("ARCHIVER_PASSWORD", password);
                }
                let to = server.url("/base");
                command.env("ARCHIVER_TO", url.unwrap_or(&to)).env("ARCHIVER_RETRY__INITIAL_BACKOFF", "1ms");
                if matches!(arguments[0], "push" | "watch") {
                    command.arg(env.local());
                }
                for said in loudest(&mut command) {
                    assert_silent(&format!("{method:?} {arguments:?}"), &said, &[password.as_bytes()]);
                }
                runs += 2;
            }
        }
    }
    eprintln!("{runs} runs");
}

/// A key's secret part, as its file has it and as its bytes are.
fn secret_part(key: &Path) -> Vec<Vec<u8>> {
    let text = fs::read_to_string(key).unwrap();
    let lines = text.lines().filter(|line| line.len() > 20 && !line.starts_with("-----"));
    let mut parts: Vec<Vec<u8>> = lines.skip(2).map(|line| line.as_bytes().to_vec()).collect();
    if let Ok(private) = russh::keys::load_secret_key(key, None)
        && let Some(pair) = private.key_data().ed25519()
    {
        parts.push(pair.private.to_bytes().to_vec());
    }
    assert!(parts.len() > 1);
    parts
}

#[test]
fn keys_and_passphrases_are_never_said() {
    let server = OpenSsh::plain();
    let env = TestEnv::new();
    write(&env.local(), "a", "a");
    let private = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    let (encrypted, stranger) = (env.home().join("encrypted"), env.home().join("stranger"));
    fs::copy(server.client_key(), &encrypted).unwrap();
    private(&encrypted);
    let encrypt = ["-q", "-p", "-P", "", "-N", PASSPHRASE, "-f"];
    run(env.command("ssh-keygen").args(encrypt).arg(&encrypted)).assert_code(0);
    keygen(&stranger, "ed25519");
    let cut = env.home().join("cut");
    let whole = fs::read_to_string(&stranger).unwrap();
    fs::write(&cut, &whole[..whole.len() * 2 / 3]).unwrap();
    private(&cut);
    let right = write(&env.home(), "right", PASSPHRASE);
    let wrong = write(&env.home(), "wrong", "wrong answer");
    let secrets: Vec<Vec<u8>> = [&server.client_key(), &encrypted, &stranger]
        .into_iter()
        .flat_map(|key| if *key == encrypted { Vec::new() } else { secret_part(key) })
        .chain([PASSPHRASE.as_bytes().to_vec(), b"wrong answer".to_vec()])
        .collect();
    let secrets: Vec<&[u8]> = secrets.iter().map(Vec::as_slice).collect();
    let mut runs = 0;
    for (key, passphrase) in [
        (&server.client_key(), None),
        (&encrypted, Some(&right)),
        (&encrypted, Some(&wrong)),
        (&encrypted, None),
        (&stranger, None),
        (&cut, None),
        // A secret where a key is expected.
        (&right, None),
    ] {
        for name in ["push", "check"] {
            let mut command = env.archiver([name, "--to", &server.url(), "--ssh-config", "none", "-i"]);
            command.arg(key).arg("--known-hosts").arg(server.known_hosts());
            if let Some(passphrase) = passphrase {
                command.arg("--passphrase-file").arg(passphrase);
            }
            if name == "push" {
                command.args(["--force", "--retries", "1"]).arg(env.local());
            }
            for said in loudest(&mut command) {
                assert_silent(&format!("{name} {}", key.display()), &said, &secrets);
            }
            runs += 2;
        }
    }
    eprintln!("{runs} runs");
}

/// A command between us and the server gets neither the password nor anything else of ours, and nobody sees one in a list
/// of processes.
#[test]
fn children_and_process_lists_know_no_secret() {
    let env = TestEnv::new();
    write(&env.local(), "a", "a");
    let pid_file = env.path().join("child");
    let config = write(
        env.path(),
        "ssh_config",
        format!("Host *\n ProxyCommand sh -c 'echo $$ > {}; exec sleep 600'\n", pid_file.display()),
    );
    let mut command = env.archiver(["push", "--to", "sftp://pine@h/x", "-F"]);
    command
        .arg(config)
        .arg(env.local())
        .env("ARCHIVER_PASSWORD", PASSWORD)
        .env("ARCHIVER_DESTINATION__PASSWORD", PASSWORD);
    let running = Running::start(&mut command);
    let mut child = String::new();
    wait_until("the command runs", || {
        child = fs::read_to_string(&pid_file).unwrap_or_default().trim().to_owned();
        // Past its own exec, for the shell has the same environment.
        !child.is_empty() && fs::read_to_string(format!("/proc/{child}/cmdline")).is_ok_and(|line| line.contains("600"))
    });
    let own = running.pid().as_raw_nonzero().to_string();
    for (pid, file) in [(&child, "environ"), (&child, "cmdline"), (&own, "cmdline")] {
        let text = fs::read(format!("/proc/{pid}/{file}")).unwrap();
        assert!(!text.is_empty());
        assert_silent(file, &String::from_utf8_lossy(&text), &[PASSWORD.as_bytes()]);
        assert!(!String::from_utf8_lossy(&text).contains("ARCHIVER_PASSWORD"), "{file}");
    }
    // What belongs to root in /proc is closed to other processes of the same user.
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{own}/environ")).unwrap());
    assert_eq!(owner, 0);
    if is_root() {
        eprintln!("not told apart: this test runs as root, who sees everything");
    } else {
        assert!(fs::read(format!("/proc/{own}/environ")).is_err());
    }
}

/// A secret of a pod belongs to root and may be read by all; this user can do nothing about it.
#[test]
fn a_key_of_somebody_else_that_all_may_read_is_warned_of() {
    if !is_root() {
        return eprintln!("SKIPPED: giving a file away needs root");
    }
    let server = OpenSsh::plain();
    let env = TestEnv::new();
    write(&env.local(), "a", "a");
    let key = env.home().join("mounted");
    fs::copy(server.client_key(), &key).unwrap();
    chown(&key, Some(65534), None).unwrap();
    for (mode, warned) in [(0o644, true), (0o440, false), (0o600, false)] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let mut push = env.archiver(["push", "--force", "--ssh-config", "none", "--to", &server.url(), "-i"]);
        let finished = run(push.arg(&key).arg("--known-hosts").arg(server.known_hosts()).arg(env.local()));
        finished.assert_code(0);
        assert_eq!(finished.stderr.contains("too open"), warned, "{mode:o}: {}", finished.stderr);
    }
}

#[test]
fn a_password_file_that_all_may_read_is_warned_of() {
    let env = TestEnv::new();
    write(&env.local(), "a", "a");
    let server = Hostile::start(&env, Manners::default());
    let file = write(&env.home(), "password", PASSWORD);
    for (mode, warned) in [(0o644, true), (0o640, false), (0o600, false)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let mut push = env.archiver(["push", "--force", "--to", &server.url("/base"), "--password-file"]);
        let finished = run(push.arg(&file).arg(env.local()));
        finished.assert_code(0);
        assert_eq!(finished.stderr.contains("chmod o="), warned, "{mode:o}: {}", finished.stderr);
    }
}
