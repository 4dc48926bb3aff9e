//! The choices a user makes, each an enum that parses itself and prints as it is written on the command line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// What happens to the local file once its record is durable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum After {
    #[default]
    Keep,
    Delete,
    /// Moved below this directory, at its path below the source.
    Move(PathBuf),
}

/// What happens to the local file once its retries are used up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AfterFailure {
    #[default]
    Keep,
    /// The quarantine directory.
    Move(PathBuf),
}

/// What to do where a file with other bytes already has the final name. The same bytes always count as archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnConflict {
    /// Use `<stem>.<first 8 hexadecimal digits of the SHA-256><extension>` instead.
    #[default]
    Rename,
    Skip,
    Overwrite,
    Fail,
}

/// Whether a recorded file may be archived again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Repeat {
    #[default]
    Skip,
    /// `--force`: a recorded entry becomes claimed again, with the newly requested remote path; with the path of an
    /// earlier forced claim where that one may have left something staged, for there it is to be found.
    Force,
}

/// What becomes of a file whose bytes are archived at its destination already, under another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dedupe {
    /// It is archived as any other.
    #[default]
    Off,
    /// It is skipped. Empty files are archived as ever: they have no content that could be the same.
    Content,
}

/// How the staged bytes are checked before the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Every WRITE and the CLOSE were acknowledged, and FSTAT shows the size.
    #[default]
    Size,
    /// As `Size`, then the remote file is read again and its SHA-256 compared.
    Readback,
    /// Acknowledgements only.
    None,
}

/// How the final name comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Publish {
    /// Staged under a temporary name and renamed: G1 holds.
    #[default]
    Rename,
    /// Written at the final name, for servers that cannot rename: a reader can see a partial file.
    Direct,
}

/// Whether the server is asked (`fsync@openssh.com`) to have the bytes on its disk before the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fsync {
    /// Where the local file will be deleted or moved away afterwards, so that a server's power cut cannot take the
    /// only copy.
    #[default]
    Auto,
    Always,
    Never,
}

/// Which host keys are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HostKeyPolicy {
    /// Only what `known_hosts` has.
    #[default]
    Strict,
    /// An unknown host's key is added to `known_hosts`; a changed one is refused.
    AcceptNew,
    /// Only the key with this fingerprint: `SHA256:` and unpadded base64, as `ssh-keygen -l` prints it.
    Pinned(String),
}

/// The choice that `text` names, or a message that lists all of them.
pub(crate) fn one_of<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
        format!("`{text}` is not one of {}", names.join(", "))
    })
}

fn moved_to(text: &str) -> Option<Result<PathBuf, String>> {
    let dir = text.strip_prefix("move=")?;
    Some(if dir.is_empty() {
        Err("`move=` needs a directory, as in `move=/var/archived`".into())
    } else {
        Ok(dir.into())
    })
}

impl FromStr for After {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, moved_to(text)) {
            ("keep", _) => Ok(Self::Keep),
            ("delete", _) => Ok(Self::Delete),
            (_, Some(dir)) => dir.map(Self::Move),
            _ => Err(format!("`{text}` is not one of `keep`, `delete`, `move=DIR`")),
        }
    }
}

impl FromStr for AfterFailure {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, moved_to(text)) {
            ("keep", _) => Ok(Self::Keep),
            (_, Some(dir)) => dir.map(Self::Move),
            _ => Err(format!("`{text}` is not one of `keep`, `move=DIR`")),
        }
    }
}

impl FromStr for HostKeyPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "strict" => Ok(Self::Strict),
            "accept-new" => Ok(Self::AcceptNew),
            _ => match text.strip_prefix("SHA256:") {
                // 32 bytes in base64 without padding.
                Some(digest)
                    if digest.len() == 43
                        && digest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/') =>
                {
                    Ok(Self::Pinned(text.into()))
                }
                Some(_) => Err(format!("`{text}` is no SHA-256 fingerprint; `ssh-keygen -lf KEY.pub` prints one")),
                None => Err(format!("`{text}` is not one of `strict`, `accept-new`, `SHA256:…`")),
            },
        }
    }
}

/// `NAMES`, `FromStr` and `Display` of an enum whose variants are written as fixed words.
macro_rules! named_choices {
    ($type:ident { $($name:literal => $variant:ident),+ $(,)? }) => {
        impl $type {
            pub const NAMES: &'static [&'static str] = &[$($name),+];
        }
        impl std::str::FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                $crate::domain::policy::one_of(text, &[$(($name, Self::$variant)),+])
            }
        }
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $name),+ })
            }
        }
    };
}

pub(crate) use named_choices;

named_choices!(OnConflict { "rename" => Rename, "skip" => Skip, "overwrite" => Overwrite, "fail" => Fail });
named_choices!(Verify { "size" => Size, "readback" => Readback, "none" => None });
named_choices!(Fsync { "auto" => Auto, "always" => Always, "never" => Never });
named_choices!(Dedupe { "off" => Off, "content" => Content });
named_choices!(Publish { "rename" => Rename, "direct" => Direct });

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("keep"),
            Self::Delete => f.write_str("delete"),
            Self::Move(dir) => write!(f, "move={}", dir.display()),
        }
    }
}

impl fmt::Display for AfterFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("keep"),
            Self::Move(dir) => write!(f, "move={}", dir.display()),
        }
    }
}

impl fmt::Display for HostKeyPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Strict => f.write_str("strict"),
            Self::AcceptNew => f.write_str("accept-new"),
            Self::Pinned(fingerprint) => f.write_str(fingerprint),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_parse_what_they_print() {
        for text in ["keep", "delete", "move=/var/done"] {
            assert_eq!(text.parse::<After>().unwrap().to_string(), text);
        }
        for text in ["rename", "skip", "overwrite", "fail"] {
            assert_eq!(text.parse::<OnConflict>().unwrap().to_string(), text);
        }
        assert!("move=".parse::<After>().unwrap_err().contains("needs a directory"));
        assert!("delete".parse::<AfterFailure>().is_err());
        assert!("replace".parse::<OnConflict>().unwrap_err().contains("`overwrite`"));
        assert!("SHA256:short".parse::<HostKeyPolicy>().unwrap_err().contains("ssh-keygen"));
    }
}
