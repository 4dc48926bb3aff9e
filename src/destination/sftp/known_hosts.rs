//! `known_hosts` (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT): which keys a host may have, and a line for a new one.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use russh::keys::PublicKey;
use russh::keys::ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use sha1::Sha1;

use super::pattern;
use crate::destination::DestinationError;
use crate::domain::display;

/// A line that speaks of the host in question.
#[derive(Debug, Clone)]
pub struct Known {
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    pub role: Role,
    pub key: PublicKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Host,
    /// `@cert-authority`
    Authority,
    /// `@revoked`
    Revoked,
}

/// The name a host goes by in these files: `host`, or `[host]:port` where the port is not 22.
pub fn name(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == 22 { host } else { format!("[{host}]:{port}") }
}

/// All lines about the host in these files, in order. Files that do not exist are passed over, as are lines that
/// cannot be read (another key type, say): they then simply vouch for nobody.
pub fn lookup(files: &[PathBuf], name: &str) -> Result<Vec<Known>, DestinationError> {
    let mut found = Vec::new();
    for file in files {
        let text = match std::fs::read(file) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                let what = format!("reading the known hosts in {}", display::path(file));
                return Err(DestinationError::refusal(what, error.to_string())
                    .hint("make the file readable, or name another one with --known-hosts"));
            }
        };
        found.extend(lines_about(file, &text, name));
    }
    Ok(found)
}

/// The lines about the host in the text of one file.
pub(crate) fn lines_about(file: &Path, text: &str, name: &str) -> Vec<Known> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // Fields may be separated by tabs, which the crate does not take.
        let fields: Vec<_> = line.split_whitespace().collect();
        let Ok(entry) = fields.join(" ").parse::<Entry>() else {
            tracing::debug!("{} line {}: passed over, not understood", display::path(file), number + 1);
            continue;
        };
        if is_for(entry.host_patterns(), name) {
            let role = match entry.marker() {
                None => Role::Host,
                Some(Marker::CertAuthority) => Role::Authority,
                Some(Marker::Revoked) => Role::Revoked,
            };
            let key = entry.public_key().clone();
            found.push(Known { file: file.to_owned(), line: number + 1, role, key });
        }
    }
    found
}

fn is_for(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::Patterns(patterns) => {
            let patterns: Vec<_> = patterns.iter().map(|pattern| pattern.to_ascii_lowercase()).collect();
            pattern::list_matches(patterns.iter().map(String::as_str), name)
        }
        HostPatterns::HashedName { salt, hash } => Hmac::<Sha1>::new_from_slice(salt)
            .is_ok_and(|mac| mac.chain_update(name.as_bytes()).verify_slice(hash).is_ok()),
    }
}

/// Adds a line for a new key. The file is created with mode 0600 and its directory with 0700. The line is written by
/// one call in append mode under a lock, so that processes that do this at once each leave a whole line.
pub fn append(file: &Path, name: &str, key: &PublicKey) -> io::Result<()> {
    if let Some(dir) = file.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let mut open = std::fs::OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(file)?;
    open.lock()?;
    let before = std::fs::read(file)?;
    let mut line = String::new();
    if before.last().is_some_and(|last| *last != b'\n') {
        line.push('\n');
    }
    let mut key = key.clone();
    key.set_comment("");
    let key = key.to_openssh().map_err(io::Error::other)?;
    line.push_str(&format!("{name} {}\n", key.trim_end()));
    // Another process may have added the same one since we looked.
    if !String::from_utf8_lossy(&before).lines().any(|known| known == line.trim()) {
        open.write_all(line.as_bytes())?;
        open.sync_data()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn roles(text: &str, name: &str) -> Vec<(usize, Role)> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known_hosts");
        std::fs::write(&file, text).unwrap();
        let missing = dir.path().join("missing");
        lookup(&[missing, file], name).unwrap().iter().map(|known| (known.line, known.role)).collect()
    }

    #[test]
    fn names_carry_other_ports() {
        assert_eq!(name("Host", 22), "host");
        assert_eq!(name("::1", 2222), "[::1]:2222");
    }

    #[test]
    fn patterns_negations_markers_and_rubbish() {
        let text = format!(
            "# comment\n\nh {KEY} me\n*.example,!bad.example\t{KEY}\n[h]:2 {KEY}\n@revoked * {KEY}\n@cert-authority H {KEY}\nh ssh-unknown AAAA\nnonsense\n"
        );
        assert_eq!(roles(&text, "h"), [(3, Role::Host), (6, Role::Revoked), (7, Role::Authority)]);
        assert_eq!(roles(&text, "[h]:2"), [(5, Role::Host), (6, Role::Revoked)]);
        assert_eq!(roles(&text, "x.example"), [(4, Role::Host), (6, Role::Revoked)]);
        assert_eq!(roles(&text, "bad.example"), [(6, Role::Revoked)]);
    }

    #[test]
    fn new_lines_are_whole_private_and_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/known_hosts");
        let key = PublicKey::from_openssh(KEY).unwrap();
        append(&file, "h", &key).unwrap();
        append(&file, "h", &key).unwrap();
        append(&file, "[h]:2", &key).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("h {KEY}\n[h]:2 {KEY}\n"));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&file, "unfinished").unwrap();
        append(&file, "h", &key).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("unfinished\nh {KEY}\n"));
    }
}
