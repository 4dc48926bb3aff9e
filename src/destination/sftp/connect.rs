//! From nothing to a session, in steps that can be taken one by one (`archiver check` shows each) or all at once:
//! resolve, dial, handshake (with the host key), authenticate, open a session.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use russh::client::{self, Handle};
use russh::{ChannelMsg, Disconnect, Preferred};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::auth;
use super::guard::{Farewell, Guard, GuardError};
use super::host_key::PresentedKey;
use super::session::{self, Session};
use super::stream::{Head, Severable, Transport};
use super::target::{self, Target, Timeouts, Way};
use super::wire;
use crate::config::settings::DestinationSettings;
use crate::destination::DestinationError;
use crate::domain::display;

/// How long a farewell to the server may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Bytes read from the network at once: some hundred replies, or a packet of file content.
const READ_BUFFER: usize = 32 << 10;

/// Makes connections to one destination. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connector {
    target: Arc<Target>,
}

/// A transport to the host, before SSH begins.
pub struct Dialled {
    stream: Box<dyn Transport>,
    /// For people: `203.0.113.7:22`, `through gate:22`.
    pub peer: String,
    via: Via,
}

/// What must live as long as the stream made from it.
enum Via {
    Nothing,
    Host(Box<Connection>),
    Command(Child),
}

/// A connection whose server has proved who it is.
pub struct Handshaken {
    handle: Handle<Guard>,
    life: Life,
}

/// How far an attempt had come when its time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    Nothing,
    /// It proved who it is.
    Server,
}

struct Life {
    cut: CancellationToken,
    /// Cuts the stream on drop, which ends the task that russh runs.
    _guard: DropGuard,
    server: String,
    host_key: PresentedKey,
    farewell: Farewell,
    _via: Via,
}

impl Handshaken {
    /// `SSH-2.0-OpenSSH_9.2p1 Debian-2`
    pub fn server(&self) -> &str {
        &self.life.server
    }

    pub fn host_key(&self) -> &PresentedKey {
        &self.life.host_key
    }
}

/// A connection that is logged in. Dropping it ends it, at once; [`Connection::close`] says goodbye first.
pub struct Connection {
    handle: Handle<Guard>,
    life: Life,
    method: String,
    name: String,
    timeouts: Timeouts,
}

/// The longest a connect may take is [`Timeouts::connect`] for each host on the way.
impl Connector {
    /// Reads `ssh_config` and the files with secrets; everything wrong with them is a refusal here. Key files and
    /// `known_hosts` are read anew for each connection.
    pub fn new(settings: &DestinationSettings, timeouts: Timeouts) -> Result<Self, DestinationError> {
        Ok(Self { target: Arc::new(target::of_destination(settings, timeouts)?) })
    }

    /// Host, port, user, and what else was made of the settings.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// All steps but the last.
    pub async fn connect(&self) -> Result<Connection, DestinationError> {
        self.target.connect().await
    }

    /// The addresses of the host; none where a proxy finds them.
    pub async fn resolve(&self) -> Result<Vec<SocketAddr>, DestinationError> {
        self.target.within(self.target.resolve()).await
    }

    pub async fn dial(&self, addresses: &[SocketAddr]) -> Result<Dialled, DestinationError> {
        self.target.dial(addresses).await
    }

    pub async fn handshake(&self, dialled: Dialled) -> Result<Handshaken, DestinationError> {
        self.target.within(self.target.handshake(dialled)).await
    }

    pub async fn authenticate(&self, handshaken: Handshaken) -> Result<Connection, DestinationError> {
        let work = self.target.authenticate(handshaken);
        let ended = tokio::time::timeout(self.target.timeouts.connect, work).await;
        ended.unwrap_or_else(|_| Err(self.target.too_late(Reached::Server)))
    }
}

impl Target {
    fn name(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", display::escaped(&self.host), self.port),
        }
    }

    fn connecting(&self) -> String {
        format!("connecting to {}", self.name())
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T, DestinationError>>) -> Result<T, DestinationError> {
        tokio::time::timeout(self.timeouts.connect, work).await.unwrap_or_else(|_| Err(self.too_late(Reached::Nothing)))
    }

    fn too_late(&self, reached: Reached) -> DestinationError {
        let limit = humantime::format_duration(self.timeouts.connect);
        match reached {
            Reached::Nothing => DestinationError::outage(self.connecting(), format!("no connection within {limit}"))
                .hint("check host and port, and that a firewall lets them pass"),
            Reached::Server => DestinationError::outage(self.connecting(), format!("no login within {limit}"))
                .hint("the server is there, and does not come to an end with the login: look at its log, or raise `connect-timeout`"),
        }
    }

    async fn connect(&self) -> Result<Connection, DestinationError> {
        // A host on the way has its own limit.
        let via = self.via().await?;
        let mut reached = Reached::Nothing;
        let work = async {
            let addresses = self.resolve().await?;
            let dialled = self.dial_through(via, &addresses).await?;
            let handshaken = self.handshake(dialled).await?;
            reached = Reached::Server;
            self.authenticate(handshaken).await
        };
        let ended = tokio::time::timeout(self.timeouts.connect, work).await;
        ended.unwrap_or_else(|_| Err(self.too_late(reached)))
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, DestinationError> {
        if !matches!(self.way, Way::Direct) {
            return Ok(Vec::new());
        }
        let what = || format!("looking up {}", display::escaped(&self.host));
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let addresses: Vec<_> = found
            .map_err(|error| {
                DestinationError::outage(what(), error.to_string())
                    .hint("check the host's name, and the DNS of this machine")
            })?
            .collect();
        if addresses.is_empty() {
            return Err(DestinationError::outage(what(), "it has no address"));
        }
        Ok(addresses)
    }

    async fn dial(&self, addresses: &[SocketAddr]) -> Result<Dialled, DestinationError> {
        let via = self.via().await?;
        self.within(self.dial_through(via, addresses)).await
    }

    async fn via(&self) -> Result<Via, DestinationError> {
        match &self.way {
            Way::Direct => Ok(Via::Nothing),
            // Boxed, for the host on the way may have one on its way.
            Way::Jump(jump) => Ok(Via::Host(Box::new(Box::pin(jump.connect()).await?))),
            Way::Command(command) => {
                let mut shell = Command::new("sh");
                // Our variables may hold the password, which is not the command's to know.
                for (name, _) in
                    std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"ARCHIVER_"))
                {
                    shell.env_remove(name);
                }
                let child = shell
                    .arg("-c")
                    .arg(format!("exec {command}"))
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .kill_on_drop(true)
                    .spawn();
                child.map(Via::Command).map_err(|error| {
                    DestinationError::refusal(self.connecting(), format!("ProxyCommand cannot be run: {error}"))
                })
            }
        }
    }

    async fn dial_through(&self, mut via: Via, addresses: &[SocketAddr]) -> Result<Dialled, DestinationError> {
        let (stream, peer): (Box<dyn Transport>, _) = match &mut via {
            Via::Nothing => self.dial_tcp(addresses).await?,
            Via::Host(jump) => {
                let port = self.port.into();
                let opened = jump.handle.channel_open_direct_tcpip(&self.host, port, "127.0.0.1", 0).await;
                let channel = opened.map_err(|error| {
                    let why = format!("{} does not pass the connection on: {error}", jump.name);
                    DestinationError::outage(self.connecting(), why)
                })?;
                (Box::new(channel.into_stream()), format!("{} through {}", self.name(), jump.name))
            }
            Via::Command(child) => match (child.stdout.take(), child.stdin.take()) {
                (Some(stdout), Some(stdin)) => {
                    (Box::new(tokio::io::join(stdout, stdin)), format!("{} through a command", self.name()))
                }
                _ => return Err(DestinationError::outage(self.connecting(), "the command has no input or output")),
            },
        };
        Ok(Dialled { stream, peer, via })
    }

    /// Tries the addresses one after another, each with its share of the time, so that a dead one leaves some to the
    /// next.
    async fn dial_tcp(&self, addresses: &[SocketAddr]) -> Result<(Box<dyn Transport>, String), DestinationError> {
        let share = self.timeouts.connect / addresses.len().max(1) as u32;
        let mut failures = Vec::new();
        for address in addresses {
            match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Requests are small and wait for nobody; without it they would wait for Nagle.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!("TCP_NODELAY: {error}");
                    }
                    return Ok((Box::new(stream), address.to_string()));
                }
                Ok(Err(error)) => failures.push((address, error.to_string())),
                Err(_) => failures.push((address, format!("no answer within {}", humantime::format_duration(share)))),
            }
        }
        // What is connected to is said in front of it.
        let name = self.name();
        let told = failures.into_iter().map(|(address, why)| match address.to_string() {
            address if address == name => why,
            address => format!("{address}: {why}"),
        });
        Err(DestinationError::outage(self.connecting(), told.collect::<Vec<_>>().join("; "))
            .hint("check host and port, that the server runs, and that a firewall lets you pass"))
    }

    async fn handshake(&self, dialled: Dialled) -> Result<Handshaken, DestinationError> {
        let lookup = self.host_keys.lookup()?;
        let config = client::Config {
            preferred: Preferred {
                key: lookup.key_algorithms().into(),
                host_key_certificates: lookup.certificate_algorithms().into(),
                cipher: self.ciphers.clone(),
                ..Preferred::default()
            },
            keepalive_interval: Some(self.timeouts.keepalive),
            keepalive_max: 3,
            channel_buffer_size: self.channel_packets,
            ..client::Config::default()
        };
        let cut = CancellationToken::new();
        let cut_on_drop = cut.clone().drop_guard();
        let head = Head::default();
        let presented = Arc::new(Mutex::new(None));
        let farewell = Farewell::default();
        // russh reads the length of each packet and its rest apart: two system calls a packet without a buffer.
        let stream = BufReader::with_capacity(READ_BUFFER, Severable::new(dialled.stream, &cut, head.clone()));
        let guard = Guard::new(self.host_keys.clone(), lookup, presented.clone(), farewell.clone());
        let handle = client::connect_stream(Arc::new(config), stream, guard)
            .await
            .map_err(|error| self.handshake_failed(error, &head))?;
        let host_key = presented.lock().expect("no panic while held").take();
        let host_key = host_key.ok_or_else(|| DestinationError::outage(self.connecting(), "no host key was shown"))?;
        let server = head.identification().unwrap_or_default();
        Ok(Handshaken {
            handle,
            life: Life { cut, _guard: cut_on_drop, server, host_key, farewell, _via: dialled.via },
        })
    }

    fn handshake_failed(&self, error: GuardError, head: &Head) -> DestinationError {
        let error = match error {
            GuardError::Refused(error) => return *error,
            GuardError::Ssh(error) => error,
        };
        if head.identification().is_none() {
            let (why, hint) = unintroduced(&head.other_text());
            return DestinationError::throttled(self.connecting(), why).hint(hint);
        }
        match error {
            russh::Error::NoCommonAlgo { kind, theirs, .. } => DestinationError::refusal(
                self.connecting(),
                format!("no {kind:?} algorithm in common; the server has {}", display::escaped(&theirs.join(", "))),
            )
            .hint("the server is too old, or restricted to algorithms that are no longer safe"),
            russh::Error::WrongServerSig => {
                DestinationError::refusal(self.connecting(), "the server does not hold the host key that it shows")
            }
            error => DestinationError::outage(self.connecting(), format!("the key exchange failed: {error}")),
        }
    }

    async fn authenticate(&self, handshaken: Handshaken) -> Result<Connection, DestinationError> {
        let Handshaken { mut handle, life } = handshaken;
        let method =
            auth::authenticate(&mut handle, &life.farewell, &self.user, &self.name(), &self.credentials).await?;
        tracing::debug!("logged in to {} as {} with {method}", self.name(), display::escaped(&self.user));
        Ok(Connection { handle, life, method, name: self.name(), timeouts: self.timeouts })
    }
}

impl Connection {
    /// A channel with the `sftp` subsystem. An error here leaves the connection usable, unless it says otherwise.
    pub async fn open_session(&self) -> Result<Session, DestinationError> {
        let limit = self.timeouts.connect;
        let what = format!("opening an SFTP session on {}", self.name);
        let work = async {
            let opened = self.handle.channel_open_session().await;
            let mut channel = opened.map_err(|error| match error {
                // OpenSSH gives no better reason than `connect failed` (session.c, MaxSessions).
                russh::Error::ChannelOpenFailure(reason) => {
                    DestinationError::throttled(what.clone(), format!("the server opens no channel: {reason:?}"))
                        .hint("it may allow fewer sessions (MaxSessions of sshd)")
                }
                error => DestinationError::outage(what.clone(), error.to_string()),
            })?;
            let no_sftp = || {
                DestinationError::refusal(what.clone(), "the server offers no SFTP")
                    .hint("its sshd_config needs a line `Subsystem sftp internal-sftp`")
            };
            let asked = channel.request_subsystem(true, "sftp").await;
            asked.map_err(|error| DestinationError::outage(what.clone(), error.to_string()))?;
            // As OpenSSH's own client does: the first packet does not wait for the subsystem.
            let first = channel.data_bytes(session::greeting(&self.life.server)).await;
            first.map_err(|error| DestinationError::outage(what.clone(), error.to_string()))?;
            let mut read = BytesMut::new();
            loop {
                match channel.wait().await {
                    Some(ChannelMsg::Success) => break,
                    Some(ChannelMsg::Data { data }) if read.len() + data.len() > wire::MAX_PACKET => {
                        return Err(DestinationError::outage(what.clone(), "the server talks without being asked"));
                    }
                    Some(ChannelMsg::Data { data }) => read.extend_from_slice(&data),
                    Some(ChannelMsg::Failure) => return Err(no_sftp()),
                    Some(message) if !matches!(message, ChannelMsg::Eof | ChannelMsg::Close) => {}
                    // A server that is going down: no answer is no refusal.
                    _ => return Err(DestinationError::outage(what.clone(), "the connection was lost")),
                }
            }
            Session::start(channel, read, &self.life.server, self.timeouts.request, self.life.cut.clone()).await
        };
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            let why = format!("no answer within {}", humantime::format_duration(limit));
            Err(DestinationError::outage(what.clone(), why))
        })
    }

    /// `SSH-2.0-OpenSSH_9.2p1 Debian-2`
    pub fn server(&self) -> &str {
        &self.life.server
    }

    pub fn host_key(&self) -> &PresentedKey {
        &self.life.host_key
    }

    /// How the login was done: `publickey (/keys/id_ed25519)`.
    pub fn auth_method(&self) -> &str {
        &self.method
    }

    pub fn is_closed(&self) -> bool {
        self.handle.is_closed() || self.life.cut.is_cancelled()
    }

    /// Tells the server, waits a moment until the connection is down, and cuts it then.
    pub async fn close(mut self) {
        let farewell = async {
            if self.handle.disconnect(Disconnect::ByApplication, "done", "").await.is_ok() {
                // How it ends does not matter any more.
                let _ = (&mut self.handle).await;
            }
        };
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            tracing::debug!("{} did not say goodbye in time", self.name);
        }
    }
}

/// What a server means that ends the connection without an identification, and what to do. OpenSSH up to 9.7 closes
/// some connections without a word, and 9.0 and later say why first (sshd.c, `drop_connection`).
fn unintroduced(text: &str) -> (String, &'static str) {
    const TOO_MANY: &str = "it has as many connections as it takes: fewer `--connections`, or a larger MaxStartups or \
                            PerSourceMaxStartups in its sshd_config";
    match text.lines().next().unwrap_or_default().trim() {
        "" => (
            "the server closed the connection before it introduced itself".into(),
            "it may have too many connections (MaxStartups of sshd), or the port may be another service's",
        ),
        "Exceeded MaxStartups" => {
            ("the server has too many connections that are logging in (MaxStartups)".into(), TOO_MANY)
        }
        "Not allowed at this time" => (
            "the server takes no connection from this address for now".into(),
            "it had too many failed logins from here (PerSourcePenalties of sshd), or too many connections (MaxStartups)",
        ),
        _ => (
            format!("this does not look like an SSH server; it says `{}`", display::escaped(text)),
            "the port may be another service's",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_has_too_many_connections_is_told_from_another_service() {
        for (said, meant) in [
            ("", "before it introduced itself"),
            ("Exceeded MaxStartups", "logging in (MaxStartups)"),
            ("Exceeded MaxStartups\r\n", "logging in (MaxStartups)"),
            ("Not allowed at this time\r\n", "from this address"),
            ("HTTP/1.1 400 Bad Request", "does not look like an SSH server; it says `HTTP/1.1 400 Bad Request`"),
            ("Welcome. Exceeded MaxStartups", "does not look like an SSH server"),
        ] {
            let (why, hint) = unintroduced(said);
            assert!(why.contains(meant) && !hint.is_empty(), "{said:?}: {why}");
        }
    }
}
