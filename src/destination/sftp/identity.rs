//! Private keys and their certificates, from files.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use russh::keys::{Certificate, PrivateKey, PublicKey, decode_secret_key};

use super::auth::{Credentials, Origin};
use crate::destination::DestinationError;
use crate::domain::{self, Access, display};

/// A key file that was read.
pub struct Identity {
    pub path: PathBuf,
    public: PublicKey,
    /// `None` where it is encrypted and no passphrase fits; an agent may hold it all the same.
    pub private: Option<PrivateKey>,
    pub certificate: Option<Certificate>,
}

impl Identity {
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }
}

/// Reads all key files. With [`Origin::Explicit`] each must be usable; otherwise those that are not are passed over.
pub fn load(credentials: &Credentials) -> Result<Vec<Identity>, DestinationError> {
    let explicit = credentials.certificates.iter().map(|path| certificate(path)).collect::<Result<Vec<_>, _>>()?;
    let mut identities = Vec::new();
    for path in &credentials.identities {
        match one(path, credentials) {
            Ok(mut identity) => {
                let own = explicit.iter().find(|c| c.public_key() == identity.public.key_data());
                identity.certificate = match own {
                    Some(certificate) => Some(certificate.clone()),
                    None => beside(path),
                };
                identities.push(identity);
            }
            Err((error, _)) if credentials.origin == Origin::Explicit => return Err(error),
            Err((_, Presence::Missing)) => {}
            Err((error, Presence::Unusable)) => {
                tracing::warn!(
                    "passed over: {error}{}",
                    error.hint.iter().map(|h| format!(" ({h})")).collect::<String>()
                );
            }
        }
    }
    Ok(identities)
}

/// What to do about a secret that may not be read.
pub(super) const READABLE: &str = "make it readable for this user, and for no others: `chown` it, or `chmod 0440` and give \
     it a group of this process; for a Secret of a pod set `defaultMode: 0440` and `securityContext.fsGroup`";

/// Why a file may not be read, as far as users and modes tell.
pub(super) fn refused(path: &Path, error: &io::Error) -> String {
    // Behind a directory that refuses, nothing more can be known.
    let Ok(found) = std::fs::metadata(path) else {
        return format!("{error}; a directory above it may not be searched");
    };
    let process =
        domain::Identity { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    let owner = domain::Identity { uid: found.uid(), gid: found.gid() };
    format!("{error}: {}", Access { owner, mode: found.mode() & 0o7777, process })
}

enum Presence {
    Missing,
    Unusable,
}

fn one(path: &Path, credentials: &Credentials) -> Result<Identity, (DestinationError, Presence)> {
    let what = || format!("reading the key {}", display::path(path));
    let wrong = |why: String, hint: &str| (DestinationError::refusal(what(), why).hint(hint), Presence::Unusable);
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| not_a_key(path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let error = DestinationError::refusal(what(), "there is no such file").hint(
                "name a private key with --identity, or make one with `ssh-keygen -t ed25519`; in a container, see \
                     that the Secret with it exists and is mounted there",
            );
            return Err((error, Presence::Missing));
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(wrong(refused(path, &error), READABLE));
        }
        Err(error) => return Err(wrong(error.to_string(), "check the path, and the disk it is on")),
    };
    if text.starts_with("ssh-") || text.starts_with("ecdsa-") {
        return Err(wrong("this is a public key".into(), "name the private one, without `.pub`"));
    }
    if text.starts_with("PuTTY-User-Key-File") {
        return Err(wrong(
            "this is a key in PuTTY's format".into(),
            "convert it with `puttygen KEY -O private-openssh -o NEW`",
        ));
    }
    permissions(path).map_err(|error| (error, Presence::Unusable))?;
    let passphrase = credentials.passphrase.as_ref().map(|secret| secret.expose());
    match decode_secret_key(&text, None) {
        Ok(key) => return Ok(identity(path, key.public_key().clone(), Some(key))),
        Err(russh::keys::Error::KeyIsEncrypted) => {}
        // Old encrypted formats come back as what they cannot be decoded as.
        Err(_) if text.contains("ENCRYPTED") => {}
        Err(_) => return Err(not_a_key(path)),
    }
    if let Some(passphrase) = passphrase {
        return match decode_secret_key(&text, Some(passphrase)) {
            Ok(key) => Ok(identity(path, key.public_key().clone(), Some(key))),
            Err(_) => Err(wrong("the passphrase is wrong".into(), "check the file named by --passphrase-file")),
        };
    }
    // The public half stands in the clear, in the file or beside it; with an agent that is enough.
    let public = PrivateKey::from_openssh(&text).map(|key| key.public_key().clone()).ok();
    let public = public.or_else(|| PublicKey::read_openssh_file(path.with_added_extension("pub")).ok());
    match (public, &credentials.agent) {
        (Some(public), Some(_)) => Ok(identity(path, public, None)),
        _ => Err(wrong(
            "it is encrypted, and there is no passphrase".into(),
            "give its passphrase with --passphrase-file, or load the key into an agent with `ssh-add`",
        )),
    }
}

fn identity(path: &Path, public: PublicKey, private: Option<PrivateKey>) -> Identity {
    Identity { path: path.to_owned(), public, private, certificate: None }
}

fn not_a_key(path: &Path) -> (DestinationError, Presence) {
    let error = DestinationError::refusal(
        format!("reading the key {}", display::path(path)),
        "this is no private key of a known format",
    )
    .hint("keys begin with `-----BEGIN OPENSSH PRIVATE KEY-----` or a similar line; `ssh-keygen -y -f KEY` checks one");
    (error, Presence::Unusable)
}

/// Others must not reach a key at all, and its group must not change it. The group may read it, for Kubernetes mounts
/// secrets 0440 for the group of the pod. A key that belongs to somebody else, as secrets in a pod belong to root, cannot
/// be corrected by this user: that is worth a warning only. OpenSSH does not look at those at all.
fn permissions(path: &Path) -> Result<(), DestinationError> {
    let what = || format!("reading the key {}", display::path(path));
    let found = std::fs::metadata(path).map_err(|error| DestinationError::refusal(what(), error.to_string()))?;
    if found.mode() & 0o027 == 0 {
        return Ok(());
    }
    let why = format!("its permissions {:04o} are too open", found.mode() & 0o7777);
    if found.uid() != rustix::process::geteuid().as_raw() {
        tracing::warn!("{}: {why} (a Kubernetes secret: `defaultMode: 0440`)", display::path(path));
        return Ok(());
    }
    Err(DestinationError::refusal(what(), why)
        .hint(format!("run `chmod 600 {}` (a Kubernetes secret: `defaultMode: 0440`)", display::path(path))))
}

fn certificate(path: &Path) -> Result<Certificate, DestinationError> {
    let wrong = |why: String| {
        DestinationError::refusal(format!("reading the certificate {}", display::path(path)), why)
            .hint("it should hold one line that begins with the key's type and `-cert-v01@openssh.com`")
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    Certificate::from_openssh(text.trim()).map_err(|error| wrong(error.to_string()))
}

/// `<key>-cert.pub`, where `ssh-keygen -s` puts it.
fn beside(key: &Path) -> Option<Certificate> {
    let mut name = key.as_os_str().to_owned();
    name.push("-cert.pub");
    let path = PathBuf::from(name);
    if !path.exists() {
        return None;
    }
    certificate(&path).inspect_err(|error| tracing::warn!("passed over: {error}")).ok()
}
