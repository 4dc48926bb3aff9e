//! `archiver serve`: the server on its own, for development and tests.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use rand::distr::{Alphanumeric, SampleString};
use russh::keys::PublicKey;
use tokio_util::sync::CancellationToken;

use super::{Authentication, HostKey, Quirks, Server, ServerConfig, StartError};
use crate::config::settings::Secret;
use crate::domain::display;

/// What the user asked for.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    pub listen: SocketAddr,
    pub root: PathBuf,
    pub user: String,
    pub password: PasswordSource,
    /// Files in the format of `authorized_keys`.
    pub authorized_keys: Vec<PathBuf>,
    pub host_key: HostKey,
    pub quirks: Quirks,
}

/// Where the password comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordSource {
    /// Made, and printed once; where keys are given, none.
    Automatic,
    /// The first line of a file.
    File(PathBuf),
    Given(Secret),
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("cannot read {what} {}: {source}; check the path and its permissions", display::path(.path))]
    Read { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{}: the first line is empty; write the password there", display::path(.path))]
    EmptyPassword { path: PathBuf },
    #[error("{}, line {line}: {reason}; give OpenSSH public keys, one a line, without options", display::path(.path))]
    AuthorizedKeys { path: PathBuf, line: usize, reason: String },
    #[error("cannot print the address: {0}")]
    Print(std::io::Error),
}

/// Serves until `shutdown`, then ends all connections. `out` (meant to be standard error) gets the address, the login
/// and lines to paste; the password only where it was made here, since nobody else knows it.
pub async fn run(options: ServeOptions, shutdown: CancellationToken, out: &mut dyn Write) -> Result<(), ServeError> {
    let mut keys = Vec::new();
    for path in &options.authorized_keys {
        keys.extend(read_authorized_keys(path)?);
    }
    let (password, made) = match options.password {
        PasswordSource::Automatic if !keys.is_empty() => (None, None),
        PasswordSource::Automatic => {
            let made = Alphanumeric.sample_string(&mut rand::rng(), 20);
            (Some(Secret::new(made.clone())), Some(made))
        }
        PasswordSource::File(path) => (Some(read_password(path)?), None),
        PasswordSource::Given(secret) => (Some(secret), None),
    };
    let server = Server::start(ServerConfig {
        listen: options.listen,
        host_key: options.host_key,
        quirks: options.quirks,
        ..ServerConfig::on_loopback(&options.root, Authentication { user: options.user.clone(), password, keys })
    })
    .await?;
    let greeting = greeting(&server, &options.user, &options.root, made.as_deref());
    out.write_all(greeting.as_bytes()).and_then(|()| out.flush()).map_err(ServeError::Print)?;
    shutdown.cancelled().await;
    server.shutdown().await;
    Ok(())
}

fn greeting(server: &Server, user: &str, root: &std::path::Path, password: Option<&str>) -> String {
    let (ip, port) = (server.addr().ip(), server.addr().port());
    // A server that listens on all addresses is reached from here by the loopback one.
    let host = match ip {
        ip if !ip.is_unspecified() => ip.to_string(),
        std::net::IpAddr::V4(_) => "127.0.0.1".to_owned(),
        std::net::IpAddr::V6(_) => "::1".to_owned(),
    };
    let in_url = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let user = display::escaped(user).to_string();
    let password = password.map(|password| format!("  password    {password}\n")).unwrap_or_default();
    let fingerprint = server.host_key_fingerprint();
    let root = display::path(root);
    format!(
        "Serving {root} by SFTP\n  address     {ip} port {port}\n  user        {user}\n{password}  host key    \
         {fingerprint}\n\nTry\n  sftp -P {port} {user}@{in_url}\n  archiver push --to sftp://{user}@{in_url}:{port}/ \
         --host-key {fingerprint} DIR\n",
    )
}

fn read_password(path: PathBuf) -> Result<Secret, ServeError> {
    let text = read("the password file", &path)?;
    match text.lines().next().filter(|line| !line.is_empty()) {
        Some(line) => Ok(Secret::new(line)),
        None => Err(ServeError::EmptyPassword { path }),
    }
}

fn read_authorized_keys(path: &PathBuf) -> Result<Vec<PublicKey>, ServeError> {
    let text = read("the authorized keys", path)?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
        .map(|(index, line)| {
            let refused = |error: russh::keys::ssh_key::Error| ServeError::AuthorizedKeys {
                path: path.clone(),
                line: index + 1,
                reason: error.to_string(),
            };
            PublicKey::from_openssh(line.trim()).map_err(refused)
        })
        .collect()
}

fn read(what: &'static str, path: &PathBuf) -> Result<String, ServeError> {
    std::fs::read_to_string(path).map_err(|source| ServeError::Read { what, path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(root: &std::path::Path, password: PasswordSource) -> ServeOptions {
        ServeOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            root: root.to_owned(),
            user: "pine".to_owned(),
            password,
            authorized_keys: Vec::new(),
            host_key: HostKey::Generated,
            quirks: Quirks::default(),
        }
    }

    async fn greeting_of(options: ServeOptions) -> Result<String, ServeError> {
        let stopped = CancellationToken::new();
        stopped.cancel();
        let mut out = Vec::new();
        run(options, stopped, &mut out).await?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn only_a_password_that_was_made_is_printed() {
        let root = tempfile::tempdir().unwrap();
        let made = greeting_of(options(root.path(), PasswordSource::Automatic)).await.unwrap();
        assert!(made.contains("  password    "), "{made}");
        assert!(made.contains("sftp -P ") && made.contains("--host-key SHA256:"), "{made}");
        let given = greeting_of(options(root.path(), PasswordSource::Given(Secret::new("cone")))).await.unwrap();
        assert!(!given.contains("password") && !given.contains("cone"), "{given}");
    }

    #[tokio::test]
    async fn mistakes_are_named_with_their_place() {
        let root = tempfile::tempdir().unwrap();
        let keys = root.path().join("keys");
        std::fs::write(&keys, "# mine\n\nssh-ed25519 nonsense\n").unwrap();
        let mut with_keys = options(root.path(), PasswordSource::Automatic);
        with_keys.authorized_keys = vec![keys];
        let error = greeting_of(with_keys).await.unwrap_err().to_string();
        assert!(error.contains("keys, line 3: "), "{error}");

        let empty = root.path().join("empty");
        std::fs::write(&empty, "\nsecret").unwrap();
        let error = greeting_of(options(root.path(), PasswordSource::File(empty))).await.unwrap_err();
        assert!(matches!(error, ServeError::EmptyPassword { .. }) && !error.to_string().contains("secret"));

        let missing = root.path().join("missing");
        let error = greeting_of(options(&missing, PasswordSource::Automatic)).await.unwrap_err();
        assert!(matches!(error, ServeError::Start(StartError::Root { .. })), "{error}");
        let error = greeting_of(options(root.path(), PasswordSource::File(missing))).await.unwrap_err();
        assert!(error.to_string().contains("cannot read the password file"), "{error}");
    }
}
