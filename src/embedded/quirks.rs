//! Ways in which real servers differ from OpenSSH, each of them met in the field.

/// All departures from what OpenSSH's server does; the default has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quirks {
    pub rename: RenamePolicy,
    pub setstat: SetstatPolicy,
    pub extensions: AnnouncedExtensions,
    /// Bytes that all files together may hold. Beyond it WRITE answers `SSH_FX_FAILURE`, as OpenSSH does for ENOSPC
    /// and EDQUOT, and `statvfs@openssh.com` shows what is left of it.
    pub quota: Option<u64>,
}

/// What `SSH_FXP_RENAME` does (`posix-rename@openssh.com` always overwrites).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RenamePolicy {
    /// An existing target answers `SSH_FX_FAILURE`, atomically (draft-ietf-secsh-filexfer-02, section 6.5).
    #[default]
    RefusesExisting,
    /// An existing target is replaced (sftpgo and others).
    Overwrites,
    /// `SSH_FX_OP_UNSUPPORTED`, `posix-rename@openssh.com` too (object stores).
    Unsupported,
}

/// What SETSTAT and FSETSTAT do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetstatPolicy {
    #[default]
    Honoured,
    /// `SSH_FX_PERMISSION_DENIED`, and nothing changes.
    Refused,
}

/// What the VERSION packet announces, and so what EXTENDED requests are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AnnouncedExtensions {
    #[default]
    All,
    /// All but `limits@openssh.com` (OpenSSH before 8.5).
    WithoutLimits,
    None,
}

/// A name that [`Quirks::with`] does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown quirk {0:?}; known are rename-overwrites, rename-unsupported, setstat-refused, no-limits, no-extensions \
     and quota=BYTES"
)]
pub struct UnknownQuirk(pub String);

impl Quirks {
    /// These quirks and the named one: `rename-overwrites`, `rename-unsupported`, `setstat-refused`, `no-limits`,
    /// `no-extensions`, `quota=BYTES`.
    pub fn with(mut self, name: &str) -> Result<Self, UnknownQuirk> {
        match name {
            "rename-overwrites" => self.rename = RenamePolicy::Overwrites,
            "rename-unsupported" => self.rename = RenamePolicy::Unsupported,
            "setstat-refused" => self.setstat = SetstatPolicy::Refused,
            "no-limits" => self.extensions = AnnouncedExtensions::WithoutLimits,
            "no-extensions" => self.extensions = AnnouncedExtensions::None,
            _ => {
                let bytes = name.strip_prefix("quota=").and_then(|bytes| bytes.parse().ok());
                self.quota = Some(bytes.ok_or_else(|| UnknownQuirk(name.to_owned()))?);
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quirks_go_by_their_names() {
        let quirks = Quirks::default().with("rename-overwrites").and_then(|quirks| quirks.with("quota=42")).unwrap();
        assert_eq!(quirks, Quirks { rename: RenamePolicy::Overwrites, quota: Some(42), ..Quirks::default() });
        for bad in ["rename", "", "quota=", "quota=lots"] {
            assert_eq!(Quirks::default().with(bad), Err(UnknownQuirk(bad.to_owned())));
        }
    }
}
