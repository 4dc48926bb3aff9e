//! What a server can do, as it says itself or as its kind is known for.

use std::collections::BTreeMap;

/// What every server takes in one WRITE and gives in one READ (draft-ietf-secsh-filexfer-02, section 3: packets of
/// 34,000 bytes).
pub const SAFE_LEN: u32 = 32 * 1024;
/// The longest WRITE and READ we use. OpenSSH allows 261,120; less leaves room for headers everywhere.
const MAX_LEN: u32 = 255_000;

/// In which order a server carries out requests that are outstanding at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyOrder {
    /// One after another, as they came: a CLOSE may be sent right behind the WRITEs it depends on.
    InOrder,
    /// Nothing is known; the draft (section 3) allows any order for different files.
    Unordered,
}

/// What SSH_FXP_RENAME does where the new name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameBehaviour {
    /// It fails, as the draft (section 6.5) asks: the rename itself is the check.
    RefusesExisting,
    /// It may overwrite; look first.
    Unknown,
}

/// What a server that announces `hardlink@openssh.com` does when it is asked for a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// It makes them, or says that it cannot.
    Honest,
    /// It says OK and does nothing (`rclone serve sftp`: to every request that it does not know).
    Pretended,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// The identification of the SSH server: `SSH-2.0-OpenSSH_9.2p1 Debian-2`.
    pub server: String,
    /// SFTP version agreed on.
    pub version: u32,
    /// Name and value of each extension the server announced.
    pub extensions: BTreeMap<String, String>,
    /// Longest data of one WRITE, in bytes.
    pub write_len: u32,
    /// Longest data of one READ, in bytes.
    pub read_len: u32,
    /// Files and directories that may be open at a time on one session, where the server says so.
    pub max_open_handles: Option<u64>,
    /// `fsync@openssh.com`.
    pub fsync: bool,
    /// `posix-rename@openssh.com`: a rename that overwrites atomically.
    pub posix_rename: bool,
    /// `hardlink@openssh.com`: fails where the new name is taken, on every server that makes links; see
    /// [`Session::links`](super::Session::links) for those that only say so.
    pub hardlink: bool,
    /// `statvfs@openssh.com`.
    pub statvfs: bool,
    pub order: ReplyOrder,
    pub rename: RenameBehaviour,
}

impl Features {
    pub fn new(server: impl Into<String>, version: u32, extensions: BTreeMap<String, String>) -> Self {
        let server = server.into();
        let has = |name: &str| extensions.contains_key(name);
        // The identification is sshd's; its `Subsystem sftp` may be any program. OpenSSH's own says this since 5.1, and
        // the others that are run so (`rclone serve sftp --stdio`) do not.
        let openssh = server.starts_with("SSH-2.0-OpenSSH_") && has("fstatvfs@openssh.com");
        Self {
            version,
            write_len: SAFE_LEN,
            read_len: SAFE_LEN,
            max_open_handles: None,
            fsync: has("fsync@openssh.com"),
            posix_rename: has("posix-rename@openssh.com"),
            hardlink: has("hardlink@openssh.com"),
            statvfs: has("statvfs@openssh.com"),
            order: if openssh { ReplyOrder::InOrder } else { ReplyOrder::Unordered },
            rename: if openssh { RenameBehaviour::RefusesExisting } else { RenameBehaviour::Unknown },
            server,
            extensions,
        }
    }

    /// Whether `limits@openssh.com` can be asked.
    pub fn has_limits(&self) -> bool {
        self.extensions.contains_key("limits@openssh.com")
    }

    /// Takes over what `limits@openssh.com` answered (OpenSSH PROTOCOL, section 4.8). Zero means that no limit is
    /// known.
    pub fn limited(mut self, packet: u64, read: u64, write: u64, handles: u64) -> Self {
        // Headers of WRITE and DATA, with room for the longest handle of 256 bytes.
        const HEADERS: u64 = 1024;
        let length = |data: u64| match (data, packet) {
            (0, 0) => SAFE_LEN,
            (0, packet) => packet.saturating_sub(HEADERS).clamp(1024, SAFE_LEN.into()) as u32,
            (data, 0) => data.clamp(1024, MAX_LEN.into()) as u32,
            (data, packet) => data.min(packet.saturating_sub(HEADERS)).clamp(1024, MAX_LEN.into()) as u32,
        };
        self.read_len = length(read);
        self.write_len = length(write);
        self.max_open_handles = (handles > 0).then_some(handles);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_honoured_and_capped() {
        let features = |packet, read, write, handles| {
            let features = Features::new("SSH-2.0-x", 3, BTreeMap::new()).limited(packet, read, write, handles);
            (features.read_len, features.write_len, features.max_open_handles)
        };
        assert_eq!(features(262_144, 261_120, 261_120, 1019), (255_000, 255_000, Some(1019)));
        assert_eq!(features(0, 0, 0, 0), (32_768, 32_768, None));
        assert_eq!(features(34_000, 0, 65_536, 0), (32_768, 32_976, None));
        assert_eq!(features(u64::MAX, u64::MAX, 1, 1), (255_000, 1024, Some(1)));
    }

    #[test]
    fn openssh_is_known_and_others_are_not_trusted() {
        let habits = |server, extensions: &[&str]| {
            let extensions = extensions.iter().map(|name| ((*name).to_owned(), "2".to_owned())).collect();
            let features = Features::new(server, 3, extensions);
            (features.order, features.rename)
        };
        let trusted = (ReplyOrder::InOrder, RenameBehaviour::RefusesExisting);
        let unknown = (ReplyOrder::Unordered, RenameBehaviour::Unknown);
        assert_eq!(habits("SSH-2.0-OpenSSH_9.2p1", &["fstatvfs@openssh.com"]), trusted);
        assert_eq!(habits("SSH-2.0-mod_sftp/0.9", &["fstatvfs@openssh.com"]), unknown);
        // sshd in front of another SFTP server.
        let rclone = ["hardlink@openssh.com", "posix-rename@openssh.com", "statvfs@openssh.com"];
        assert_eq!(habits("SSH-2.0-OpenSSH_9.2p1", &rclone), unknown);
    }
}
