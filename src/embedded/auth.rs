//! Who may log in: one user, with a password, with keys, or with either.

use russh::keys::PublicKey;
use russh::{MethodKind, MethodSet};
use sha2::{Digest, Sha256};

use crate::config::settings::Secret;

/// One user and what lets them in. At least one of password and keys has to be there.
#[derive(Debug, Clone)]
pub struct Authentication {
    pub user: String,
    /// Taken by the `password` and the `keyboard-interactive` method.
    pub password: Option<Secret>,
    /// As `authorized_keys` would list them.
    pub keys: Vec<PublicKey>,
}

impl Authentication {
    pub fn with_password(user: impl Into<String>, password: Secret) -> Self {
        Self { user: user.into(), password: Some(password), keys: Vec::new() }
    }

    pub fn with_keys(user: impl Into<String>, keys: Vec<PublicKey>) -> Self {
        Self { user: user.into(), password: None, keys }
    }

    /// The methods to offer; empty where nobody could ever log in.
    pub(super) fn methods(&self) -> MethodSet {
        let mut methods = MethodSet::empty();
        if !self.keys.is_empty() {
            methods.push(MethodKind::PublicKey);
        }
        if self.password.is_some() {
            methods.push(MethodKind::Password);
            methods.push(MethodKind::KeyboardInteractive);
        }
        methods
    }

    /// Compares digests, and all of them, so that the time tells nothing of the password.
    pub(super) fn accepts_password(&self, user: &str, password: &[u8]) -> bool {
        let Some(expected) = &self.password else { return false };
        let expected = Sha256::digest(expected.expose().as_bytes());
        let given = Sha256::digest(password);
        let differing = expected.iter().zip(given.iter()).fold(0, |bits, (a, b)| bits | (a ^ b));
        differing == 0 && user == self.user
    }

    pub(super) fn accepts_key(&self, user: &str, key: &PublicKey) -> bool {
        user == self.user && self.keys.iter().any(|known| known.key_data() == key.key_data())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_must_both_match() {
        let auth = Authentication::with_password("pine", Secret::new("cone"));
        assert!(auth.accepts_password("pine", b"cone"));
        for (user, password) in [("pine", "Cone"), ("fir", "cone"), ("pine", ""), ("", "")] {
            assert!(!auth.accepts_password(user, password.as_bytes()));
        }
        assert!(!Authentication::with_keys("pine", Vec::new()).accepts_password("pine", b""));
        assert!(Authentication::with_keys("pine", Vec::new()).methods().is_empty());
    }
}
