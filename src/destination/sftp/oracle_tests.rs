//! OpenSSH itself as the judge of what its files mean: `ssh-keygen -F` of known hosts, `ssh -G` of the configuration.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::known_hosts::{self, Role};
use super::ssh_config::{HostConfig, Proxy, Query, Strictness, Tokens, YesNo, read_text};

const ED25519: [&str; 2] = [
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN1RVxzXT5+51zngvwcgjFabLmqApLGpsNvBg7vrS5rt",
];
const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEiqNSuS/nJHi4Eac9/M+Phg4qTvpi8CTkclNtSF45wvp/OylrFeQkJ1IkUN7j6p2TZY36QEBtjf1TlqkBdHimo=";

fn said(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; scripts/test installs it"));
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One of several texts.
fn one_of(texts: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(texts)
}

fn known_hosts_line() -> impl Strategy<Value = String> {
    // A tab behind a marker is one thing that OpenSSH does not take, against its own manual; we do.
    let marker = one_of(&["", "", "", "@revoked ", "@cert-authority ", "@nonsense ", " "]);
    let pattern = one_of(&[
        "alpha",
        "ALPHA",
        "*.example",
        "?lpha",
        "!alpha",
        "!*.bad.example",
        "[alpha]:2222",
        "*",
        "[*]:2222",
        "x.example",
        "192.0.2.1",
        "[::1]:2222",
        "::1",
        "al*",
        "",
    ]);
    let patterns = proptest::collection::vec(pattern, 1..4).prop_map(|patterns| patterns.join(","));
    // What `ssh-keygen -H` makes of `alpha` and of `[alpha]:2222`.
    let hashed = proptest::collection::vec(any::<u8>(), 20).prop_flat_map(|salt| {
        one_of(&["alpha", "[alpha]:2222", "x.example"]).prop_map(move |name| hashed(&salt, name))
    });
    let names = prop_oneof![4 => patterns, 1 => hashed];
    let key = prop_oneof![
        6 => one_of(&[ED25519[0], ED25519[1], ECDSA]).prop_map(str::to_owned),
        1 => one_of(&["ssh-ed25519 AAAA", "ssh-unknown AAAA", "nonsense", "", "ssh-rsa"]).prop_map(str::to_owned),
    ];
    let between = one_of(&[" ", "\t", "  ", " \t "]);
    let comment = one_of(&["", " me@here", " # x y", "\t", " ssh-rsa"]);
    let line = (marker, names, between, key, comment)
        .prop_map(|(marker, names, between, key, comment)| format!("{marker}{names}{between}{key}{comment}"));
    prop_oneof![8 => line, 1 => one_of(&["", "#", "# alpha", "|1|", "alpha", "@revoked", "|1|AAAA|AAAA"]).prop_map(str::to_owned)]
}

fn hashed(salt: &[u8], name: &str) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let hash = Hmac::<sha1::Sha1>::new_from_slice(salt).unwrap().chain_update(name).finalize().into_bytes();
    format!("|1|{}|{}", base64(salt), base64(&hash))
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let block = chunk.iter().chain([&0; 2]).take(3).fold(0_usize, |block, byte| block << 8 | usize::from(*byte));
        for digit in 0..4 {
            text.push(if digit <= chunk.len() { DIGITS[block >> (18 - 6 * digit) & 63] as char } else { '=' });
        }
    }
    text
}

/// The lines that `ssh-keygen -F` finds, with what it says of each.
fn lines_by_openssh(file: &Path, name: &str) -> Vec<(usize, Role)> {
    let (_, text) = said("ssh-keygen", &["-l", "-F", name, "-f", file.to_str().unwrap()]);
    let found =
        text.lines().filter_map(|line| line.strip_prefix("# Host ")?.split_once(": line ").map(|(_, rest)| rest));
    found
        .map(|rest| {
            let mut words = rest.split_whitespace();
            let line = words.next().unwrap().parse().unwrap();
            let role = match words.next() {
                Some("CA") => Role::Authority,
                Some("REVOKED") => Role::Revoked,
                _ => Role::Host,
            };
            (line, role)
        })
        .collect()
}

/// An option that the archiver follows, and how it is written.
fn option() -> impl Strategy<Value = (&'static str, String)> {
    let of = |keyword: &'static str, values: &'static [&'static str]| {
        one_of(values).prop_map(move |value| (keyword, value.to_owned()))
    };
    prop_oneof![
        of("HostName", &["real.example", "192.0.2.1", "%h.example", "\"quoted.example\""]),
        of("Port", &["1", "22", "2222", "65535", "\"8022\""]),
        of("User", &["pine", "\"a b\"", "x\\ y", "o'neil", "\"o'neil\"", "a\\\"b"]),
        of("IdentityFile", &["~/.ssh/one", "/two", "\"/a b\"", "/c%%d", "none", "/x\\ y"]),
        of("CertificateFile", &["/cert", "\"/a cert\""]),
        of("IdentitiesOnly", &["yes", "no", "YES", "true", "false"]),
        of("UserKnownHostsFile", &["/known", "/one /two", "\"/a b\" /c", "none"]),
        of("GlobalKnownHostsFile", &["/global", "/one \"/t wo\""]),
        of("HostKeyAlias", &["alias", "other"]),
        of("StrictHostKeyChecking", &["yes", "accept-new", "ask"]),
        of("ProxyJump", &["gate", "u@gate:2022", "none", "a,b:7,u@[::1]:9", "ssh://u@gate:7"]),
        of("ConnectTimeout", &["5", "1m", "1m30s", "2h", "1M"]),
        of("ServerAliveInterval", &["15", "1m", "0"]),
    ]
}

fn written_option() -> impl Strategy<Value = String> {
    let spacing = one_of(&[" ", "=", " = ", "\t", "  "]);
    let end = one_of(&["", " ", "\t", " # said so", "\r"]);
    (option(), spacing, end, one_of(&["", "  ", "\t"]), any::<bool>()).prop_map(
        |((keyword, value), spacing, end, indent, lower)| {
            let keyword = if lower { keyword.to_ascii_lowercase() } else { keyword.to_owned() };
            // OpenSSH takes a comment there for a part of the host.
            let end = if keyword.eq_ignore_ascii_case("ProxyJump") { "" } else { end };
            format!("{indent}{keyword}{spacing}{value}{end}")
        },
    )
}

fn config() -> impl Strategy<Value = String> {
    let header = one_of(&[
        "Host *",
        "Host alpha",
        "Host al*",
        "Host !alpha *",
        "Host beta alpha",
        "Host \"alpha\"",
        "Host=alpha",
        "Host beta",
        "Host ?lpha # x",
        "Match all",
        "Match host alpha",
        "Match host real.example",
        "Match originalhost alpha",
        "Match !host beta",
        "Match user pine",
        "Match host alpha,beta user pine",
        "Match localuser nobody-here",
        "Match originalhost=alpha",
        "Match host *.example originalhost al*",
        "# comment",
        "",
    ]);
    let block = (header, proptest::collection::vec(written_option(), 0..5));
    proptest::collection::vec(block, 1..5).prop_map(|blocks| {
        let mut text = String::new();
        for (header, options) in blocks {
            writeln!(text, "{header}").unwrap();
            options.iter().for_each(|option| writeln!(text, "{option}").unwrap());
        }
        text
    })
}

/// What `ssh -G` prints of a keyword, in order.
fn values<'a>(text: &'a str, keyword: &str) -> Vec<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| *name == keyword)
        .map(|(_, value)| value)
        .collect()
}

fn agrees(found: &HostConfig, said: &str, text: &str) -> Result<(), TestCaseError> {
    let one = |keyword| values(said, keyword).first().copied().unwrap_or_default();
    let home = etcetera::home_dir().unwrap();
    let tokens = Tokens { home: &home, local_user: "x", original_host: "alpha", host: "alpha", port: 22, user: "x" };
    let host = found.host_name.as_deref().map_or("alpha".to_owned(), |name| tokens.expand(name).unwrap());
    prop_assert_eq!(host, one("hostname"), "HostName of\n{}", text);
    prop_assert_eq!(found.port.unwrap_or(22).to_string(), one("port"), "Port of\n{}", text);
    if let Some(user) = &found.user {
        prop_assert_eq!(user, one("user"), "User of\n{}", text);
    }
    if !found.identity_files.is_empty() {
        prop_assert_eq!(&found.identity_files, &values(said, "identityfile"), "IdentityFile of\n{}", text);
    } else {
        prop_assert!(values(said, "identityfile").contains(&"~/.ssh/id_ed25519"), "IdentityFile of\n{}", text);
    }
    prop_assert_eq!(&found.certificate_files, &values(said, "certificatefile"), "CertificateFile of\n{}", text);
    let only = if found.identities_only == Some(YesNo::Yes) { "yes" } else { "no" };
    prop_assert_eq!(only, one("identitiesonly"), "IdentitiesOnly of\n{}", text);
    for (found, keyword) in
        [(&found.user_known_hosts, "userknownhostsfile"), (&found.global_known_hosts, "globalknownhostsfile")]
    {
        if let Some(files) = found {
            prop_assert_eq!(files.join(" "), one(keyword), "{} of\n{}", keyword, text);
        }
    }
    prop_assert_eq!(
        found.host_key_alias.as_deref().unwrap_or_default(),
        one("hostkeyalias"),
        "HostKeyAlias of\n{}",
        text
    );
    let accepts = found.strictness == Some(Strictness::AcceptNew);
    prop_assert_eq!(accepts, one("stricthostkeychecking") == "accept-new", "StrictHostKeyChecking of\n{}", text);
    let seconds = |time: Option<std::time::Duration>, keyword| {
        let said = one(keyword).parse().unwrap_or(0);
        prop_assert_eq!(time.unwrap_or_default().as_secs(), said, "{} of\n{}", keyword, text);
        Ok(())
    };
    seconds(found.connect_timeout, "connecttimeout")?;
    seconds(found.server_alive_interval, "serveraliveinterval")?;
    let jumps = match &found.proxy {
        Some(Proxy::Jump(jumps)) => jumps
            .iter()
            .map(|jump| {
                let user = jump.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
                let host = if jump.host.contains(':') { format!("[{}]", jump.host) } else { jump.host.clone() };
                format!("{user}{host}{}", jump.port.map(|port| format!(":{port}")).unwrap_or_default())
            })
            .collect::<Vec<_>>()
            .join(","),
        _ => String::new(),
    };
    prop_assert_eq!(jumps, one("proxyjump").trim_start_matches("ssh://"), "ProxyJump of\n{}", text);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 8, ..Default::default() })]

    #[test]
    fn known_hosts_are_read_as_by_openssh(lines in proptest::collection::vec(known_hosts_line(), 1..12)) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        let text = lines.join("\n") + "\n";
        std::fs::write(&file, &text).unwrap();
        for (host, port) in [("alpha", 22), ("alpha", 2222), ("x.example", 22), ("y.bad.example", 22), ("::1", 22), ("beta", 2222)] {
            let name = known_hosts::name(host, port);
            let known = known_hosts::lookup(std::slice::from_ref(&file), &name).unwrap();
            let found: Vec<_> = known.iter().map(|known| (known.line, known.role)).collect();
            prop_assert_eq!(found, lines_by_openssh(&file, &name), "{} in\n{}", name, text);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..Default::default() })]

    #[test]
    fn configurations_are_read_as_by_openssh(text in config(), user in one_of(&["", "", "pine"])) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config");
        std::fs::write(&file, &text).unwrap();
        let user = (!user.is_empty()).then_some(user);
        let mut arguments = vec!["-G", "-F", file.to_str().unwrap()];
        arguments.extend(user.iter().flat_map(|user| ["-l", user]));
        arguments.extend(["--", "alpha"]);
        let (understood, said) = said("ssh", &arguments);
        let local_user = std::env::var("USER").unwrap_or_else(|_| "root".into());
        let query = Query { host: "alpha", user, local_user: &local_user, home: Path::new("/home/me") };
        let found = read_text(&text, &file, &query);
        match found {
            Ok(found) if understood => {
                // Given on the command line, it is not looked for in the file.
                let found = HostConfig { user: user.map(str::to_owned).or(found.user.clone()), ..found };
                agrees(&found, &said, &text)?;
            }
            Ok(_) => {}
            Err(error) => prop_assert!(!understood, "{} in\n{}", error, text),
        }
    }
}
