//! The listener: accepts connections, owns all tasks, and ends them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use russh::keys::PublicKey;
use russh::{Disconnect, Limits, SshId, server};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, info_span, warn};

use super::confined::Root;
use super::cut::CutStream;
use super::disk::Store;
use super::faults::Faults;
use super::host_key::{HostKeyError, KnownHostsLine, fingerprint};
use super::quota::Quota;
use super::ssh::Connection;
use super::{Authentication, HostKey, Identification, Quirks};

/// What to serve, where, and to whom.
pub struct ServerConfig {
    /// Port 0 for any free one; [`Server::addr`] then says which.
    pub listen: SocketAddr,
    /// The one directory that clients see, as `/`. It must exist.
    pub root: PathBuf,
    pub users: Authentication,
    pub host_key: HostKey,
    pub quirks: Quirks,
    /// Faults on purpose.
    pub faults: Option<Arc<dyn Faults>>,
    /// A connection on which nobody logged in for so long is cut.
    pub login_grace: Duration,
}

/// The same as OpenSSH's `LoginGraceTime`.
const LOGIN_GRACE: Duration = Duration::from_secs(120);

impl ServerConfig {
    /// A server on a free loopback port with a new host key, without quirks and faults.
    pub fn on_loopback(root: impl Into<PathBuf>, users: Authentication) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            root: root.into(),
            users,
            host_key: HostKey::default(),
            quirks: Quirks::default(),
            faults: None,
            login_grace: LOGIN_GRACE,
        }
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot serve {}: {source}; give a directory that exists and is readable", crate::domain::display::path(.path))]
    Root { path: PathBuf, source: std::io::Error },
    #[error("cannot listen on {address}: {source}; choose another address, or port 0 for any free one")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("{}{source}", file_prefix(.path.as_deref()))]
    HostKey { path: Option<PathBuf>, source: HostKeyError },
    #[error("nobody could log in; give a password or at least one authorized key")]
    NoCredentials,
}

fn file_prefix(path: Option<&Path>) -> String {
    path.map(|path| format!("{}: ", crate::domain::display::path(path))).unwrap_or_default()
}

/// A running server. Dropping it cuts all connections; [`Server::shutdown`] ends them in order.
pub struct Server {
    address: SocketAddr,
    public_key: PublicKey,
    /// No more connections, and those there are end.
    stop: CancellationToken,
    /// All streams are cut.
    cut: CancellationToken,
    tasks: TaskTracker,
}

/// What all connections share.
pub(super) struct Shared {
    pub(super) users: Authentication,
    pub(super) store: Arc<Store>,
    pub(super) faults: Option<Arc<dyn Faults>>,
    pub(super) tasks: TaskTracker,
    login_grace: Duration,
    pub(super) closing: CancellationToken,
}

/// Connections at the same time; more are closed at once, as OpenSSH does beyond `MaxStartups`.
const MAX_CONNECTIONS: usize = 256;
/// How long a refused login takes, so that guessing is slow and a typing error is not.
const REJECTION_DELAY: Duration = Duration::from_millis(200);
/// How long a client may take to close its side once it was told that the server ends.
const FAREWELL: Duration = Duration::from_secs(1);
/// Pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Server {
    /// Binds and starts to serve. Once it returns, clients can connect. To be called within a tokio runtime.
    pub async fn start(config: ServerConfig) -> Result<Self, StartError> {
        let methods = config.users.methods();
        if methods.is_empty() {
            return Err(StartError::NoCredentials);
        }
        let root = Root::open(&config.root)
            .map_err(|errno| StartError::Root { path: config.root.clone(), source: errno.into() })?;
        let host_key = config
            .host_key
            .load()
            .map_err(|source| StartError::HostKey { path: config.host_key.path().map(Path::to_owned), source })?;
        let listen_error = |source| StartError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;

        let quota = config.quirks.quota.map(|limit| Quota::new(&config.root, limit));
        let tasks = TaskTracker::new();
        let public_key = host_key.public_key().clone();
        let mut limits = Limits::default();
        if let Some(bytes) = config.quirks.rekey_bytes.and_then(|bytes| usize::try_from(bytes).ok()) {
            (limits.rekey_read_limit, limits.rekey_write_limit) = (bytes, bytes);
        }
        let own = server::Config::default();
        let ssh = Arc::new(server::Config {
            server_id: match config.quirks.identification {
                Identification::Own => own.server_id,
                Identification::OpenSsh => SshId::Standard("SSH-2.0-OpenSSH_9.2".into()),
            },
            limits,
            methods,
            keys: vec![host_key],
            auth_rejection_time: REJECTION_DELAY,
            // The first request of most clients is `none`, to learn the methods.
            auth_rejection_time_initial: Some(Duration::ZERO),
            keepalive_interval: Some(Duration::from_secs(30)),
            ..server::Config::default()
        });
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            users: config.users,
            store: Arc::new(Store { root, quirks: config.quirks, quota }),
            faults: config.faults,
            tasks: tasks.clone(),
            login_grace: config.login_grace,
            closing: stop.clone(),
        });
        let server = Self { address, public_key, stop, cut: CancellationToken::new(), tasks };
        server.tasks.spawn(accept(listener, ssh, shared, server.stop.clone(), server.cut.clone()));
        Ok(server)
    }

    /// The address it listens on, with the port it got.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    pub fn host_public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fn host_key_fingerprint(&self) -> String {
        fingerprint(&self.public_key)
    }

    /// The line of a `known_hosts` file that makes strict clients trust this server; no line end.
    pub fn known_hosts_line(&self) -> String {
        KnownHostsLine { address: self.address, key: &self.public_key }.to_string()
    }

    /// Stops accepting, takes leave of all clients, waits until every task is done. The port is free afterwards.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        self.cut.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    ssh: Arc<server::Config>,
    shared: Arc<Shared>,
    stop: CancellationToken,
    cut: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    for number in 0.. {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            warn!(%peer, limit = MAX_CONNECTIONS, "too many connections; closed");
            continue;
        };
        let connection = Connection::new(Arc::clone(&shared), number, cut.child_token());
        shared.tasks.spawn(cut_without_login(shared.login_grace, connection.logged_in.clone(), connection.cut.clone()));
        let (ssh, stop) = (Arc::clone(&ssh), stop.clone());
        let span = info_span!("connection", number, %peer);
        let serve = async move {
            serve(stream, ssh, connection, stop).await;
            drop(slot);
        };
        shared.tasks.spawn(serve.instrument(span));
    }
}

async fn cut_without_login(grace: Duration, logged_in: CancellationToken, cut: CancellationToken) {
    tokio::select! {
        () = logged_in.cancelled() => {}
        () = cut.cancelled() => {}
        () = tokio::time::sleep(grace) => cut.cancel(),
    }
}

/// One connection from its first byte to its last.
async fn serve(stream: TcpStream, ssh: Arc<server::Config>, connection: Connection, stop: CancellationToken) {
    let cut = connection.cut.clone();
    // Without it, small replies would wait for the client's acknowledgements. A failure costs only time.
    let _ = stream.set_nodelay(true);
    let start = server::run_stream(ssh, CutStream::new(stream, cut.clone()), connection);
    // Dropped on every way out, and whatever still waits on this connection's behalf ends with it.
    let _ended = cut.clone().drop_guard();
    let mut session = tokio::select! {
        () = stop.cancelled() => return,
        started = start => match started {
            Ok(session) => session,
            Err(error) => return debug!(%error, "no SSH client"),
        },
    };
    let outcome = tokio::select! {
        outcome = &mut session => outcome,
        () = stop.cancelled() => {
            // It fails only where the connection is gone already.
            let handle = session.handle();
            let farewell = handle.disconnect(Disconnect::ByApplication, "server stops".into(), "en".into());
            let leave = async { farewell.await.ok(); (&mut session).await };
            match tokio::time::timeout(FAREWELL, leave).await {
                Ok(outcome) => outcome,
                Err(_) => { cut.cancel(); session.await }
            }
        }
    };
    match outcome {
        Ok(()) => debug!("closed"),
        Err(error) => debug!(%error, "ended"),
    }
}
