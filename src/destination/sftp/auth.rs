//! Who we are, proved in the order OpenSSH's users expect: keys and certificates (agent and files), then
//! keyboard-interactive, then the password.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::{AgentClient, AgentStream};
use russh::keys::{Certificate, HashAlg, PrivateKeyWithHashAlg, PublicKey};
use russh::{MethodKind, MethodSet};

use super::guard::{Farewell, Guard};
use super::identity::{self, Identity};
use crate::config::settings::Secret;
use crate::destination::DestinationError;
use crate::domain::{display, name};

/// How long the task of a lost connection may take to end.
const ENDING: Duration = Duration::from_secs(1);
/// Servers ask again after a wrong answer; the same password is not sent twice, and an empty round costs nothing.
const MAX_ROUNDS: usize = 5;

/// Everything that may prove who we are. `Debug` shows no secret.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Key files in the order in which they are tried.
    pub identities: Vec<PathBuf>,
    pub origin: Origin,
    pub passphrase: Option<Secret>,
    pub certificates: Vec<PathBuf>,
    /// The agent's socket.
    pub agent: Option<PathBuf>,
    /// Which of the agent's keys are tried.
    pub agent_keys: AgentKeys,
    pub password: Option<Secret>,
}

/// Where the list of key files comes from, which decides whether a missing one is a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// Named for the archiver: each must be there and usable.
    Explicit,
    /// Named in `ssh_config`: a missing one is passed over, as OpenSSH does.
    Config,
    /// The usual names in `~/.ssh`.
    #[default]
    Default,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AgentKeys {
    #[default]
    All,
    /// `IdentitiesOnly`, or keys named for the archiver: only those that a file names too.
    Named,
}

/// What was tried, for the error after all of it failed.
#[derive(Default)]
struct Tried(Vec<String>);

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.is_empty() {
            true => f.write_str("nothing, for there was no key and no password"),
            false => f.write_str(&self.0.join(", ")),
        }
    }
}

/// How one method ended.
enum Step {
    In(String),
    /// Accepted, but the server wants another method as well (`AuthenticationMethods a,b`).
    Partial,
    Refused,
}

struct Login<'a> {
    handle: &'a mut Handle<Guard>,
    farewell: &'a Farewell,
    user: &'a str,
    what: String,
    credentials: &'a Credentials,
    /// What the server will still take.
    offered: MethodSet,
    tried: Tried,
    /// Methods that are finished with: accepted in part, or refused with all we have.
    done: Vec<MethodKind>,
}

/// Logs in; gives the method that did it, for people: `publickey (/keys/id_ed25519)`.
pub async fn authenticate(
    handle: &mut Handle<Guard>,
    farewell: &Farewell,
    user: &str,
    host: &str,
    credentials: &Credentials,
) -> Result<String, DestinationError> {
    let what = format!("logging in to {} as {}", display::escaped(host), display::escaped(user));
    // Files are read first: a mistake in them is reported whatever the server would say.
    let identities = identity::load(credentials)?;
    let offered = match handle.authenticate_none(user).await {
        Ok(AuthResult::Success) => return Ok("none".into()),
        Ok(AuthResult::Failure { remaining_methods, .. }) => remaining_methods,
        Err(error) => return Err(DestinationError::outage(what, error.to_string())),
    };
    let mut login =
        Login { handle, farewell, user, what, credentials, offered, tried: Tried::default(), done: Vec::new() };
    login.run(identities).await
}

impl Login<'_> {
    async fn run(&mut self, identities: Vec<Identity>) -> Result<String, DestinationError> {
        loop {
            let next = [MethodKind::PublicKey, MethodKind::KeyboardInteractive, MethodKind::Password]
                .into_iter()
                .find(|method| self.offered.contains(method) && !self.done.contains(method));
            let Some(method) = next else { return Err(self.exhausted(&identities).await) };
            self.done.push(method);
            let step = match method {
                MethodKind::PublicKey => self.keys(&identities).await?,
                MethodKind::KeyboardInteractive => self.interactive().await?,
                _ => self.password().await?,
            };
            if let Step::In(how) = step {
                return Ok(how);
            }
            if self.handle.is_closed() {
                return Err(self.hung_up().await);
            }
        }
    }

    /// Takes over what the server says to an attempt.
    fn answered(&mut self, result: AuthResult, how: String) -> Step {
        match result {
            AuthResult::Success => Step::In(how),
            AuthResult::Failure { remaining_methods, partial_success } => {
                self.tried.0.push(if partial_success { format!("{how} (accepted, and more wanted)") } else { how });
                if !self.handle.is_closed() {
                    self.offered = remaining_methods;
                }
                if partial_success { Step::Partial } else { Step::Refused }
            }
        }
    }

    /// The hash for an RSA signature; asking for it may take a second, so it is asked for only when needed.
    async fn hash_for(&self, key: &PublicKey) -> Option<HashAlg> {
        if !key.algorithm().is_rsa() {
            return None;
        }
        match self.handle.best_supported_rsa_hash().await {
            Ok(Some(hash)) => hash,
            // A server that does not say is asked for what all but the oldest know.
            _ => Some(HashAlg::Sha256),
        }
    }

    async fn keys(&mut self, identities: &[Identity]) -> Result<Step, DestinationError> {
        let mut agent = match &self.credentials.agent {
            None => None,
            Some(socket) => match AgentClient::connect_uds(socket).await {
                Ok(agent) => Some(agent),
                Err(error) => {
                    self.tried.0.push(format!("the agent at {} ({error})", display::path(socket)));
                    None
                }
            },
        };
        let held = match &mut agent {
            None => Vec::new(),
            Some(agent) => agent.request_identities().await.unwrap_or_else(|error| {
                self.tried.0.push(format!("the agent ({error})"));
                Vec::new()
            }),
        };
        let named = |key: &PublicKey| identities.iter().position(|id| id.public_key().key_data() == key.key_data());
        let mut held: Vec<_> = held
            .into_iter()
            .filter(|held| self.credentials.agent_keys == AgentKeys::All || named(&held.public_key()).is_some())
            .collect();
        // Those that a file names come first, in the order of the files.
        held.sort_by_key(|held| named(&held.public_key()).unwrap_or(usize::MAX));
        if let Some(agent) = &mut agent {
            for identity in &held {
                match self.agent_key(agent, identity, identities).await? {
                    Step::Refused => {}
                    step => return Ok(step),
                }
                if self.handle.is_closed() {
                    return Ok(Step::Refused);
                }
            }
        }
        for identity in identities {
            let in_agent = held.iter().any(|h| h.public_key().key_data() == identity.public_key().key_data());
            if in_agent && identity.certificate.is_none() {
                continue;
            }
            match self.file_key(identity).await? {
                Step::Refused => {}
                step => return Ok(step),
            }
            if self.handle.is_closed() {
                return Ok(Step::Refused);
            }
        }
        Ok(Step::Refused)
    }

    async fn agent_key<S: AgentStream + Send + Unpin + 'static>(
        &mut self,
        agent: &mut AgentClient<S>,
        held: &AgentIdentity,
        identities: &[Identity],
    ) -> Result<Step, DestinationError> {
        let key = held.public_key().into_owned();
        let hash = self.hash_for(&key).await;
        // The agent's own certificate, or one that lies beside the file of the same key.
        let beside = identities.iter().find(|id| id.public_key().key_data() == key.key_data());
        let certificate = match held {
            AgentIdentity::Certificate { certificate, .. } => Some(certificate.clone()),
            AgentIdentity::PublicKey { .. } => beside.and_then(|identity| identity.certificate.clone()),
        };
        let how = format!("publickey (agent, {})", key.fingerprint(HashAlg::Sha256));
        let result = match certificate {
            Some(certificate) => self.handle.authenticate_certificate_with(self.user, certificate, hash, agent).await,
            None => self.handle.authenticate_publickey_with(self.user, key, hash, agent).await,
        };
        Ok(match result {
            Ok(result) => self.answered(result, how),
            Err(error) => {
                self.tried.0.push(format!("{how}: {error}"));
                Step::Refused
            }
        })
    }

    async fn file_key(&mut self, identity: &Identity) -> Result<Step, DestinationError> {
        let Some(key) = &identity.private else {
            self.tried.0.push(format!("publickey ({}: encrypted, and no passphrase)", display::path(&identity.path)));
            return Ok(Step::Refused);
        };
        let key = Arc::new(key.clone());
        let path = display::path(&identity.path).to_string();
        if let Some(certificate) = identity.certificate.clone() {
            let how = format!("publickey ({path} with {})", certificate_name(&certificate));
            let result = self.handle.authenticate_openssh_cert(self.user, key.clone(), certificate).await;
            match self.answered(result.map_err(|error| self.lost(error))?, how) {
                Step::Refused if !self.handle.is_closed() => {}
                step => return Ok(step),
            }
        }
        let hash = self.hash_for(key.public_key()).await;
        let result = self.handle.authenticate_publickey(self.user, PrivateKeyWithHashAlg::new(key, hash)).await;
        let result = result.map_err(|error| self.lost(error))?;
        Ok(self.answered(result, format!("publickey ({path})")))
    }

    /// Answers one question that hides its answer with the password, and questions without fields with nothing.
    async fn interactive(&mut self) -> Result<Step, DestinationError> {
        let Some(password) = self.credentials.password.clone() else { return Ok(Step::Refused) };
        let how = "keyboard-interactive";
        let mut unused = Some(password);
        let mut reply = self.handle.authenticate_keyboard_interactive_start(self.user, None).await;
        for _ in 0..MAX_ROUNDS {
            let answers = match reply.map_err(|error| self.lost(error))? {
                KeyboardInteractiveAuthResponse::Success => return Ok(Step::In(how.into())),
                KeyboardInteractiveAuthResponse::Failure { remaining_methods, partial_success } => {
                    let result = AuthResult::Failure { remaining_methods, partial_success };
                    return Ok(self.answered(result, how.into()));
                }
                KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => match &prompts[..] {
                    [] => Vec::new(),
                    [one] if !one.echo && unused.is_some() => {
                        unused.take().map(|password| password.expose().to_owned()).into_iter().collect()
                    }
                    // More questions than the password answers; the method is left by giving no useful answer.
                    several => vec![String::new(); several.len()],
                },
            };
            reply = self.handle.authenticate_keyboard_interactive_respond(answers).await;
        }
        self.tried.0.push(format!("{how} (it asks for more than a password)"));
        Ok(Step::Refused)
    }

    async fn password(&mut self) -> Result<Step, DestinationError> {
        let Some(password) = &self.credentials.password else { return Ok(Step::Refused) };
        let result = self.handle.authenticate_password(self.user, password.expose()).await;
        let result = result.map_err(|error| self.lost(error))?;
        Ok(self.answered(result, "password".into()))
    }

    fn lost(&self, error: russh::Error) -> DestinationError {
        DestinationError::outage(self.what.clone(), format!("the connection was lost ({error})"))
    }

    /// The connection ended while we were trying. Said goodbye, the server had enough of us (`MaxAuthTries`); without a
    /// word, the network may be to blame.
    async fn hung_up(&mut self) -> DestinationError {
        // Its task ends now; after that it is known whether there was a word.
        let _ = (&mut *self.handle).await;
        self.ended()
    }

    /// No method is left. russh says the same of a connection that was lost while it waited for an answer, so the
    /// connection gets a moment to end: an outage must not be taken for a refusal.
    async fn exhausted(&mut self, identities: &[Identity]) -> DestinationError {
        if self.offered.is_empty() && tokio::time::timeout(ENDING, &mut *self.handle).await.is_ok() {
            return self.ended();
        }
        self.refused(identities)
    }

    fn ended(&self) -> DestinationError {
        let farewell = self.farewell.lock().expect("no panic while held").clone();
        match farewell {
            None if self.tried.0.is_empty() => DestinationError::outage(self.what.clone(), "the connection was lost"),
            None => {
                DestinationError::outage(self.what.clone(), format!("the connection was lost; tried: {}", self.tried))
            }
            Some(text) => {
                let text = display::escaped(name::truncated(text.trim(), 200)).to_string();
                let why = format!("the server ended the connection and said `{text}`; tried: {}", self.tried);
                DestinationError::refusal(self.what.clone(), why)
                    .hint("check user and secret; servers take few attempts, so name the one key that is meant with --identity")
            }
        }
    }

    fn refused(&self, identities: &[Identity]) -> DestinationError {
        let offered: Vec<&str> = self.offered.iter().map(Into::into).collect();
        let offered = if offered.is_empty() { "nothing more".to_owned() } else { offered.join(", ") };
        let takes_keys = [&self.offered[..], &self.done].iter().any(|methods| methods.contains(&MethodKind::PublicKey));
        let has_some = !identities.is_empty() || self.credentials.password.is_some();
        let tried = match self.tried.0.is_empty() && has_some {
            true => "nothing, for the server takes none of what there is".to_owned(),
            false => self.tried.to_string(),
        };
        let why = format!("the server refused; tried: {tried}; the server offers: {offered}");
        let locked = identities.iter().find(|identity| identity.private.is_none());
        let hint = match (locked, &self.credentials.password) {
            (Some(identity), _) => format!(
                "{} is encrypted: give its passphrase with --passphrase-file, or load it with `ssh-add`",
                display::path(&identity.path)
            ),
            (None, None) if self.offered.contains(&MethodKind::Password) && identities.is_empty() => {
                "name a key with --identity, or a password with --password-file".into()
            }
            (None, None) if !takes_keys => "the server takes no keys: name a password with --password-file".into(),
            _ => "check the user's name, and that the server has the public key in that user's authorized_keys".into(),
        };
        DestinationError::refusal(self.what.clone(), why).hint(hint)
    }
}

fn certificate_name(certificate: &Certificate) -> String {
    format!("certificate `{}`", display::escaped(certificate.key_id()))
}
