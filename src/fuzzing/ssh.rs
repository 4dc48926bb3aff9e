//! What other people's files and servers say: known hosts, SSH configuration, SFTP replies.

use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};

use super::Input;
use crate::destination::sftp::known_hosts::{self, Role};
use crate::destination::sftp::ssh_config::{self, Query, Tokens};
use crate::destination::sftp::{pattern, wire};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

pub(super) const KNOWN_HOSTS_WORDS: &[&str] = &[
    KEY,
    "@revoked ",
    "@cert-authority ",
    "host",
    "[host]:2222",
    "*",
    "?",
    "!",
    ",",
    "|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg= ",
    "|1|",
    "\n",
    "\t",
    " ",
    "#",
    "ssh-rsa AAAA",
    "é",
    "\u{a0}",
    "::1",
];

pub fn known_hosts(data: &[u8]) {
    let mut input = Input::new(data);
    let host = input.text_line();
    let port = if input.below(2) == 0 { 22 } else { input.number() as u16 };
    let text = input.text();
    let name = known_hosts::name(&host, port);
    let file = Path::new("known_hosts");
    let found = known_hosts::lines_about(file, &text, &name);
    let lines: Vec<_> = text.lines().collect();
    for known in &found {
        let line = lines[known.line - 1].trim();
        let marked = if line.starts_with("@revoked") {
            Role::Revoked
        } else if line.starts_with("@cert-authority") {
            Role::Authority
        } else {
            Role::Host
        };
        assert_eq!(known.role, marked, "{line:?}");
    }
    // What we add ourselves is found, whatever stood before.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
    if !host.is_empty() && host.chars().all(plain) {
        let text = format!("{text}\n{name} {KEY}\n");
        let more = known_hosts::lines_about(file, &text, &name);
        assert_eq!(more.len(), found.len() + 1);
        assert_eq!(more.last().map(|known| known.role), Some(Role::Host));
    }
}

pub(super) const CONFIG_WORDS: &[&str] = &[
    "Host ",
    "Match ",
    "host ",
    "originalhost ",
    "user ",
    "localuser ",
    "all",
    "exec ",
    "final",
    "HostName ",
    "Port ",
    "User ",
    "IdentityFile ",
    "IdentitiesOnly ",
    "IdentityAgent ",
    "UserKnownHostsFile ",
    "StrictHostKeyChecking ",
    "ProxyJump ",
    "ProxyCommand ",
    "ConnectTimeout ",
    "Ciphers ",
    "=",
    "\"",
    "'",
    "\\",
    "#",
    "!",
    "*",
    "?",
    ",",
    "\n",
    " ",
    "yes",
    "none",
    "22",
    "1m30s",
    "u@h:1",
    "[::1]:7",
    "ssh://a",
    "%h",
    "%%",
    "%",
    "${HOME}",
    "${",
    "$",
    "~",
    "é",
];

pub fn ssh_config(data: &[u8]) {
    let mut input = Input::new(data);
    let (host, user) = (input.text_line(), input.text_line());
    let text = input.text();
    let home = Path::new("/home/me");
    let tokens = Tokens { home, local_user: "me", original_host: &host, host: &host, port: 22, user: &user };
    for line in text.lines() {
        let _ = (tokens.expand(line), tokens.path(line), line.parse::<ssh_config::Jump>());
        let covers = covers(line.as_bytes(), host.as_bytes());
        if let Some(covers) = covers {
            assert_eq!(pattern::matches(line, &host), covers, "{line:?} {host:?}");
        }
    }
    let query = Query { host: &host, user: (!user.is_empty()).then_some(&user), local_user: "me", home };
    // Files that it includes would be read from this machine.
    if text.to_lowercase().contains("include") {
        return;
    }
    if let Err(error) = ssh_config::read_text(&text, Path::new("config"), &query) {
        let line = error.why.strip_prefix("line ").and_then(|why| why.split_once(':')?.0.parse::<usize>().ok());
        assert!(line.is_some_and(|line| (1..=text.lines().count()).contains(&line)), "{error}");
        assert!(super::domain::is_inert(&error.to_string()), "{error:?}");
    }
}

/// The rule of patterns, as slow as it is plain; `None` where it would be too slow.
fn covers(pattern: &[u8], text: &[u8]) -> Option<bool> {
    if pattern.len() > 24 || text.len() > 24 || pattern.iter().filter(|byte| **byte == b'*').count() > 4 {
        return None;
    }
    fn go(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => (0..=text.len()).any(|from| go(rest, &text[from..])),
            (Some((p, pattern)), Some((t, text))) => (*p == b'?' || p == t) && go(pattern, text),
            _ => false,
        }
    }
    Some(go(pattern, text))
}

pub fn sftp_replies(data: &[u8]) {
    let mut input = Input::new(data);
    let mut stream = BytesMut::new();
    if input.below(2) == 0 {
        stream.extend_from_slice(input.rest());
    } else {
        // Whole packets, whose fields are anything.
        while !input.is_empty() {
            let kind = input.one_of(&[2_u8, 101, 102, 103, 104, 105, 201, 0, 99]);
            let length = input.below(64);
            let body = input.bytes(length);
            stream.put_u32(body.len() as u32 + 1);
            stream.put_u8(kind);
            stream.put_slice(body);
        }
    }
    let size = stream.len();
    while let Ok(Some(packet)) = wire::take_packet(&mut stream) {
        assert!(packet.len() < size);
        if let Ok((_, wire::Reply::Names(names))) = wire::reply(packet.clone()) {
            // A name takes three lengths at least, so memory is bounded by the packet.
            assert!(names.len() * 12 <= packet.len());
        }
        let _ = wire::version(packet.clone());
        let mut fields: Bytes = packet;
        while wire::string(&mut fields).is_ok() {}
    }
    assert!(stream.capacity() <= size + wire::MAX_PACKET + 4);
}
