//! The key by which clients know this server again.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use russh::keys::ssh_key::{self, LineEnding};
use russh::keys::{Algorithm, HashAlg, PrivateKey, PublicKey};

/// Where the host key comes from. A new one is always Ed25519.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HostKey {
    /// Made for this run and never stored.
    #[default]
    Generated,
    /// An OpenSSH private key without a passphrase, which must exist.
    File(PathBuf),
    /// The same, made with mode 0600 where it is missing.
    FileOrCreate(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    #[error("cannot read the host key: {0}; give an unencrypted OpenSSH private key (ssh-keygen -t ed25519 -N '')")]
    Read(ssh_key::Error),
    #[error("the host key has a passphrase; give one without (ssh-keygen -p -N '' -f FILE)")]
    Encrypted,
    #[error("cannot write a new host key: {0}; check that its directory exists and is writable")]
    Write(std::io::Error),
    #[error("cannot make a host key: {0}")]
    Make(ssh_key::Error),
}

impl HostKey {
    /// The file, for messages.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Generated => None,
            Self::File(path) | Self::FileOrCreate(path) => Some(path),
        }
    }

    pub(super) fn load(&self) -> Result<PrivateKey, HostKeyError> {
        match self {
            Self::Generated => generate(),
            Self::File(path) => read(path),
            Self::FileOrCreate(path) => create(path).and_then(|new| new.map_or_else(|| read(path), Ok)),
        }
    }
}

fn generate() -> Result<PrivateKey, HostKeyError> {
    PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).map_err(HostKeyError::Make)
}

fn read(path: &Path) -> Result<PrivateKey, HostKeyError> {
    let key = PrivateKey::read_openssh_file(path).map_err(HostKeyError::Read)?;
    if key.is_encrypted() { Err(HostKeyError::Encrypted) } else { Ok(key) }
}

/// `None` where the file is there already: of two that start together, both use the same key.
fn create(path: &Path) -> Result<Option<PrivateKey>, HostKeyError> {
    if path.exists() {
        return Ok(None);
    }
    let key = generate()?;
    let text = key.to_openssh(LineEnding::LF).map_err(HostKeyError::Make)?;
    // Written under another name first, so that nobody reads half a key.
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{:016x}", rand::random::<u64>()));
    let partial = PathBuf::from(partial);
    let outcome = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| match std::fs::hard_link(&partial, path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(None),
            outcome => outcome.map(|()| Some(key)),
        });
    // Whatever happened, the other name has served; that it cannot be removed is not worth failing for.
    let _ = std::fs::remove_file(&partial);
    outcome.map_err(HostKeyError::Write)
}

/// A public key as a line of `known_hosts` (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"), without a line end.
pub(super) struct KnownHostsLine<'a> {
    pub(super) address: SocketAddr,
    pub(super) key: &'a PublicKey,
}

impl fmt::Display for KnownHostsLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = self.address.ip();
        match self.address.port() {
            22 => write!(f, "{ip}")?,
            port => write!(f, "[{ip}]:{port}")?,
        }
        let bare = PublicKey::new(self.key.key_data().clone(), "");
        write!(f, " {}", bare.to_openssh().map_err(|_| fmt::Error)?.trim_end())
    }
}

/// `SHA256:…`, as `ssh-keygen -l` prints it.
pub(super) fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_missing_key_is_made_once_and_only_for_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("host_key");
        assert!(matches!(HostKey::File(path.clone()).load(), Err(HostKeyError::Read(_))));
        let first = HostKey::FileOrCreate(path.clone()).load().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = HostKey::FileOrCreate(path.clone()).load().unwrap();
        assert_eq!(first.public_key().key_data(), again.public_key().key_data());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");

        std::fs::write(&path, "no key").unwrap();
        assert!(matches!(HostKey::FileOrCreate(path).load(), Err(HostKeyError::Read(_))), "never replaced");
        let nowhere = directory.path().join("missing/host_key");
        assert!(matches!(HostKey::FileOrCreate(nowhere).load(), Err(HostKeyError::Write(_))));
    }

    #[test]
    fn known_hosts_lines_name_the_port_where_it_is_not_22() {
        let key = HostKey::Generated.load().unwrap();
        let line =
            |address: &str| KnownHostsLine { address: address.parse().unwrap(), key: key.public_key() }.to_string();
        assert!(line("127.0.0.1:2222").starts_with("[127.0.0.1]:2222 ssh-ed25519 AAAA"));
        assert!(line("127.0.0.1:22").starts_with("127.0.0.1 ssh-ed25519 AAAA"));
        assert!(line("[::1]:2222").starts_with("[::1]:2222 ssh-ed25519 AAAA"));
    }
}
