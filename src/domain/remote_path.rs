//! Names on the server: the final one, the temporary one it is staged under, and the one used on a conflict.

use std::fmt;
use std::path::{Component, Path};

use sha2::{Digest, Sha256};

use super::name::{MAX_BYTES, escape, truncated};
use super::{KeyId, Sha256Digest, Token};

/// A path as SFTP carries it: `/` between components, absolute, or relative to the login directory.
/// Never contains an empty component, `.` or `..` below the base.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RemotePath(String);

impl RemotePath {
    /// From text that is already a remote path, such as what the ledger holds.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// `<base>/<directory>/<path below the source>`; `base` may be empty for the login directory.
    /// An error names the component of `below` that cannot be a remote name.
    pub fn below(base: &str, directory: &str, below: &Path) -> Result<Self, String> {
        let mut path = base.trim_end_matches('/').to_owned();
        let mut push = |component: &str| {
            if !path.is_empty() || base.starts_with('/') {
                path.push('/');
            }
            path.push_str(component);
        };
        directory.split('/').filter(|component| !component.is_empty()).for_each(&mut push);
        for component in below.components() {
            let Component::Normal(name) = component else {
                return Err(format!("`{}` is not a plain path below its source", super::display::path(below)));
            };
            let name = escape(name);
            if name.len() > MAX_BYTES {
                return Err(format!(
                    "its name takes {} bytes on the server, more than {MAX_BYTES}; give it a shorter one",
                    name.len()
                ));
            }
            push(&name);
        }
        Ok(Self(path))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory that holds it: `/` at the top, empty for a bare name in the login directory.
    pub fn parent(&self) -> &str {
        match self.0.rfind('/') {
            Some(0) => "/",
            Some(at) => &self.0[..at],
            None => "",
        }
    }

    /// The last component.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    fn sibling(&self, name: &str) -> Self {
        Self(format!("{}{name}", &self.0[..self.0.len() - self.name().len()]))
    }

    /// Where the bytes are staged: `.<name>.<key id>-<token>.part` beside the final name, the name cut so that the
    /// whole stays within 255 bytes. Only the key's owners can derive it, and each token has its own.
    pub fn staging(&self, key: KeyId, token: Token) -> Self {
        let suffix = format!(".{key}-{token}.part");
        self.sibling(&format!(".{}{suffix}", truncated(self.name(), MAX_BYTES - 1 - suffix.len())))
    }

    /// Beside this temporary name: a directory of its owner's, and the one file that goes in there, which is no other's and
    /// no final name, wherever one looks for such.
    pub fn aside(&self) -> (Self, Self) {
        let (stem, suffix) =
            self.name().strip_suffix(".part").and_then(|name| name.rsplit_once('.')).unwrap_or_default();
        let suffix = format!(".{suffix}.part");
        let name = format!("{}{suffix}", truncated(&format!(".old{stem}"), MAX_BYTES - suffix.len()));
        (self.sibling(&name), self.sibling(&format!("{name}/{name}")))
    }

    /// Whether a name has the form of [`Self::staging`]'s, whatever its key and token.
    pub fn is_staging(name: &str) -> bool {
        let parts = name.strip_prefix('.').and_then(|rest| rest.strip_suffix(".part")?.rsplit_once('.'));
        let Some((_, suffix)) = parts else { return false };
        let Some((key, token)) = suffix.split_once('-') else { return false };
        let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        key.len() == 12 && key.bytes().all(hexadecimal) && token.parse::<u64>().is_ok()
    }

    /// The name used where other bytes have the first choice: `<stem>.<first 8 digits of the SHA-256><extension>`.
    /// It follows from the name and the bytes alone, so that trying again never makes a second copy. Where the whole would
    /// pass 255 bytes, the stem is cut, and the first 8 digits of the SHA-256 of the name follow: names that begin alike
    /// never meet.
    pub fn conflicting(&self, digest: &Sha256Digest) -> Self {
        let name = self.name();
        // A leading dot starts a hidden name, not an extension.
        let (stem, extension) = match name.rfind('.') {
            Some(at) if at > 0 => name.split_at(at),
            _ => (name, ""),
        };
        let digest = &digest.to_string()[..8];
        let whole = format!("{stem}.{digest}{extension}");
        if whole.len() <= MAX_BYTES {
            return self.sibling(&whole);
        }
        let of_name = &Sha256Digest(Sha256::digest(name).into()).to_string()[..8];
        let extension = truncated(extension, MAX_BYTES / 2);
        let stem = truncated(stem, MAX_BYTES - extension.len() - 1 - digest.len() - of_name.len());
        self.sibling(&format!("{stem}.{digest}{of_name}{extension}"))
    }
}

impl fmt::Display for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: KeyId = KeyId([0xab; 16]);

    #[test]
    fn a_path_has_base_date_and_place() {
        let path = |base, below: &str| RemotePath::below(base, "2026/11/21", Path::new(below)).unwrap().0;
        assert_eq!(path("/upload", "a/b.csv"), "/upload/2026/11/21/a/b.csv");
        assert_eq!(path("/", "b.csv"), "/2026/11/21/b.csv");
        assert_eq!(path("in/box", "b.csv"), "in/box/2026/11/21/b.csv");
        assert_eq!(path("", "b.csv"), "2026/11/21/b.csv");
        assert!(RemotePath::below("/", "", Path::new("../b")).is_err());
        assert!(RemotePath::below("/", "", Path::new("/b")).is_err());
    }

    #[test]
    fn parents_and_names() {
        let parts = |text: &str| (RemotePath::new(text).parent().to_owned(), RemotePath::new(text).name().to_owned());
        assert_eq!(parts("/a/b"), ("/a".into(), "b".into()));
        assert_eq!(parts("/b"), ("/".into(), "b".into()));
        assert_eq!(parts("b"), (String::new(), "b".into()));
    }

    #[test]
    fn staging_names_fit_and_keep_tokens_apart() {
        let path = RemotePath::new("/up/report.csv");
        assert_eq!(path.staging(KEY, Token(7)).as_str(), "/up/.report.csv.abababababab-7.part");
        let long = RemotePath::new(format!("/up/{}", "é".repeat(127)));
        for token in [Token(1), Token(u64::MAX)] {
            assert!(long.staging(KEY, token).name().len() <= MAX_BYTES);
        }
        assert_ne!(long.staging(KEY, Token(1)), long.staging(KEY, Token(2)));
    }

    #[test]
    fn what_is_put_aside_has_a_name_of_its_own() {
        let (directory, file) = RemotePath::new("/up/report.csv").staging(KEY, Token(7)).aside();
        assert_eq!(directory.as_str(), "/up/.old.report.csv.abababababab-7.part");
        assert_eq!((file.parent(), file.name()), (directory.as_str(), directory.name()));
        for name in ["x".to_owned(), "old".into(), "é".repeat(127), "x".repeat(255)] {
            let staging = RemotePath::new(format!("/up/{name}")).staging(KEY, Token(u64::MAX));
            let (directory, _) = staging.aside();
            assert!(directory != staging && directory.name().len() <= MAX_BYTES, "{name}");
            assert!(RemotePath::is_staging(directory.name()), "{name}");
        }
    }

    #[test]
    fn staging_names_are_known_by_their_form() {
        for path in ["/up/report.csv", "x", &"é".repeat(127)] {
            for token in [Token(0), Token(u64::MAX)] {
                assert!(RemotePath::is_staging(RemotePath::new(path).staging(KEY, token).name()), "{path}");
            }
        }
        for name in ["report.csv", ".report.part", ".a.abababababab-.part", ".a.abababababab-7", ".a.ababab-7.part"] {
            assert!(!RemotePath::is_staging(name), "{name}");
        }
    }

    #[test]
    fn conflict_names_follow_from_the_bytes() {
        let digest = Sha256Digest([0x5a; 32]);
        let name = |text: &str| RemotePath::new(text).conflicting(&digest).0;
        assert_eq!(name("/up/a.tar.gz"), "/up/a.tar.5a5a5a5a.gz");
        assert_eq!(name("/up/README"), "/up/README.5a5a5a5a");
        assert_eq!(name("/up/.profile"), "/up/.profile.5a5a5a5a");
        // The longest one of which nothing is cut.
        let (stem, longest) = ("x".repeat(242), format!("/up/{}.5a5a5a5a.csv", "x".repeat(242)));
        assert_eq!(name(&format!("/up/{stem}.csv")), longest);
        assert!(name(&format!("/up/{stem}x.csv")).starts_with(&format!("/up/{}.5a5a5a5a", &stem[8..])));
        assert!(RemotePath::new(name(&format!("/up/{}.csv", "x".repeat(251)))).name().len() <= MAX_BYTES);
        assert!(RemotePath::new(name(&format!("/up/x.{}", "y".repeat(250)))).name().len() <= MAX_BYTES);
    }

    /// Names about as long as can be, that differ in their length and their last bytes.
    fn names() -> impl Strategy<Value = String> {
        let xs = |lengths: std::ops::RangeInclusive<usize>| lengths.prop_map(|length| "x".repeat(length));
        let extension = prop_oneof![3 => xs(0..=3), 1 => xs(124..=130)];
        (xs(100..=250), "[a.]{0,3}", "[.]?", extension, "[a.]{0,2}")
            .prop_map(|(stem, end, dot, extension, last)| stem + &end + &dot + &extension + &last)
            .prop_filter("a name that a server takes", |name| name.len() <= MAX_BYTES)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 64, ..Default::default() })]
        /// Two files of the same bytes are never taken for one.
        #[test]
        fn different_names_have_different_conflict_names(one in names(), other in names(), digest: [u8; 32]) {
            let digest = Sha256Digest(digest);
            let [first, second] = [&one, &other].map(|name| RemotePath::new(format!("/up/{name}")).conflicting(&digest));
            prop_assert_eq!(first == second, one == other);
            prop_assert!(first.name().len() <= MAX_BYTES && first.name() != one);
        }
    }
}
