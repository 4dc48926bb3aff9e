//! Is this the server we mean? Unknown and changed keys are refused unless the user chose otherwise (G8).

use std::path::PathBuf;
use std::sync::Mutex;

use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{Algorithm, Certificate, EcdsaCurve, HashAlg, PublicKey, PublicKeyOrCertificate};

use super::known_hosts::{self, Known, Role};
use super::pattern;
use crate::destination::DestinationError;
use crate::domain::{HostKeyPolicy, display};

/// Where the keys of one host are looked up, and what is accepted.
#[derive(Debug)]
pub struct HostKeys {
    host: String,
    port: u16,
    /// As known_hosts has it, from the alias where there is one.
    name: String,
    files: Vec<PathBuf>,
    policy: HostKeyPolicy,
    /// A key accepted as new, also where it could not be written down.
    accepted: Mutex<Option<PublicKey>>,
}

/// The same, with the files read.
#[derive(Debug, Clone)]
pub struct Lookup {
    known: Vec<Known>,
}

/// The key a server showed, after it was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentedKey {
    /// `ssh-ed25519`
    pub algorithm: String,
    /// `SHA256:…`
    pub fingerprint: String,
    pub accepted: Accepted,
}

/// Why a key was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// It stands in this file, on this line.
    Known(PathBuf, usize),
    /// It is certified by the authority in this file, on this line.
    Certified(PathBuf, usize),
    /// It has the fingerprint that was asked for.
    Pinned,
    /// The host was not known before, and the policy is to add it.
    New,
}

impl HostKeys {
    /// `alias` is HostKeyAlias: the name to look up instead of host and port. The first of `files` takes new keys.
    pub fn new(host: &str, port: u16, alias: Option<&str>, files: Vec<PathBuf>, policy: HostKeyPolicy) -> Self {
        let name = alias.map_or_else(|| known_hosts::name(host, port), str::to_ascii_lowercase);
        Self { host: host.to_owned(), port, name, files, policy, accepted: Mutex::default() }
    }

    pub fn lookup(&self) -> Result<Lookup, DestinationError> {
        Ok(Lookup { known: known_hosts::lookup(&self.files, &self.name)? })
    }

    fn what(&self) -> String {
        format!("checking the host key of {}", display::escaped(&self.name))
    }

    /// Decides about what the server showed. Has proved already that it holds the key. `now` is in seconds since 1970.
    pub fn check(
        &self,
        lookup: &Lookup,
        presented: &PublicKeyOrCertificate,
        now: u64,
    ) -> Result<PresentedKey, DestinationError> {
        let key = presented.public_key();
        let shown = |accepted| PresentedKey {
            algorithm: key.algorithm().to_string(),
            fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
            accepted,
        };
        let same = |known: &&Known| known.key.key_data() == key.key_data();
        let of = |role: Role| lookup.known.iter().filter(move |known| known.role == role);
        let signer = presented.certificate().map(Certificate::signature_key);
        let revoked = of(Role::Revoked).find(|known| same(known) || signer == Some(known.key.key_data()));
        if let Some(Known { file, line, .. }) = revoked {
            return Err(DestinationError::refusal(
                self.what(),
                format!("its {} is marked @revoked in {} line {line}", describe(&key), display::path(file)),
            )
            .hint("do not connect; ask whoever runs the server for its new key"));
        }
        if let HostKeyPolicy::Pinned(fingerprint) = &self.policy {
            if *fingerprint == key.fingerprint(HashAlg::Sha256).to_string() {
                return Ok(shown(Accepted::Pinned));
            }
            return Err(DestinationError::refusal(
                self.what(),
                format!("the server showed its {}, and {fingerprint} was asked for", describe(&key)),
            )
            .hint("a server may have keys of several types: pin the one it shows, after comparing it with the server's own"));
        }
        if let Some(certificate) = presented.certificate() {
            for authority in of(Role::Authority) {
                if signer == Some(authority.key.key_data()) {
                    self.check_certificate(certificate, authority, now)?;
                    return Ok(shown(Accepted::Certified(authority.file.clone(), authority.line)));
                }
            }
        }
        if let Some(Known { file, line, .. }) = of(Role::Host).find(same) {
            return Ok(shown(Accepted::Known(file.clone(), *line)));
        }
        // A host that is known with keys of other types only is no new host either: an impostor can choose the type.
        if let Some(Known { file, line, key: expected, .. }) = of(Role::Host).next() {
            return Err(self.changed(&key, &format!("{} line {line}", display::path(file)), expected));
        }
        let mut accepted = self.accepted.lock().expect("no panic while held");
        match (&self.policy, &*accepted) {
            (HostKeyPolicy::AcceptNew, Some(before)) if before.key_data() == key.key_data() => Ok(shown(Accepted::New)),
            (HostKeyPolicy::AcceptNew, Some(before)) => Err(self.changed(&key, "an earlier connection", before)),
            (HostKeyPolicy::AcceptNew, None) => {
                self.remember(&key);
                *accepted = Some(key.clone());
                Ok(shown(Accepted::New))
            }
            _ => Err(self.unknown(&key)),
        }
    }

    /// Type, time, signature, authority, options and names (PROTOCOL.certkeys of OpenSSH).
    fn check_certificate(
        &self,
        certificate: &Certificate,
        authority: &Known,
        now: u64,
    ) -> Result<(), DestinationError> {
        let wrong = |why: &str| {
            DestinationError::refusal(
                self.what(),
                format!("its certificate `{}` {why}", display::escaped(certificate.key_id())),
            )
            .hint("ask whoever runs the server to renew its certificate")
        };
        if certificate.cert_type() != CertType::Host {
            return Err(wrong("is not one for hosts"));
        }
        if !certificate.critical_options().is_empty() {
            return Err(wrong("has critical options, which hosts' have not"));
        }
        certificate
            .validate_at(now, [&authority.key.fingerprint(HashAlg::Sha256)])
            .map_err(|_| wrong("is not valid now, or its signature is wrong"))?;
        let host = self.host.to_ascii_lowercase();
        let names = certificate.valid_principals();
        if names.is_empty()
            || names.iter().any(|name| pattern::matches(&name.to_ascii_lowercase(), &host) || *name == self.name)
        {
            return Ok(());
        }
        Err(wrong(&format!("is not for the name {}", display::escaped(&self.host))))
    }

    fn changed(&self, key: &PublicKey, known_from: &str, expected: &PublicKey) -> DestinationError {
        let why = format!(
            "the server shows its {}, but {known_from} has the {}: the server was set up anew, or somebody is in between",
            describe(key),
            describe(expected)
        );
        DestinationError::refusal(self.what(), why).hint(format!(
            "ask whoever runs the server; if its key did change, remove the old one with `ssh-keygen -R '{}'{}`",
            self.name,
            self.files.first().map(|file| format!(" -f {}", display::path(file))).unwrap_or_default()
        ))
    }

    fn unknown(&self, key: &PublicKey) -> DestinationError {
        let files: Vec<_> = self.files.iter().map(|file| display::path(file).to_string()).collect();
        let searched = if files.is_empty() { "any file".into() } else { files.join(", ") };
        let file = files.first().map_or("~/.ssh/known_hosts", String::as_str);
        let kind = match key.algorithm() {
            Algorithm::Ed25519 => "ed25519",
            Algorithm::Ecdsa { .. } => "ecdsa",
            _ => "rsa",
        };
        DestinationError::refusal(self.what(), format!("its {} is not known in {searched}", describe(key))).hint(format!(
            "compare the fingerprint with the server's own, then add the key with `ssh-keyscan -t {kind} -p {} {} >> {file}`, \
             pin it with `--host-key {}`, or trust the first key that comes with `--host-key accept-new`",
            self.port,
            self.host,
            key.fingerprint(HashAlg::Sha256)
        ))
    }

    fn remember(&self, key: &PublicKey) {
        let Some(file) = self.files.first() else { return };
        match known_hosts::append(file, &self.name, key) {
            Ok(()) => tracing::info!("added the {} of {} to {}", describe(key), self.name, display::path(file)),
            Err(error) => tracing::warn!(
                "cannot add the {} of {} to {} ({error}): it is accepted until this program ends",
                describe(key),
                self.name,
                display::path(file)
            ),
        }
    }
}

impl Lookup {
    /// Key types to ask the server for, those it is known with first; else it might show another one, which we
    /// could not tell from an impostor's.
    pub fn key_algorithms(&self) -> Vec<Algorithm> {
        let mut all = algorithms();
        all.sort_by_key(|algorithm| {
            !self.known.iter().any(|k| k.role == Role::Host && alike(&k.key.algorithm(), algorithm))
        });
        all
    }

    /// Key types for which to ask for a certificate: all, where there is an authority to check them against.
    pub fn certificate_algorithms(&self) -> Vec<Algorithm> {
        match self.known.iter().any(|known| known.role == Role::Authority) {
            true => algorithms(),
            false => Vec::new(),
        }
    }
}

/// Without the SHA-1 variant of RSA, as OpenSSH since 8.8.
fn algorithms() -> Vec<Algorithm> {
    vec![
        Algorithm::Ed25519,
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
        Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
        Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
    ]
}

/// The same type of key; RSA keys serve with any hash.
fn alike(a: &Algorithm, b: &Algorithm) -> bool {
    a == b || matches!((a, b), (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }))
}

fn describe(key: &PublicKey) -> String {
    format!("{} key {}", key.algorithm(), key.fingerprint(HashAlg::Sha256))
}
