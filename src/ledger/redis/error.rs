//! What Redis and the way to it report, sorted by consequence.

use redis::{ErrorKind, RedisError, ServerError, ServerErrorKind};

use crate::domain::redis_url::HostPort;
use crate::ledger::LedgerError;

/// Why there is no connection.
#[derive(Debug, Clone)]
pub(super) enum Refusal {
    /// Trying again will not help: somebody has to change something.
    Unusable(String),
    /// It may help.
    Unavailable(String),
    /// Another node of the cluster has the ledger.
    Elsewhere(HostPort),
}

impl Refusal {
    pub(super) fn at(self, location: &str) -> LedgerError {
        let location = location.to_owned();
        match self {
            Self::Unusable(reason) => LedgerError::Unusable { location, reason },
            Self::Unavailable(reason) => LedgerError::Unavailable { location, reason },
            Self::Elsewhere(node) => {
                LedgerError::Unavailable { location, reason: format!("it is at {node} now, and moves on") }
            }
        }
    }

    /// Of an attempt to connect, or of the first commands on a connection.
    pub(super) fn of(error: &RedisError) -> Self {
        if let ErrorKind::AuthenticationFailed = error.kind() {
            return Self::Unusable(format!("it refused the user or password ({}); {CREDENTIALS}", told(error)));
        }
        if let Some(node) = error.detail().filter(|_| error.code() == Some("MOVED")).and_then(moved_to) {
            return Self::Elsewhere(node);
        }
        match error.code() {
            Some("NOAUTH" | "WRONGPASS") => Self::Unusable(format!("it asks for a user and password; {CREDENTIALS}")),
            Some("NOPERM") => Self::Unusable(format!(
                "its access control list forbids what a ledger needs ({}); docs/redis.md lists the commands and keys",
                told(error)
            )),
            Some("WRONGTYPE") => Self::Unusable(
                "another program has keys of these names; name another prefix with ledger.prefix".to_owned(),
            ),
            Some("VERSION") => Self::Unusable(format!(
                "another version of this program made it (schema {}); use that version, or another ledger.prefix",
                error.detail().unwrap_or_default()
            )),
            _ if error.kind() == ErrorKind::InvalidClientConfig => Self::Unusable(told(error)),
            _ => Self::Unavailable(told(error)),
        }
    }
}

const CREDENTIALS: &str =
    "give the user in the URL, and the password with ledger.password-file or ARCHIVER_LEDGER_PASSWORD";

/// What a call's reply asks for that is an error.
#[derive(Debug)]
pub(super) enum Reply {
    /// The connection has to be made anew, with everything that belongs to it, and the call repeated.
    Again,
    /// The same, at another node.
    Elsewhere(HostPort),
    /// The call failed. A server that changed its part needs another connection for the next one.
    Failed(Refusal, Connection),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    Keep,
    Drop,
}

impl Reply {
    pub(super) fn of(error: &ServerError) -> Self {
        use Connection::{Drop, Keep};
        let detail = error.details().unwrap_or_default();
        let unavailable = |why: &str| Refusal::Unavailable(format!("{why} ({} {detail})", error.code()));
        match error.code() {
            "NOSCRIPT" | "EMPTIED" => Self::Again,
            "MOVED" => match moved_to(detail) {
                Some(node) => Self::Elsewhere(node),
                None => Self::Failed(unavailable("its keys moved"), Drop),
            },
            "OOM" => Self::Failed(
                unavailable("it is out of memory; give it more (maxmemory), or let it forget other keys"),
                Keep,
            ),
            "READONLY" | "MASTERDOWN" | "LOADING" | "CLUSTERDOWN" => {
                Self::Failed(unavailable("it takes no changes now"), Drop)
            }
            "MISCONF" => Self::Failed(unavailable("it cannot save to its disk"), Keep),
            "NOREPLICAS" => Self::Failed(unavailable("too few of its replicas are there"), Keep),
            "WRONGTYPE" => Self::Failed(
                Refusal::Unusable(
                    "another program has keys of these names; name another prefix with ledger.prefix".into(),
                ),
                Keep,
            ),
            "NOAUTH" => Self::Failed(unavailable("it asks for a password"), Drop),
            _ if error.kind() == Some(ServerErrorKind::ResponseError) => {
                Self::Failed(unavailable("it refused a command"), Keep)
            }
            _ => Self::Failed(unavailable("it did not do as it was asked"), Keep),
        }
    }
}

/// The node that `MOVED slot host:port` names: <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>.
fn moved_to(detail: &str) -> Option<HostPort> {
    let (host, port) = detail.split(' ').nth(1)?.rsplit_once(':')?;
    Some(HostPort { host: host.to_owned(), port: port.parse().ok()? }).filter(|node| !node.host.is_empty())
}

/// What the error says, without what may be secret: nothing of a URL is in it.
pub(super) fn told(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, _) if error.is_timeout() => "no answer in time".into(),
        _ => error.to_string(),
    }
}
