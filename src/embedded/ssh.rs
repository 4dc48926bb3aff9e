//! The SSH side of one connection: who may log in, and that they get the `sftp` subsystem and nothing else: no shell,
//! no command, no terminal, no forwarding.

use std::collections::HashMap;
use std::sync::Arc;

use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Response, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use super::server::Shared;
use super::session;
use crate::domain::display;

/// SSH sessions (channels) in one connection; OpenSSH's `MaxSessions` is 10 as well.
const MAX_SESSIONS: usize = 10;

pub(super) struct Connection {
    shared: Arc<Shared>,
    number: u64,
    /// Cuts this connection.
    pub(super) cut: CancellationToken,
    /// Cancelled as soon as somebody logged in.
    pub(super) logged_in: CancellationToken,
    /// Channels that were opened; `None` once they carry SFTP.
    channels: HashMap<ChannelId, Option<Channel<Msg>>>,
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, number: u64, cut: CancellationToken) -> Self {
        Self { shared, number, cut, logged_in: CancellationToken::new(), channels: HashMap::new() }
    }

    fn judge(&self, user: &str, method: &str, accepted: bool) -> Auth {
        let user = display::escaped(user);
        if accepted {
            info!(%user, method, "login");
            Auth::Accept
        } else {
            warn!(%user, method, "login refused");
            Auth::reject()
        }
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        let accepted = self.shared.users.accepts_password(user, password.as_bytes());
        Ok(self.judge(user, "password", accepted))
    }

    /// Spares a client the signature where its key would not be taken.
    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        let known = self.shared.users.accepts_key(user, offer.public_key);
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let accepted = self.shared.users.accepts_key(user, key.public_key);
        Ok(self.judge(user, "publickey", accepted))
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        let Some(mut answers) = response else {
            let prompts = vec![("Password: ".into(), false)].into();
            return Ok(Auth::Partial { name: "".into(), instructions: "".into(), prompts });
        };
        let answer = answers.next().unwrap_or_default();
        let accepted = self.shared.users.accepts_password(user, &answer);
        Ok(self.judge(user, "keyboard-interactive", accepted))
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Self::Error> {
        self.logged_in.cancel();
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if self.channels.len() >= MAX_SESSIONS {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
        } else {
            self.channels.insert(channel.id(), Some(channel));
            reply.accept().await;
        }
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        self.channels.remove(&channel);
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let free = self.channels.get_mut(&channel).filter(|_| name == "sftp").and_then(Option::take);
        let Some(stream) = free.map(Channel::into_stream) else {
            return session.channel_failure(channel);
        };
        session.channel_success(channel)?;
        let serve = session::Sftp {
            store: Arc::clone(&self.shared.store),
            faults: self.shared.faults.clone(),
            connection: self.number,
            cut: self.cut.clone(),
            closing: self.shared.closing.clone(),
        };
        let handle = session.handle();
        let run = async move {
            serve.run(stream).await;
            // They fail only where the connection is gone already. OpenSSH's clients wait for the status.
            let _ = handle.exit_status_request(channel, 0).await;
            let _ = handle.eof(channel).await;
            let _ = handle.close(channel).await;
        };
        self.shared.tasks.spawn(run.instrument(info_span!("sftp", connection = self.number, %channel)));
        Ok(())
    }

    async fn exec_request(&mut self, channel: ChannelId, _: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        _value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }
}
