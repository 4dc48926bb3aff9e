//! Nothing that steers a terminal or forges a line gets out, wherever it came from.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use russh::MethodKind;

use crate::support::embedded::{Embedded, PASSWORD};
use crate::support::env::{Finished, TestEnv, run, write};
use crate::support::hostile::{Hostile, Manners, attributes, field, reply, request, status};
use crate::support::openssh::keygen;

/// Clears the screen, sets the title, forges lines, hides and reorders text.
const NASTY: &str = "\x1b[2J\x1b]0;owned\x07\r\nERROR forged\x08\x7f\u{9b}31m\u{90}\u{202e}\u{2066}\u{feff}\t.";

/// All ways of looking at a run.
const VIEWS: [&[&str]; 4] = [&[], &["-v", "--log-format", "json"], &["-vvv"], &["-vvv", "--log-format", "json"]];

fn steers(c: char) -> bool {
    let reorders =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    (c.is_control() && !matches!(c, '\n' | '\t')) || reorders
}

#[track_caller]
fn assert_inert(what: &str, text: &str) {
    // CSV's line ends (RFC 4180).
    let text = text.replace("\r\n", "\n");
    for line in text.lines() {
        assert!(!line.contains(steers), "{what}: {line:?}");
        assert!(!line.trim_start().starts_with("ERROR forged"), "{what}: a forged line");
    }
}

#[track_caller]
fn run_inert(what: &str, command: &mut Command) -> Finished {
    let finished = run(command);
    assert_inert(&format!("{what}, standard output"), &finished.stdout);
    assert_inert(&format!("{what}, standard error"), &finished.stderr);
    assert!(finished.code().is_some_and(|code| code < 101), "{what}: {finished:?}");
    finished
}

/// Names of files, directories, sources and a layout, in each kind of summary, whether they are archived or fail.
#[test]
fn names_are_shown_and_do_nothing() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    let nasty = NASTY.replace('/', "");
    write(&env.local(), format!("{nasty}/{nasty}.csv"), "a");
    write(&env.local(), OsStr::from_bytes(b"d/\xff\xc2\x1b[2J\x9b.csv"), "b");
    // Fails: longer on the server than a name may be.
    write(&env.local(), OsStr::from_bytes(&[&b"\x1b[2J"[..], &[0xff; 120]].concat()), "c");
    std::os::unix::fs::symlink("nowhere", env.local().join(format!("link{nasty}"))).unwrap();
    let mut runs = 0;
    for command in ["push", "check"] {
        for summary in ["table", "json", "csv"] {
            for view in VIEWS {
                let mut archiver = env.archiver([command, "--to", &server.url("/base")]);
                if command == "push" {
                    archiver.args(["--summary", summary, "--force"]).arg(env.local());
                }
                let finished = run_inert(&format!("{command} {summary} {view:?}"), archiver.args(view));
                if command == "push" {
                    assert!(finished.stdout.contains("owned"), "{finished:?}");
                }
                runs += 1;
            }
        }
    }
    eprintln!("{runs} runs");
}

#[test]
fn lists_and_single_paths_are_shown_and_do_nothing() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    let list = write(env.path(), "list", format!("missing {NASTY}\0../{NASTY}\0/abs{NASTY}\0"));
    for view in VIEWS {
        let mut push = env.archiver(["push", "--to", &server.url("/"), "-0", "--files-from"]);
        run_inert("list", push.arg(&list).arg(env.local()).args(view));
        let mut push = env.archiver(["push", "--to", &server.url("/")]);
        run_inert("path", push.arg(format!("missing{NASTY}")).args(view));
        let mut watch = env.archiver(["watch", "--to", &server.url("/"), "--idle-exit", "1ms"]);
        run_inert("watch", watch.arg(env.path().join(format!("missing{NASTY}"))).args(view));
    }
}

/// Everything a server can say, at each point where it says something.
#[test]
fn what_a_server_says_is_shown_and_does_nothing() {
    let raw: Vec<u8> = [NASTY.as_bytes(), b"\xff\x9b2J"].concat();
    type Make = fn(Vec<u8>) -> Manners;
    let servers: [(&str, Make); 8] = [
        ("identification", |_| Manners {
            identification: "SSH-2.0-x\x1b[2J\u{202e}\u{9b}".into(),
            ..Manners::default()
        }),
        ("banner", |_| Manners { banner: Some(NASTY.into()), ..Manners::default() }),
        ("prompt", |_| Manners { method: MethodKind::KeyboardInteractive, prompt: NASTY.into(), ..Manners::default() }),
        ("farewell", |_| Manners { farewell: Some(NASTY.into()), ..Manners::default() }),
        ("debug", |_| Manners { debug: (3, NASTY.into()), ..Manners::default() }),
        ("status", |raw| {
            let no = move |packet: &[u8]| (packet[0] != request::INIT).then(|| vec![status(packet, 4, &raw)]);
            Manners { reply: Box::new(no), ..Manners::default() }
        }),
        ("extensions", |raw| {
            let version = move |packet: &[u8]| {
                let version = [&[2, 0, 0, 0, 3][..], &field(&raw), &field(&raw)].concat();
                (packet[0] == request::INIT).then(|| vec![version])
            };
            Manners { reply: Box::new(version), ..Manners::default() }
        }),
        ("names", |raw| {
            let names = move |packet: &[u8]| match packet[0] {
                request::REALPATH | request::READDIR => {
                    let name = [field(&raw), field(&raw), attributes(1, 0o100_644)].concat();
                    Some(vec![reply(104, packet, &[&1_u32.to_be_bytes(), &name])])
                }
                _ => None,
            };
            Manners { reply: Box::new(names), ..Manners::default() }
        }),
    ];
    let mut runs = 0;
    for (what, make) in servers {
        let env = TestEnv::new();
        write(&env.local(), "a", "a");
        let server = Hostile::start(&env, make(raw.clone()));
        for view in VIEWS {
            for command in ["push", "check"] {
                let mut archiver = env.archiver([command, "--to", &server.url("/base")]);
                archiver.env("ARCHIVER_PASSWORD", PASSWORD).env("ARCHIVER_RETRY__INITIAL_BACKOFF", "1ms");
                archiver.env("ARCHIVER_POOL__REQUEST_TIMEOUT", "2s").args(view);
                if command == "push" {
                    archiver.args(["--retries", "1", "--force"]).arg(env.local());
                }
                run_inert(&format!("{what} {command} {view:?}"), &mut archiver);
                runs += 1;
            }
        }
    }
    eprintln!("{runs} runs");
}

#[test]
fn a_peer_that_is_no_ssh_server_does_nothing() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("sftp://u@{}/x", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            // The client may be gone already.
            let _ = std::io::Write::write_all(&mut stream, NASTY.as_bytes());
        }
    });
    let env = TestEnv::new();
    write(&env.local(), "a", "a");
    for view in VIEWS {
        let mut push = env.archiver(["push", "--retries", "1", "--to", &to]);
        run_inert("peer", push.arg(env.local()).args(view));
    }
}

/// Files that somebody else may have written: each mistake in them is quoted.
#[test]
fn what_stands_in_configuration_files_does_nothing() {
    let env = TestEnv::new();
    write(&env.local(), "a", "a");
    let server = Embedded::start(&env);
    let quoted = r"\u001b[2J\u009b31m\u202e\r\nERROR forged\u0007";
    let configurations = [
        format!("\"{quoted}\" = 1\n"),
        format!("[destination]\nurl = \"sftp://h{quoted}/x\"\n"),
        format!("[destination]\nlayout = \"{quoted}\"\nhost-key = \"{quoted}\"\ntimezone = \"{quoted}\"\n"),
        format!("[log]\nlevel = \"{quoted}\"\nformat = \"{quoted}\"\n"),
        format!(
            "[[source]]\nname = \"{quoted}\"\npaths = [\"/nowhere{quoted}\"]\ninclude = [\"[{quoted}\"]\nafter = \"move={quoted}\"\n"
        ),
        format!("[ledger]\nurl = \"/nowhere{quoted}/x\"\n"),
        format!("[destination]\nidentity = \"/nowhere{quoted}\"\nknown-hosts = \"/nowhere{quoted}\"\n"),
        format!("broken {NASTY}\n"),
        format!("key = '''{NASTY}"),
    ];
    let mut runs = 0;
    for text in &configurations {
        let file = write(env.path(), "odd.toml", text);
        for command in ["push", "check", "show", "watch"] {
            for view in VIEWS {
                let mut archiver = match command {
                    "show" => {
                        env.archiver(["config", "show", "--format", if view.is_empty() { "json" } else { "toml" }])
                    }
                    "watch" => env.archiver(["watch", "--idle-exit", "1ms"]),
                    command => env.archiver([command]),
                };
                archiver.arg("--config").arg(&file).args(if command == "show" { &[] } else { view });
                if !text.contains("url =") && command != "show" {
                    archiver.args(["--to", &server.url("/")]);
                }
                if command == "push" && !text.contains("source") {
                    archiver.arg(env.local());
                }
                run_inert(&format!("{command} with {text:?}"), &mut archiver);
                runs += 1;
            }
        }
    }
    eprintln!("{runs} runs");
}

#[test]
fn what_stands_in_ssh_files_does_nothing() {
    let env = TestEnv::new();
    write(&env.local(), "a", "a");
    let server = Embedded::start(&env);
    let line = NASTY.replace(['\r', '\n'], "");
    let ssh = env.home().join(".ssh");
    let known = std::fs::read_to_string(ssh.join("known_hosts")).unwrap();
    keygen(&env.path().join("other"), "ed25519");
    let other = std::fs::read_to_string(env.path().join("other.pub")).unwrap();
    let address = server.address();
    let names = format!("[{}]:{}", address.ip(), address.port());
    let configs = [
        format!("{line} yes\nHost *\n  {line}\n"),
        format!("Host *\n HostName {line}\n"),
        format!("Host *\n ProxyCommand {line} %{line}\n"),
        format!("Host *\n ProxyJump {line}\n"),
        format!("Match {line}\n"),
        format!(
            "Host *\n IdentityFile /nowhere{line}\n UserKnownHostsFile /nowhere{line}\n StrictHostKeyChecking {line}\n"
        ),
        format!("Host *\n HostKeyAlias {line}\n"),
        format!("Host *\n User {line}\n Port {line}\n"),
        format!("Include /nowhere{line}\nHost \"unclosed {line}\n"),
    ];
    let hosts = [
        format!("{line} {line} {line}\n{known}"),
        format!("{names} {} {line}\n", other.trim()),
        format!("@{line} * {other}"),
        format!("@revoked * {}\n", known.split_once(' ').unwrap().1),
    ];
    let empty = String::new();
    let cases = configs.iter().map(|config| (config, &known)).chain(hosts.iter().map(|hosts| (&empty, hosts)));
    let mut runs = 0;
    for (config, hosts) in cases {
        let config_file = write(&ssh, "config", config);
        write(&ssh, "known_hosts", hosts);
        for command in ["push", "check"] {
            for view in VIEWS {
                let mut archiver = env.archiver([command, "--to", &server.url("/")]);
                archiver.arg("-F").arg(&config_file).args(view).env("ARCHIVER_POOL__CONNECT_TIMEOUT", "2s");
                if command == "push" {
                    archiver.args(["--retries", "1"]).arg(env.local());
                }
                run_inert(&format!("{command} with {config:?} and {hosts:?}"), &mut archiver);
                runs += 1;
            }
        }
    }
    eprintln!("{runs} runs");
}

/// What is typed is the user's own; in a script it may be somebody else's.
#[test]
fn arguments_and_variables_do_nothing() {
    let env = TestEnv::new();
    for arguments in [
        vec![format!("--{NASTY}")],
        vec!["push".into(), format!("--{NASTY}")],
        vec![NASTY.into()],
        vec!["push".into(), "--after".into(), NASTY.into()],
        vec!["push".into(), "--to".into(), format!("sftp://h/{NASTY}")],
        vec!["push".into(), "--to".into(), NASTY.into(), NASTY.into()],
        vec!["push".into(), "--connections".into(), NASTY.into()],
        vec!["push".into(), "--config".into(), NASTY.into()],
        vec![
            "push".into(),
            "--summary-file".into(),
            format!("/nowhere{NASTY}"),
            "--to".into(),
            "sftp://127.0.0.1:1/x".into(),
            ".".into(),
        ],
        vec!["config".into(), "show".into(), "--config".into(), NASTY.into()],
        vec!["completions".into(), NASTY.into()],
        vec!["serve".into(), "--listen".into(), NASTY.into()],
    ] {
        run_inert(&format!("{arguments:?}"), &mut env.archiver(&arguments));
    }
    for (variable, value) in [
        ("ARCHIVER_TO", NASTY),
        ("ARCHIVER_LAYOUT", NASTY),
        ("ARCHIVER_LOG", NASTY),
        ("ARCHIVER_NO\x1b[2J", "x"),
        ("ARCHIVER_SOURCE", NASTY),
        ("ARCHIVER_LEDGER", NASTY),
    ] {
        for command in [&["push", "."][..], &["config", "show"]] {
            run_inert(variable, env.archiver(command).env(variable, value));
        }
    }
}
