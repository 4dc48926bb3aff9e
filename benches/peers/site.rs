//! The site of the measurements: an OpenSSH server of its own, keys, a client's configuration, and an environment in
//! which nothing of the caller's counts.

use std::fmt::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::openssh::OpenSsh;
use crate::place::Place;

const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
/// Where a second archiver's link stands.
const OTHER: &str = "other-bin";

pub struct Site {
    // Dropped in this order: nothing is removed from under a server that runs.
    server: OpenSsh,
    pub place: Place,
}

/// Which archiver a command means with `archiver`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    Ours,
    /// That of `--against`.
    Other,
}

impl Site {
    /// `archiver` is what is measured; `other` is what it is measured against, if anything.
    pub fn make(archiver: &Path, other: Option<&Path>) -> Result<Self> {
        let place = Place::make()?;
        tempfile::env::override_temp_dir(place.path()).ok().context("the directory for temporary files is set")?;
        let server = OpenSsh::builder().option("LogLevel INFO").start();
        link_binary(&place, "bin", archiver)?;
        if let Some(other) = other {
            link_binary(&place, OTHER, other)?;
        }
        place.fresh("home")?;
        Ok(Self { server, place })
    }

    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Runs a line of shell with what it needs to reach the server through a port: `$SRC`, `$DST`, `$SSH_CONFIG` (with
    /// the host `bench`), the archiver as `archiver`, an empty home, and a fresh directory for its ledger.
    pub fn command(&self, script: &str, binary: Binary, port: u16, dirs: &Dirs) -> Result<Command> {
        let mut command = Command::new("bash");
        command.args(["-o", "pipefail", "-c", script]).current_dir(self.place.path());
        let bin = self.place.path().join(if binary == Binary::Other { OTHER } else { "bin" });
        command.env_clear().env("PATH", format!("{}:{PATH}", bin.display()));
        command.env("HOME", self.place.path().join("home")).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        command.env("SRC", &dirs.source).env("DST", &dirs.target).env("XDG_STATE_HOME", &dirs.state);
        command.env("SSH_CONFIG", self.client_config(port)?);
        command.env("RCLONE_CONFIG", "/dev/null").env("RCLONE_SFTP_HOST", "127.0.0.1");
        command.env("RCLONE_SFTP_PORT", port.to_string()).env("RCLONE_SFTP_USER", self.server.user());
        command.env("RCLONE_SFTP_KEY_FILE", self.server.client_key());
        command.env("RCLONE_SFTP_KNOWN_HOSTS_FILE", self.known_hosts(port)?);
        Ok(command)
    }

    /// A file for `ssh -F`.
    fn client_config(&self, port: u16) -> Result<PathBuf> {
        let path = self.place.path().join(format!("ssh_config-{port}"));
        let mut text = String::new();
        writeln!(text, "Host bench")?;
        writeln!(text, "  HostName 127.0.0.1\n  Port {port}\n  User {}", self.server.user())?;
        writeln!(text, "  IdentityFile {}\n  IdentitiesOnly yes", self.server.client_key().display())?;
        writeln!(text, "  UserKnownHostsFile {}", self.known_hosts(port)?.display())?;
        writeln!(text, "  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  BatchMode yes")?;
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// With the server's key under that port, which may be a relay's.
    fn known_hosts(&self, port: u16) -> Result<PathBuf> {
        let path = self.place.path().join(format!("known_hosts-{port}"));
        std::fs::write(&path, format!("[127.0.0.1]:{port} {}\n", self.server.host_key("ed25519")))?;
        Ok(path)
    }

    /// Where commands write what goes wrong.
    pub fn errors(&self) -> PathBuf {
        self.place.path().join("errors")
    }
}

/// What one run reads and writes.
pub struct Dirs {
    pub source: PathBuf,
    pub target: PathBuf,
    /// For the archiver's ledger.
    pub state: PathBuf,
}

impl Dirs {
    /// A fresh target and a fresh ledger for a source.
    pub fn fresh(site: &Site, source: &Path) -> Result<Self> {
        let (target, state) = (site.place.fresh("out")?, site.place.fresh("state")?);
        Ok(Self { source: source.to_owned(), target, state })
    }
}

fn link_binary(place: &Place, directory: &str, binary: &Path) -> Result<()> {
    let binary = binary.canonicalize().with_context(|| format!("no archiver at {}", binary.display()))?;
    symlink(binary, place.fresh(directory)?.join("archiver"))?;
    Ok(())
}
