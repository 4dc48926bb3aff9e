//! Ways in which real servers differ from OpenSSH, each of them met in the field.

/// All departures from what OpenSSH's server does; the default has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quirks {
    pub rename: RenamePolicy,
    pub setstat: SetstatPolicy,
    pub hardlink: HardlinkPolicy,
    pub extensions: AnnouncedExtensions,
    /// Bytes that all files together may hold. Beyond it WRITE answers `SSH_FX_FAILURE`, as OpenSSH does for ENOSPC
    /// and EDQUOT, and `statvfs@openssh.com` shows what is left of it.
    pub quota: Option<u64>,
    pub identification: Identification,
    /// Keys are exchanged anew after so many bytes of either direction.
    pub rekey_bytes: Option<u64>,
}

/// What the server calls itself in its first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Identification {
    #[default]
    Own,
    /// OpenSSH's name: clients that know it rely on its order of replies and on its rename.
    OpenSsh,
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

/// What `hardlink@openssh.com` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HardlinkPolicy {
    #[default]
    Honoured,
    /// `SSH_FX_OK`, and nothing happens (`rclone serve sftp`).
    Pretended,
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
    "unknown quirk {0:?}; known are rename-overwrites, rename-unsupported, setstat-refused, hardlink-pretended, \
     no-limits, no-extensions, as-openssh, quota=BYTES and rekey=BYTES"
)]
pub struct UnknownQuirk(pub String);

impl Quirks {
    /// These quirks and the named one: `rename-overwrites`, `rename-unsupported`, `setstat-refused`,
    /// `hardlink-pretended`, `no-limits`, `no-extensions`, `as-openssh`, `quota=BYTES`, `rekey=BYTES`.
    pub fn with(mut self, name: &str) -> Result<Self, UnknownQuirk> {
        match name {
            "rename-overwrites" => self.rename = RenamePolicy::Overwrites,
            "rename-unsupported" => self.rename = RenamePolicy::Unsupported,
            "setstat-refused" => self.setstat = SetstatPolicy::Refused,
            "hardlink-pretended" => self.hardlink = HardlinkPolicy::Pretended,
            "no-limits" => self.extensions = AnnouncedExtensions::WithoutLimits,
            "no-extensions" => self.extensions = AnnouncedExtensions::None,
            "as-openssh" => self.identification = Identification::OpenSsh,
            _ => {
                let unknown = || UnknownQuirk(name.to_owned());
                let (quirk, bytes) = name.split_once('=').ok_or_else(unknown)?;
                let bytes = Some(bytes.parse().map_err(|_| unknown())?);
                match quirk {
                    "quota" => self.quota = bytes,
                    "rekey" => self.rekey_bytes = bytes,
                    _ => return Err(unknown()),
                }
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
        assert_eq!(Quirks::default().with("rekey=9").unwrap().rekey_bytes, Some(9));
        for bad in ["rename", "", "quota=", "quota=lots", "limit=9"] {
            assert_eq!(Quirks::default().with(bad), Err(UnknownQuirk(bad.to_owned())));
        }
    }
}
