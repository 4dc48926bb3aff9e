//! From settings and `ssh_config` to one host: where it is, who logs in with what, which keys it may have, and the way
//! there. Explicit settings win over `ssh_config`, which wins over the defaults of OpenSSH.

use std::borrow::Cow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use russh::cipher;

use super::auth::{AgentKeys, Credentials, Origin};
use super::host_key::HostKeys;
use super::identity;
use super::ssh_config::{self, HostConfig, Jump, Proxy, Query, Strictness, Tokens, YesNo, tilde};
use crate::config::settings::{DestinationSettings, PoolSettings, Secret};
use crate::destination::DestinationError;
use crate::domain::{HostKeyPolicy, display};

/// A chain longer than this goes round in a circle.
const MAX_JUMPS: usize = 8;
/// AES-GCM first: both sides have it in hardware, and it is twice as fast as ChaCha20 where they do. ChaCha20 comes last,
/// for it is refused where the server has no strict key exchange (`guard`).
const CIPHERS: [cipher::Name; 6] = [
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
    cipher::CHACHA20_POLY1305,
];

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, key exchange and login together, for each host on the way. `ConnectTimeout` may shorten it.
    pub connect: Duration,
    /// Longest time without any progress while the server owes a reply.
    pub request: Duration,
    /// Interval of keepalives; three without an answer end a connection. `ServerAliveInterval` may shorten it.
    pub keepalive: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(20), request: Duration::from_secs(30), keepalive: Duration::from_secs(10) }
    }
}

impl From<&PoolSettings> for Timeouts {
    fn from(pool: &PoolSettings) -> Self {
        Self { connect: pool.connect_timeout, request: pool.request_timeout, keepalive: pool.keepalive }
    }
}

/// One host, resolved.
#[derive(Debug)]
pub struct Target {
    /// A name or an address, after `HostName`.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub way: Way,
    pub host_keys: Arc<HostKeys>,
    pub credentials: Credentials,
    pub ciphers: Cow<'static, [cipher::Name]>,
    pub timeouts: Timeouts,
    /// SSH packets that may wait in a channel, in either direction.
    pub channel_packets: usize,
}

#[derive(Debug)]
pub enum Way {
    Direct,
    /// From this host on.
    Jump(Box<Target>),
    /// Standard input and output of this command, run by `sh -c`.
    Command(String),
}

/// Packets that wait to be encrypted: bytes in memory, and nothing gained by more.
const DESTINATION_PACKETS: usize = 16;

/// On the way through another host, the session inside may be writing when its replies come, and russh reads nothing from
/// the network while a channel takes nothing more, the news that it may write included: what comes meanwhile has to fit.
const GATE_PACKETS: usize = 4096;

/// The user and the directory that `~` stands for.
#[derive(Debug)]
struct Here {
    home: PathBuf,
    user: String,
}

impl Here {
    fn find() -> Self {
        let home = etcetera::home_dir().unwrap_or_else(|_| "/".into());
        let user = ["LOGNAME", "USER"].into_iter().find_map(|name| std::env::var(name).ok()).filter(|u| !u.is_empty());
        Self { home, user: user.or_else(user_of_process).unwrap_or_else(|| "root".into()) }
    }
}

/// The name that `/etc/passwd` has for this process.
fn user_of_process() -> Option<String> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(&uid))?;
    line.split(':').next().map(str::to_owned)
}

/// A secret from a file; a line end behind it is no part of it.
fn secret(path: &Path, option: &str) -> Result<Secret, DestinationError> {
    let wrong = |why: String, hint: String| {
        DestinationError::refusal(format!("reading the secret in {}", display::path(path)), why).hint(hint)
    };
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => wrong(
            "there is no such file".into(),
            format!(
                "check the path given with {option}; in a container, see that the Secret exists and is mounted there"
            ),
        ),
        std::io::ErrorKind::PermissionDenied => wrong(identity::refused(path, &error), identity::READABLE.into()),
        _ => wrong(error.to_string(), format!("check the path given with {option}, and that it can be read")),
    })?;
    if std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o007 != 0) {
        tracing::warn!("{} is open to everybody: run `chmod o= {0}`", display::path(path));
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".into(), "save it as plain text".into()))?;
    let text = text.strip_suffix('\n').map_or(&text[..], |line| line.strip_suffix('\r').unwrap_or(line));
    if text.is_empty() {
        return Err(wrong("it is empty".into(), format!("write the secret into it, or leave {option} out")));
    }
    Ok(Secret::new(text))
}

/// The host that the settings name.
pub fn of_destination(settings: &DestinationSettings, timeouts: Timeouts) -> Result<Target, DestinationError> {
    let asked = Jump { user: settings.url.user.clone(), host: settings.url.host.clone(), port: settings.url.port };
    let credentials = Credentials {
        identities: settings.identities.clone(),
        certificates: settings.certificates.clone(),
        passphrase: settings.passphrase_file.as_deref().map(|path| secret(path, "--passphrase-file")).transpose()?,
        password: match (&settings.password, &settings.password_file) {
            (Some(password), _) => Some(password.clone()),
            (None, Some(path)) => Some(secret(path, "--password-file")?),
            (None, None) => None,
        },
        ..Credentials::default()
    };
    let resolve = Resolve { settings, timeouts, here: Here::find() };
    resolve.target(&asked, credentials, settings.host_key.clone(), None, 0)
}

struct Resolve<'a> {
    settings: &'a DestinationSettings,
    timeouts: Timeouts,
    here: Here,
}

impl Resolve<'_> {
    /// `through`: hosts to jump through, given by whoever jumps to this one, instead of its own `ProxyJump`.
    fn target(
        &self,
        asked: &Jump,
        credentials: Credentials,
        policy: HostKeyPolicy,
        through: Option<Vec<Jump>>,
        depth: usize,
    ) -> Result<Target, DestinationError> {
        let what = || format!("resolving the host {}", display::escaped(&asked.host));
        let wrong = |why: String| DestinationError::refusal(what(), why).hint("correct the SSH configuration");
        if depth > MAX_JUMPS {
            return Err(wrong("its ProxyJump goes round in a circle".into()));
        }
        let query = Query {
            host: &asked.host,
            user: asked.user.as_deref(),
            local_user: &self.here.user,
            home: &self.here.home,
        };
        let config = ssh_config::load(&self.settings.ssh_config, &query)?;
        let user = asked.user.as_ref().or(config.user.as_ref()).unwrap_or(&self.here.user).clone();
        let port = asked.port.or(config.port).unwrap_or(22);
        let mut tokens = Tokens {
            home: &self.here.home,
            local_user: &self.here.user,
            original_host: &asked.host,
            host: &asked.host,
            port,
            user: &user,
        };
        let host = match &config.host_name {
            Some(name) => tokens.expand(name).map_err(wrong)?,
            None => asked.host.clone(),
        };
        tokens.host = &host;
        let known_hosts = self.known_hosts(&config, &tokens).map_err(wrong)?;
        let policy = match (policy, config.strictness) {
            (HostKeyPolicy::Strict, Some(Strictness::AcceptNew)) => HostKeyPolicy::AcceptNew,
            (policy, _) => policy,
        };
        let way = self.way(&config, &tokens, through, depth)?;
        Ok(Target {
            host_keys: Arc::new(HostKeys::new(&host, port, config.host_key_alias.as_deref(), known_hosts, policy)),
            credentials: self.credentials(credentials, &config, &tokens).map_err(wrong)?,
            ciphers: ciphers(config.ciphers.as_deref()),
            timeouts: Timeouts {
                connect: config.connect_timeout.unwrap_or(self.timeouts.connect).min(self.timeouts.connect),
                keepalive: config
                    .server_alive_interval
                    .filter(|interval| !interval.is_zero())
                    .unwrap_or(self.timeouts.keepalive)
                    .min(self.timeouts.keepalive),
                request: self.timeouts.request,
            },
            channel_packets: if depth == 0 { DESTINATION_PACKETS } else { GATE_PACKETS },
            way,
            user: user.clone(),
            port,
            host: host.clone(),
        })
    }

    fn way(
        &self,
        config: &HostConfig,
        tokens: &Tokens<'_>,
        through: Option<Vec<Jump>>,
        depth: usize,
    ) -> Result<Way, DestinationError> {
        let proxy = through.map(Proxy::Jump).or_else(|| config.proxy.clone());
        match proxy {
            None | Some(Proxy::Direct) => Ok(Way::Direct),
            Some(Proxy::Command(command)) => tokens.expand(&command).map(Way::Command).map_err(|why| {
                DestinationError::refusal("reading ProxyCommand", why).hint("correct the SSH configuration")
            }),
            Some(Proxy::Jump(mut jumps)) => {
                let Some(last) = jumps.pop() else { return Ok(Way::Direct) };
                // The destination's own keys and password are not shown to the hosts on the way; a pinned key is not
                // theirs either.
                let policy = match &self.settings.host_key {
                    HostKeyPolicy::AcceptNew => HostKeyPolicy::AcceptNew,
                    _ => HostKeyPolicy::Strict,
                };
                let before = (!jumps.is_empty()).then_some(jumps);
                Ok(Way::Jump(Box::new(self.target(&last, Credentials::default(), policy, before, depth + 1)?)))
            }
        }
    }

    fn known_hosts(&self, config: &HostConfig, tokens: &Tokens<'_>) -> Result<Vec<PathBuf>, String> {
        if !self.settings.known_hosts.is_empty() {
            return Ok(self.settings.known_hosts.clone());
        }
        let usual = |paths: &[&str]| paths.iter().map(|path| tilde(path, &self.here.home)).collect::<Vec<_>>();
        let named = |paths: &[String]| {
            paths.iter().filter(|path| *path != "none").map(|path| tokens.path(path)).collect::<Result<Vec<_>, _>>()
        };
        let mut files = match &config.user_known_hosts {
            Some(paths) => named(paths)?,
            None => usual(&["~/.ssh/known_hosts", "~/.ssh/known_hosts2"]),
        };
        files.extend(match &config.global_known_hosts {
            Some(paths) => named(paths)?,
            None => usual(&["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"]),
        });
        Ok(files)
    }

    fn credentials(
        &self,
        mut credentials: Credentials,
        config: &HostConfig,
        tokens: &Tokens<'_>,
    ) -> Result<Credentials, String> {
        let only = config.identities_only == Some(YesNo::Yes);
        credentials.agent_keys = match only || !credentials.identities.is_empty() {
            true => AgentKeys::Named,
            false => AgentKeys::All,
        };
        if !credentials.identities.is_empty() {
            credentials.origin = Origin::Explicit;
        } else if !config.identity_files.is_empty() {
            credentials.origin = Origin::Config;
            let named = config.identity_files.iter().filter(|path| *path != "none");
            credentials.identities = named.map(|path| tokens.path(path)).collect::<Result<_, _>>()?;
        } else {
            let usual = ["id_ed25519", "id_ecdsa", "id_rsa"];
            credentials.identities = usual.map(|name| self.here.home.join(".ssh").join(name)).into();
        }
        for path in &config.certificate_files {
            credentials.certificates.push(tokens.path(path)?);
        }
        let environment = || std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from);
        credentials.agent = match config.identity_agent.as_deref() {
            None | Some("SSH_AUTH_SOCK") => environment(),
            Some("none") => None,
            Some(name) if name.starts_with('$') && !name.starts_with("${") => {
                std::env::var_os(&name[1..]).map(PathBuf::from)
            }
            Some(path) => Some(tokens.path(path)?),
        };
        Ok(credentials)
    }
}

/// `Ciphers` of `ssh_config`, as far as it is a plain list of names we have.
fn ciphers(names: Option<&str>) -> Cow<'static, [cipher::Name]> {
    let names = names.filter(|names| !names.starts_with(['+', '-', '^'])).unwrap_or_default();
    let chosen: Vec<_> =
        names.split(',').filter_map(|name| CIPHERS.into_iter().find(|have| have.as_ref() == name)).collect();
    if chosen.is_empty() { Cow::Borrowed(&CIPHERS) } else { Cow::Owned(chosen) }
}
