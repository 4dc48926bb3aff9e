//! From the settings to a connection that can be worked with: the right server, our scripts on it, its ledger joined.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, Pipeline, RedisConnectionInfo, RedisError,
    TlsCertificates, Value, cmd,
};

use super::error::{Refusal, told};
use super::keys::Keys;
use super::scripts::Script;
use crate::config::settings::RedisSettings;
use crate::domain::OwnerId;
use crate::domain::redis_url::{HostPort, RedisPlace, Transport};

/// The layout of the keys, as docs/redis.md describes it.
const VERSION: &str = "1";
/// That of a ledger in which records are found by their bytes, too.
const WITH_CONTENTS: &str = "2";
/// Longest time for a connection to be made and authenticated.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Nodes of a cluster that are asked for the ledger, one by the last one's word.
const REDIRECTIONS: usize = 5;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To take part: the ledger is made where there is none.
    Join,
    /// Only to look.
    Look,
}

/// Who we are to the others.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) owner: OwnerId,
    pub(super) lease: Duration,
}

#[derive(Debug)]
pub(super) struct Connector {
    settings: RedisSettings,
    pub(super) keys: Keys,
    identity: Identity,
    purpose: Purpose,
    timeout: Duration,
    /// What is wrong with the server's settings was said.
    warned: bool,
}

/// A connection, and the ledger that was found at its other end.
pub(super) struct Joined {
    pub(super) connection: MultiplexedConnection,
    pub(super) instance: String,
}

impl Connector {
    pub(super) fn new(settings: RedisSettings, identity: Identity, purpose: Purpose) -> Self {
        // A renewal that hangs must fail in time for the next one.
        let timeout = CONNECT_TIMEOUT.min(identity.lease / 3).max(Duration::from_millis(300));
        Self { keys: Keys::new(&settings.prefix), settings, identity, purpose, timeout, warned: false }
    }

    pub(super) fn location(&self) -> String {
        self.settings.url.to_string()
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn replicas(&self) -> u16 {
        self.settings.replicas
    }

    /// The arguments that every script begins with.
    pub(super) fn header(&self, instance: &str) -> [String; 4] {
        [instance.to_owned(), self.identity.owner.to_string(), self.identity.lease.as_millis().to_string(), label()]
    }

    /// Connects to the server that takes changes now. `node`: the one that a cluster sent us to.
    pub(super) async fn connect(&mut self, node: Option<&HostPort>) -> Result<Joined, Refusal> {
        let limit = self.timeout * 2;
        let mut node = node.cloned();
        for _ in 0..REDIRECTIONS {
            match tokio::time::timeout(limit, self.try_to_connect(node.as_ref())).await {
                Ok(Err(Refusal::Elsewhere(other))) => node = Some(other),
                Ok(joined) => return joined,
                Err(_) => return Err(Refusal::Unavailable(format!("no answer within {limit:?}"))),
            }
        }
        Err(Refusal::Unavailable("its nodes send us from one to the other".into()))
    }

    async fn try_to_connect(&mut self, node: Option<&HostPort>) -> Result<Joined, Refusal> {
        let password = self.password().await?;
        let mut connection = match (&self.settings.url.place, node) {
            (_, Some(node)) | (RedisPlace::Server(node), None) => self.open(self.tcp(node), password).await?,
            (RedisPlace::Socket(path), None) => self.open(ConnectionAddr::Unix(path.clone()), password).await?,
            (RedisPlace::Sentinels { sentinels, master }, None) => {
                let master = self.ask_sentinels(sentinels, master, password.clone()).await?;
                self.open(self.tcp(&master), password).await?
            }
        };
        let mut first = Pipeline::new();
        first.cmd("ROLE").cmd("INFO");
        first.add_command(config_get("appendfsync"));
        let replies = connection.req_packed_commands(&first, 0, 3).await.map_err(|error| Refusal::of(&error))?;
        refuse_replica(replies.first())?;
        let info = Info::of(replies.get(1))?;
        self.judge(&info, replies.get(2))?;
        let mut load = Pipeline::new();
        for source in Script::all_sources() {
            load.cmd("SCRIPT").arg("LOAD").arg(source);
        }
        let count = load.len();
        let replies = connection.req_packed_commands(&load, 0, count).await.map_err(|error| Refusal::of(&error))?;
        for reply in replies {
            reply.extract_error().map_err(|error| Refusal::of(&error))?;
        }
        let instance = self.join(&mut connection, &info).await?;
        Ok(Joined { connection, instance })
    }

    async fn join(&self, connection: &mut MultiplexedConnection, info: &Info) -> Result<String, Refusal> {
        if self.purpose == Purpose::Look {
            let asked = cmd("HGET")
                .arg(self.keys.ledger().to_string())
                .arg("version")
                .query_async::<Option<String>>(connection)
                .await;
            return match asked.map_err(|error| Refusal::of(&error))? {
                Some(version) if version != VERSION && version != WITH_CONTENTS => {
                    Err(Refusal::of(&redis::make_extension_error("VERSION".into(), Some(version))))
                }
                _ => Ok(String::new()),
            };
        }
        let instance = format!("{:032x}", rand::random::<u128>());
        // Two ledgers never issue the same token for the same file.
        let first_token = rand::random::<u64>() >> 17;
        let joined: Result<String, RedisError> = cmd("EVALSHA")
            .arg(Script::Join.sha1())
            .arg(2)
            .arg(&[self.keys.ledger().to_string(), self.keys.owners().to_string()])
            .arg(&self.header(""))
            .arg(VERSION)
            .arg(instance)
            .arg(first_token)
            .arg(info.get("run_id").unwrap_or_default())
            .query_async(connection)
            .await;
        joined.map_err(|error| Refusal::of(&error))
    }

    async fn password(&self) -> Result<Option<String>, Refusal> {
        let Some(path) = self.settings.password_file.clone() else {
            return Ok(self.settings.password.as_ref().map(|secret| secret.expose().to_owned()));
        };
        let shown = crate::domain::display::path(&path).to_string();
        match read(&path).await {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                Ok(Some(text.lines().next().unwrap_or_default().to_owned()))
            }
            Err(error) => Err(Refusal::Unusable(format!("its password cannot be read from {shown}: {error}"))),
        }
    }

    fn tcp(&self, node: &HostPort) -> ConnectionAddr {
        let (host, port) = (node.host.clone(), node.port);
        match self.settings.url.transport {
            Transport::Plain => ConnectionAddr::Tcp(host, port),
            Transport::Tls => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        }
    }

    async fn open(&self, address: ConnectionAddr, password: Option<String>) -> Result<MultiplexedConnection, Refusal> {
        let mut login = RedisConnectionInfo::default().set_db(i64::from(self.settings.url.database));
        if let (Some(user), true) = (&self.settings.url.user, password.is_some()) {
            login = login.set_username(user);
        }
        if let Some(password) = password {
            login = login.set_password(password);
        }
        self.open_as(address, login).await
    }

    async fn open_as(
        &self,
        address: ConnectionAddr,
        login: RedisConnectionInfo,
    ) -> Result<MultiplexedConnection, Refusal> {
        let root_cert = match &self.settings.ca_file {
            Some(path) if self.settings.url.transport == Transport::Tls => {
                let shown = crate::domain::display::path(path).to_string();
                let read = read(path).await;
                Some(read.map_err(|error| Refusal::Unusable(format!("{shown} cannot be read: {error}")))?)
            }
            _ => None,
        };
        let open = |error: RedisError| Refusal::of(&error);
        let info = address.into_connection_info().map_err(open)?.set_redis_settings(login);
        let client = match self.settings.url.transport {
            Transport::Plain => Client::open(info),
            Transport::Tls => Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert }),
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout));
        client.map_err(open)?.get_multiplexed_async_connection_with_config(&config).await.map_err(open)
    }

    /// The address of the master, from the first sentinel that answers with one. Protocol:
    /// <https://redis.io/docs/latest/develop/reference/sentinel-clients/>.
    async fn ask_sentinels(
        &self,
        sentinels: &[HostPort],
        master: &str,
        password: Option<String>,
    ) -> Result<HostPort, Refusal> {
        // All at once: those that are dead would take the time of the others.
        let mut asking: FuturesUnordered<_> = sentinels
            .iter()
            .map(async |sentinel| (sentinel, self.ask_sentinel(sentinel, master, password.clone()).await))
            .collect();
        let mut why = Vec::new();
        while let Some((sentinel, answer)) = asking.next().await {
            match answer {
                Ok(Some(address)) => return Ok(address),
                Ok(None) => why.push(format!("{sentinel} knows no master of that name")),
                Err(Refusal::Unusable(reason) | Refusal::Unavailable(reason)) => {
                    why.push(format!("{sentinel}: {reason}"));
                }
                Err(Refusal::Elsewhere(_)) => why.push(format!("{sentinel} is no sentinel")),
            }
        }
        Err(Refusal::Unavailable(format!("no sentinel tells where the master is: {}", why.join("; "))))
    }

    async fn ask_sentinel(
        &self,
        sentinel: &HostPort,
        master: &str,
        password: Option<String>,
    ) -> Result<Option<HostPort>, Refusal> {
        let question = || {
            let mut question = cmd("SENTINEL");
            question.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
            question
        };
        let mut connection = self.open_as(self.tcp(sentinel), RedisConnectionInfo::default()).await?;
        let mut answer = question().query_async::<Option<(String, u16)>>(&mut connection).await;
        // Only a sentinel that asks for a password is told one.
        if let (Err(error), Some(password)) = (&answer, password)
            && error.code() == Some("NOAUTH")
        {
            let login = RedisConnectionInfo::default().set_password(password);
            connection = self.open_as(self.tcp(sentinel), login).await?;
            answer = question().query_async(&mut connection).await;
        }
        let answer = answer.map_err(|error| Refusal::Unavailable(told(&error)))?;
        Ok(answer.map(|(host, port)| HostPort { host, port }))
    }

    /// Refuses a server that may drop keys by itself, and says once what its settings cannot promise.
    fn judge(&mut self, info: &Info, appendfsync: Option<&Value>) -> Result<(), Refusal> {
        let policy = info.get("maxmemory_policy").unwrap_or("noeviction");
        let limited = info.get("maxmemory").is_some_and(|bytes| bytes != "0");
        // None of our keys expires, so the volatile policies do not touch them.
        if policy.starts_with("allkeys") && limited {
            return Err(Refusal::Unusable(format!(
                "its maxmemory-policy is {policy}: when it is full, it drops keys, and so forgets what is archived; \
                 set noeviction, or name a server that is no cache"
            )));
        }
        if std::mem::replace(&mut self.warned, true) || self.purpose == Purpose::Look {
            return Ok(());
        }
        let location = self.location();
        if policy.starts_with("allkeys") {
            tracing::warn!(
                "the ledger {location} has the maxmemory-policy {policy}: with a limit to its memory it would forget what is archived; set noeviction"
            );
        }
        if info.get("aof_enabled") == Some("0") {
            tracing::warn!(
                "the ledger {location} keeps no append-only file: when it restarts, it forgets what was archived since its last snapshot; set appendonly yes, and appendfsync always where a power cut counts"
            );
        } else if fsync(appendfsync).is_some_and(|when| when != "always") {
            tracing::info!(
                "the ledger {location} writes to its disk once in a while (appendfsync is not always): a power cut may cost it the last second"
            );
        }
        Ok(())
    }
}

/// A small file, on a thread that may block.
async fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || std::fs::read(path)).await.map_err(std::io::Error::other)?
}

/// Who has a lease, for people: they are in docs/redis.md.
fn label() -> String {
    format!("{} {}", rustix::system::uname().nodename().to_string_lossy(), std::process::id())
}

fn config_get(name: &str) -> redis::Cmd {
    let mut get = cmd("CONFIG");
    get.arg("GET").arg(name);
    get
}

/// The value of `CONFIG GET`, where we may ask.
fn fsync(reply: Option<&Value>) -> Option<String> {
    match reply?.as_sequence()? {
        [_, Value::BulkString(value)] => String::from_utf8(value.clone()).ok(),
        _ => None,
    }
}

/// Where ROLE is forbidden, a replica shows itself with the first change.
fn refuse_replica(role: Option<&Value>) -> Result<(), Refusal> {
    let Some(Value::BulkString(role)) = role.and_then(Value::as_sequence).and_then(<[Value]>::first) else {
        return match role.cloned().map(Value::extract_error) {
            Some(Err(error)) if error.code() != Some("NOPERM") => Err(Refusal::of(&error)),
            _ => Ok(()),
        };
    };
    match role.as_slice() {
        b"master" => Ok(()),
        _ => Err(Refusal::Unavailable(
            "it is a replica now, which takes no changes; name its primary, or sentinels with redis+sentinel://".into(),
        )),
    }
}

/// The lines of INFO; none where it is forbidden.
struct Info(String);

impl Info {
    fn of(reply: Option<&Value>) -> Result<Self, Refusal> {
        match reply.cloned().unwrap_or_default().extract_error() {
            Ok(value) => Ok(Self(redis::from_redis_value(value).unwrap_or_default())),
            Err(error) if error.code() == Some("NOPERM") => Ok(Self(String::new())),
            Err(error) => Err(Refusal::of(&error)),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    }
}
