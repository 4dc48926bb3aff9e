//! `sftp://[user@]host[:port]/absolute/base`, or `…/~/relative/to/login/dir`: where files go.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// A destination, parsed. Never holds a password: a URL with one is refused, for URLs end up in logs and argv.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DestinationUrl {
    /// Without one, `~/.ssh/config` or the local user's name decides.
    pub user: Option<String>,
    /// A host name, an address (IPv6 without brackets), or an alias of `~/.ssh/config`.
    pub host: String,
    /// Without one, `~/.ssh/config` or 22 decides.
    pub port: Option<u16>,
    /// Absolute (`/upload`), or relative to the login directory without a leading slash (`in/box`, or empty).
    /// No slash at the end, but for `/` itself.
    pub base: String,
}

const HINT: &str =
    "write sftp://user@host/absolute/directory, or sftp://user@host/~/directory for one below the login directory";
/// What has to be escaped in a URL's path or user.
const RESERVED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'%')
    .add(b'@');

/// The same for a user, who may be called anything.
const RESERVED_IN_USER: &AsciiSet = &RESERVED.add(b'/').add(b':').add(b'\\').add(b'[').add(b']').add(b'^').add(b'|');

/// What no host is called, and what would mean something else in the canonical form or to the shell of a `ProxyCommand`.
const NOT_IN_HOST: &[char] = &[
    '/', '\\', '@', ':', '?', '#', '[', ']', '%', '<', '>', '^', '|', '&', ';', '$', '`', '\'', '"', '(', ')', '{',
    '}', '*', '!', ',',
];

/// A host name or alias, decoded.
fn host_name(text: &str) -> Result<String, String> {
    let host = decoded(text)?;
    if host.starts_with('-') || host.contains(char::is_whitespace) || host.contains(NOT_IN_HOST) {
        return Err(format!("its host name has a character that no host name has; {HINT}"));
    }
    Ok(host)
}

fn decoded(text: &str) -> Result<String, String> {
    let text =
        percent_decode_str(text).decode_utf8().map_err(|_| format!("its percent escapes are not UTF-8; {HINT}"))?;
    if text.chars().any(char::is_control) {
        return Err(format!("it contains a control character; {HINT}"));
    }
    Ok(text.into_owned())
}

impl FromStr for DestinationUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains("://") {
            // What scp and rsync take.
            // An `@` after the colon would make that a password, which must not be repeated.
            if let Some((host, path)) = text
                .split_once(':')
                .filter(|(host, path)| !host.contains('/') && !host.is_empty() && !path.contains('@'))
            {
                let path = if path.starts_with('/') { path.to_owned() } else { format!("/~/{path}") };
                return Err(format!("it has no scheme; did you mean sftp://{host}{path}?"));
            }
            return Err(format!("it has no scheme; {HINT}"));
        }
        let url = url::Url::parse(text).map_err(|error| format!("{error}; {HINT}"))?;
        if url.scheme() != "sftp" {
            return Err(format!("the scheme `{}` is not supported; {HINT}", url.scheme()));
        }
        if url.password().is_some() {
            return Err("it contains a password, which would show in process lists and logs; use --password-file or ARCHIVER_PASSWORD".into());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(format!("it contains a `?` or `#`, which must be written %3F or %23; {HINT}"));
        }
        let host = match url.host() {
            Some(url::Host::Domain(name)) if !name.is_empty() => host_name(name)?,
            Some(url::Host::Ipv4(address)) => address.to_string(),
            Some(url::Host::Ipv6(address)) => address.to_string(),
            _ => return Err(format!("it names no host; {HINT}")),
        };
        if url.port() == Some(0) {
            return Err(format!("there is no port 0; {HINT}"));
        }
        let user = match url.username() {
            "" => None,
            user => Some(decoded(user)?),
        };
        // The raw text, because a URL parser resolves `..` silently.
        let raw_path = text.splitn(4, '/').nth(3).unwrap_or_default();
        let path = decoded(raw_path)?;
        if path.split('/').any(|part| part == ".." || part == ".") {
            return Err("its path contains `.` or `..`; write the directory itself".into());
        }
        let joined = path.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        let base = match joined.strip_prefix('~') {
            Some("") => String::new(),
            Some(below) if below.starts_with('/') => below[1..].to_owned(),
            _ => format!("/{joined}"),
        };
        Ok(Self { user, host, port: url.port(), base })
    }
}

/// The canonical form, which the ledger's keys contain.
impl fmt::Display for DestinationUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sftp://")?;
        if let Some(user) = &self.user {
            write!(f, "{}@", utf8_percent_encode(user, RESERVED_IN_USER))?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        if !self.base.starts_with('/') {
            f.write_str("/~")?;
            if !self.base.is_empty() {
                f.write_str("/")?;
            }
        }
        utf8_percent_encode(&self.base, RESERVED).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(text: &str) -> String {
        text.parse::<DestinationUrl>().unwrap().base
    }

    #[test]
    fn bases_are_absolute_or_below_the_login_directory() {
        assert_eq!(base("sftp://h/upload/"), "/upload");
        assert_eq!(base("sftp://h"), "/");
        assert_eq!(base("sftp://h/"), "/");
        assert_eq!(base("sftp://h/~"), "");
        assert_eq!(base("sftp://h/~/in/box"), "in/box");
        assert_eq!(base("sftp://h/~pine/x"), "/~pine/x");
        assert_eq!(base("sftp://h/a%20b//c"), "/a b/c");
    }

    #[test]
    fn the_canonical_form_parses_to_itself() {
        for text in [
            "sftp://pine@sftp:2222/upload",
            "sftp://h/",
            "sftp://h/~",
            "sftp://h/~/in/box",
            "sftp://[::1]:22/x",
            "sftp://u%40corp@h/a%20b%25",
            "sftp://a%3Ab%2Fc@h/",
        ] {
            let url: DestinationUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), text);
            assert_eq!(url.to_string().parse::<DestinationUrl>().unwrap(), url);
        }
    }

    #[test]
    fn mistakes_say_what_to_write() {
        let error = |text: &str| text.parse::<DestinationUrl>().unwrap_err();
        assert!(error("pine@host:in").contains("did you mean sftp://pine@host/~/in?"));
        assert!(error("pine@host:/in").contains("did you mean sftp://pine@host/in?"));
        assert!(error("ftp://host/x").contains("`ftp`"));
        assert!(error("sftp:///x").contains("host"));
        assert!(error("sftp://u:secret@h/x").contains("--password-file"));
        assert!(!error("sftp://u:secret@h/x").contains("secret"));
        assert!(!error("u:secret@h:/x").contains("secret"));
        assert!(error("sftp://h/a/../b").contains(".."));
        assert!(error("sftp://h:99999/").contains("port"));
        assert!(error("sftp://h:0/").contains("port 0"));
        for host in ["a%40b", "a%2Fb", "a%3Ab", "-oProxyCommand=x", "a%20b", "$(x)"] {
            assert!(error(&format!("sftp://{host}/")).contains("host name"), "{host}");
        }
        assert!(error("nonsense").contains("sftp://"));
    }
}
