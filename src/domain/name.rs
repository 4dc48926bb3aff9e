//! One component of a local path as one component of a remote path: the same name wherever it is UTF-8, a reversible
//! escape where it is not.
//!
//! SFTP version 3 carries names as bytes, but the crate that speaks it carries strings. A byte that is no part of
//! UTF-8 is written `%XX` (two upper-case hexadecimal digits). So that no two local names meet, a `%` that stands in
//! front of what would read as such an escape (`%80` to `%FF`, and `%25`) is itself written `%25`; every other `%`
//! stays as it is. [`unescape`] is the way back.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// The longest name a server on a usual filesystem takes, in bytes.
pub const MAX_BYTES: usize = 255;

fn hex_pair(bytes: &[u8]) -> Option<u8> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'A'..=b'F' => Some(b - b'A' + 10),
        _ => None,
    };
    Some(digit(*bytes.first()?)? << 4 | digit(*bytes.get(1)?)?)
}

/// What follows a `%`: the byte an escape stands for, where it is one of ours.
fn escaped_byte(after_percent: &[u8]) -> Option<u8> {
    hex_pair(after_percent).filter(|byte| *byte >= 0x80 || *byte == b'%')
}

/// The remote name of a local name. Injective: different local names never give the same remote name.
pub fn escape(name: &OsStr) -> String {
    let bytes = name.as_bytes();
    let mut remote = String::with_capacity(bytes.len());
    let mut at = 0;
    for chunk in bytes.utf8_chunks() {
        for (offset, c) in chunk.valid().char_indices() {
            if c == '%' && escaped_byte(&bytes[at + offset + 1..]).is_some() {
                remote.push_str("%25");
            } else {
                remote.push(c);
            }
        }
        for byte in chunk.invalid() {
            remote.push_str(&format!("%{byte:02X}"));
        }
        at += chunk.valid().len() + chunk.invalid().len();
    }
    remote
}

/// The local name (raw bytes) that [`escape`] gave this remote name for.
pub fn unescape(remote: &str) -> Vec<u8> {
    let bytes = remote.as_bytes();
    let mut name = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at] == b'%').then(|| escaped_byte(&bytes[at + 1..])).flatten() {
            Some(byte) => {
                name.push(byte);
                at += 3;
            }
            None => {
                name.push(bytes[at]);
                at += 1;
            }
        }
    }
    name
}

/// `text` cut to at most `max_bytes`, at a character's boundary.
pub fn truncated(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn utf8_names_stay_as_they_are() {
        for name in ["a b.csv", "100%.csv", "50%20off", "naïve 🌲.txt", "new\nline", "'\"\\", "%", "%2", "%GG", "%ff"]
        {
            assert_eq!(escape(OsStr::new(name)), name);
        }
    }

    #[test]
    fn other_bytes_are_escaped_and_lookalikes_too() {
        assert_eq!(escape(OsStr::from_bytes(b"caf\xe9.csv")), "caf%E9.csv");
        assert_eq!(escape(OsStr::new("caf%E9.csv")), "caf%25E9.csv");
        assert_eq!(escape(OsStr::new("caf%25E9.csv")), "caf%2525E9.csv");
    }

    proptest! {
        #[test]
        fn the_way_back_is_exact(name in proptest::collection::vec(prop_oneof![Just(b'%'), Just(b'2'), Just(b'5'), Just(b'F'), any::<u8>()], 0..40)) {
            prop_assert_eq!(unescape(&escape(OsStr::from_bytes(&name))), name);
        }
    }
}
