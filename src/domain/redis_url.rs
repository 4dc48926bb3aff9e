//! `redis://[user[:password]@]host[:port][/database]`: where a shared ledger is. `rediss` is the same over TLS,
//! `redis+sentinel://host[:port],…/master[/database]` asks Sentinel for the master (`rediss+sentinel` with TLS to all of
//! them), and `redis+unix:///socket[?db=N]` is a socket on this machine.

use std::fmt;
use std::path::PathBuf;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// A shared ledger's place. Never holds a password, so it can be shown; see [`RedisUrl::parse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisUrl {
    pub place: RedisPlace,
    pub transport: Transport,
    /// Of an access control list; without one, the server's default user.
    pub user: Option<String>,
    pub database: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisPlace {
    Server(HostPort),
    /// Any of them says which server is the master called `master` now.
    Sentinels {
        sentinels: Vec<HostPort>,
        master: String,
    },
    Socket(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// IPv6 addresses without brackets.
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Plain,
    Tls,
}

const HINT: &str = "write redis://[user@]host[:port][/database], rediss://… for TLS, or redis+sentinel://host[:port],host[:port]/master[/database]";
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

impl RedisUrl {
    /// Whether the text is meant to be one: its scheme says so.
    pub fn is_meant(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| kind(scheme).is_some())
    }

    /// The place, and the password where the text has one. No message repeats what was written behind the scheme.
    pub fn parse(text: &str) -> Result<(Self, Option<String>), String> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| format!("it has no scheme; {HINT}"))?;
        let (kind, transport) = kind(scheme).ok_or_else(|| format!("its scheme is not supported; {HINT}"))?;
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        if rest.contains('#') || query.is_some() && kind != Kind::Socket {
            return Err(format!("it contains a `?` or `#`, which must be written %3F or %23; {HINT}"));
        }
        let (authority, path) = rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
        let (user_info, hosts) =
            authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
        let (user, password) = match user_info {
            None => (None, None),
            Some(info) => match info.split_once(':') {
                None => (Some(info), None),
                Some((user, password)) => (Some(user), Some(password)),
            },
        };
        let decoded = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(decoded).transpose();
        let (user, password) = (decoded(user)?, decoded(password)?);
        let mut below = path.filter(|_| kind != Kind::Socket).into_iter().flat_map(|path| path.split('/'));
        let (place, database) = match kind {
            Kind::Server => {
                let server = host_port(hosts, PORT)?;
                (RedisPlace::Server(server), below.next())
            }
            Kind::Sentinels => {
                let sentinels =
                    hosts.split(',').map(|host| host_port(host, SENTINEL_PORT)).collect::<Result<Vec<_>, _>>()?;
                let master = decoded(below.next())?.ok_or_else(|| format!("it names no master; {HINT}"))?;
                (RedisPlace::Sentinels { sentinels, master }, below.next())
            }
            Kind::Socket => {
                let path = path.filter(|path| !path.is_empty() && hosts.is_empty());
                let path = decoded(path)?.ok_or("it names no socket; write redis+unix:///path/of/socket")?;
                let database = query.map(|query| query.strip_prefix("db=").ok_or("only `?db=N` may follow the socket"));
                (RedisPlace::Socket(PathBuf::from(format!("/{path}"))), database.transpose()?)
            }
        };
        if below.any(|part| !part.is_empty()) {
            return Err(format!("its path has more parts than one expects; {HINT}"));
        }
        let database = match database.unwrap_or_default() {
            "" => 0,
            number => number.parse().map_err(|_| format!("its database is no number; {HINT}"))?,
        };
        Ok((Self { place, transport, user, database }, password))
    }

    /// The text with its password, if it has one, unreadable.
    pub fn without_password(text: &str) -> String {
        match Self::parse(text) {
            Ok((_, None)) => text.to_owned(),
            Ok((url, Some(_))) => url.to_string(),
            // What cannot be read may hold one anywhere.
            Err(_) => "(unreadable)".into(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Server,
    Sentinels,
    Socket,
}

fn kind(scheme: &str) -> Option<(Kind, Transport)> {
    Some(match scheme {
        "redis" => (Kind::Server, Transport::Plain),
        "rediss" => (Kind::Server, Transport::Tls),
        "redis+sentinel" => (Kind::Sentinels, Transport::Plain),
        "rediss+sentinel" => (Kind::Sentinels, Transport::Tls),
        "redis+unix" => (Kind::Socket, Transport::Plain),
        _ => return None,
    })
}

fn host_port(text: &str, default: u16) -> Result<HostPort, String> {
    let bad = || format!("it has a host or port that cannot be one; {HINT}");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(bad)?;
            (host, port.strip_prefix(':'))
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_') || c == ':' && text.starts_with('[');
    if host.is_empty() || !host.chars().all(allowed) {
        return Err(bad());
    }
    let port = port.map_or(Ok(default), str::parse).ok().filter(|port| *port > 0).ok_or_else(bad)?;
    Ok(HostPort { host: host.to_owned(), port })
}

fn decoded(text: &str) -> Result<String, String> {
    let text =
        percent_decode_str(text).decode_utf8().map_err(|_| format!("its percent escapes are not UTF-8; {HINT}"))?;
    if text.chars().any(char::is_control) {
        return Err(format!("it contains a control character; {HINT}"));
    }
    Ok(text.into_owned())
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// As it is written, without a password.
impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if self.transport == Transport::Tls { "rediss" } else { "redis" };
        let user = self.user.as_ref().map(|user| format!("{}@", utf8_percent_encode(user, NON_ALPHANUMERIC)));
        let user = user.unwrap_or_default();
        match &self.place {
            RedisPlace::Server(server) => {
                write!(f, "{tls}://{user}{server}")?;
                if self.database == 0 { Ok(()) } else { write!(f, "/{}", self.database) }
            }
            RedisPlace::Sentinels { sentinels, master } => {
                let sentinels = sentinels.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                write!(f, "{tls}+sentinel://{user}{sentinels}/{}", super::display::escaped(master))?;
                if self.database == 0 { Ok(()) } else { write!(f, "/{}", self.database) }
            }
            RedisPlace::Socket(path) => {
                write!(f, "redis+unix://{user}{}", super::display::path(path))?;
                if self.database == 0 { Ok(()) } else { write!(f, "?db={}", self.database) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written() {
        for (text, shown) in [
            ("redis://cache", "redis://cache:6379"),
            ("redis://cache:7000/3", "redis://cache:7000/3"),
            ("rediss://pine@cache/0", "rediss://pine@cache:6379"),
            ("redis://[::1]:7000", "redis://[::1]:7000"),
            ("redis+sentinel://a,b:7/main/2", "redis+sentinel://a:26379,b:7/main/2"),
            ("redis+unix:///run/redis/redis.sock?db=4", "redis+unix:///run/redis/redis.sock?db=4"),
        ] {
            let (url, password) = RedisUrl::parse(text).unwrap();
            assert_eq!((url.to_string().as_str(), password), (shown, None));
            assert_eq!(RedisUrl::parse(shown).unwrap().0, url);
        }
    }

    #[test]
    fn a_password_is_taken_out_and_never_shown() {
        for text in
            ["redis://:hunter%3A2@cache", "rediss://pine:hunter:2@cache/1", "redis+sentinel://:hunter%3a2@a,b/m"]
        {
            let (url, password) = RedisUrl::parse(text).unwrap();
            assert_eq!(password.as_deref(), Some("hunter:2"));
            assert!(!format!("{url}{url:?}{}", RedisUrl::without_password(text)).contains("hunter"));
        }
        assert_eq!(RedisUrl::without_password("redis://:hunter2@host:port"), "(unreadable)");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_without_repeating_it() {
        for bad in [
            "redis://",
            "redis://:hunter2@",
            "redis://:hunter2@cache:0",
            "redis://:hunter2@cache:port",
            "redis://:hunter2@cache/main",
            "redis://:hunter2@cache/0/1",
            "redis://:hunter2@cache?x",
            "redis+sentinel://:hunter2@a,b",
            "redis+sentinel://:hunter2@a,,b/m",
            "redis+unix://host/socket",
            "mysql://root:hunter2@db",
        ] {
            let message = RedisUrl::parse(bad).unwrap_err();
            assert!(message.contains("redis") && !message.contains("hunter2"), "{bad}: {message}");
        }
        assert!(!RedisUrl::is_meant("/var/lib/ledger.db") && RedisUrl::is_meant("redis://:"));
    }
}
