//! The embedded server within the test's own process, on a runtime of its own, and clients that trust it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use archiver::config::settings::Secret;
use archiver::embedded::{Authentication, Faults, Quirks, Server, ServerConfig};
use russh::client;
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey, PublicKey, PublicKeyOrCertificate};
use russh_sftp::client::RawSftpSession;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::env::{TestEnv, write};

pub const USER: &str = "pine";
pub const PASSWORD: &str = "cone and needle";

/// A server of `remote/`. Its host key is in `home/.ssh/known_hosts`, and `home/.ssh/id_ed25519` may log in.
pub struct Embedded {
    runtime: Runtime,
    server: Option<Server>,
    address: SocketAddr,
    host_key: PublicKey,
    fingerprint: String,
    home: PathBuf,
}

impl Embedded {
    pub fn start(env: &TestEnv) -> Self {
        Self::start_with(env, Quirks::default(), None)
    }

    pub fn with_quirks(env: &TestEnv, quirks: Quirks) -> Self {
        Self::start_with(env, quirks, None)
    }

    pub fn with_faults(env: &TestEnv, faults: impl Faults + 'static) -> Self {
        Self::start_with(env, Quirks::default(), Some(Arc::new(faults)))
    }

    pub fn start_with(env: &TestEnv, quirks: Quirks, faults: Option<Arc<dyn Faults>>) -> Self {
        let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
        let ssh = env.home().join(".ssh");
        key.write_openssh_file(ssh.join("id_ed25519"), LineEnding::LF).unwrap();

        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let users = Authentication {
            user: USER.to_owned(),
            password: Some(Secret::new(PASSWORD)),
            keys: vec![key.public_key().clone()],
        };
        let config = ServerConfig { quirks, faults, ..ServerConfig::on_loopback(env.remote(), users) };
        let server = runtime.block_on(Server::start(config)).unwrap();
        write(&ssh, "known_hosts", format!("{}\n", server.known_hosts_line()));
        Self {
            address: server.addr(),
            host_key: server.host_public_key().clone(),
            fingerprint: server.host_key_fingerprint(),
            home: env.home(),
            server: Some(server),
            runtime,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `SHA256:…`
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What `--to` takes; `path` begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("sftp://{USER}@{}{path}", self.address)
    }

    /// Ends it as `archiver serve` does, and waits for it.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.shutdown());
        }
    }

    /// Options that make an OpenSSH client (`sftp`, `scp`) use this server's port, key and host key, and ask
    /// nobody.
    pub fn client_options(&self, command: &mut Command) {
        let ssh = self.home.join(".ssh");
        command.args(["-F", "none", "-P", &self.address.port().to_string()]);
        command.arg("-i").arg(ssh.join("id_ed25519"));
        command.arg("-o").arg(format!("UserKnownHostsFile={}", ssh.join("known_hosts").display()));
        for option in ["GlobalKnownHostsFile=none", "StrictHostKeyChecking=yes", "BatchMode=yes", "IdentitiesOnly=yes"]
        {
            command.args(["-o", option]);
        }
    }

    /// Runs a test's asynchronous part.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Starts a client's task beside the test.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.runtime.spawn(task)
    }

    /// A new SSH connection that did not log in yet.
    pub async fn connect_unauthenticated(&self) -> client::Handle<KnownServer> {
        client::connect(Arc::default(), self.address, KnownServer(self.host_key.clone())).await.unwrap()
    }

    /// A new SSH connection that logged in with the password.
    pub async fn connect(&self) -> client::Handle<KnownServer> {
        let mut handle = self.connect_unauthenticated().await;
        assert!(handle.authenticate_password(USER, PASSWORD).await.unwrap().success());
        handle
    }

    /// A new SFTP session on a connection of its own, greeted. The connection lives as long as the handle.
    pub async fn sftp(&self) -> (client::Handle<KnownServer>, RawSftpSession) {
        let handle = self.connect().await;
        let sftp = sftp_on(&handle).await.unwrap();
        (handle, sftp)
    }
}

/// A further SFTP session, greeted; fails where the server has no room for one.
pub async fn sftp_on(connection: &client::Handle<KnownServer>) -> Result<RawSftpSession, russh::Error> {
    let channel = connection.channel_open_session().await?;
    channel.request_subsystem(true, "sftp").await?;
    let sftp = RawSftpSession::new(channel.into_stream());
    sftp.init().await.unwrap();
    Ok(sftp)
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A client that takes one host key only.
pub struct KnownServer(PublicKey);

impl client::Handler for KnownServer {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(matches!(key, PublicKeyOrCertificate::PublicKey { key, .. } if key.key_data() == self.0.key_data()))
    }
}
