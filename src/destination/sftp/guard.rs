//! What russh asks while a connection lives, in the connection's own task: is this the server we mean, is what was
//! negotiated good enough, may the server open a channel. It may not: we serve nothing.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use russh::cipher;
use russh::client::{self, ChannelOpenHandle, DisconnectReason, Msg, Session};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, Names};

use super::host_key::{HostKeys, Lookup, PresentedKey};
use crate::destination::DestinationError;

/// What the server said when it ended the connection by SSH_MSG_DISCONNECT, which a network does not do.
pub type Farewell = Arc<Mutex<Option<String>>>;

/// The answers.
pub struct Guard {
    rules: Arc<HostKeys>,
    lookup: Lookup,
    presented: Arc<Mutex<Option<PresentedKey>>>,
    farewell: Farewell,
}

impl Guard {
    /// The key goes to `presented` once it was accepted.
    pub fn new(
        rules: Arc<HostKeys>,
        lookup: Lookup,
        presented: Arc<Mutex<Option<PresentedKey>>>,
        farewell: Farewell,
    ) -> Self {
        Self { rules, lookup, presented, farewell }
    }
}

/// Keeps our own error, with its hint, on its way through russh.
#[derive(Debug)]
pub enum GuardError {
    Ssh(russh::Error),
    Refused(Box<DestinationError>),
}

impl From<russh::Error> for GuardError {
    fn from(error: russh::Error) -> Self {
        Self::Ssh(error)
    }
}

/// Whether somebody in between could have cut messages off the beginning of the connection (Terrapin, CVE-2023-48795):
/// that takes a cipher which does not depend on what went before it, and a server without strict key exchange
/// (OpenSSH PROTOCOL, section 1.10). CBC ciphers, the other kind, are never offered.
fn may_be_cut_short(names: &Names) -> bool {
    names.cipher == cipher::CHACHA20_POLY1305 && !names.strict_kex()
}

impl client::Handler for Guard {
    type Error = GuardError;

    async fn check_server_key(&mut self, presented: &PublicKeyOrCertificate) -> Result<bool, GuardError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let key =
            self.rules.check(&self.lookup, presented, now).map_err(|error| GuardError::Refused(Box::new(error)))?;
        *self.presented.lock().expect("no panic while held") = Some(key);
        Ok(true)
    }

    async fn kex_done(
        &mut self,
        _shared_secret: Option<&[u8]>,
        names: &Names,
        _session: &mut Session,
    ) -> Result<(), GuardError> {
        if may_be_cut_short(names) {
            let error = DestinationError::refusal(
                "exchanging keys",
                "the server has only chacha20-poly1305 in common with us, and no strict key exchange to protect it",
            );
            return Err(GuardError::Refused(Box::new(error.hint(
                "allow aes256-gcm@openssh.com or aes256-ctr on the server, or bring it up to date (CVE-2023-48795)",
            ))));
        }
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<GuardError>) -> Result<(), GuardError> {
        match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                *self.farewell.lock().expect("no panic while held") = Some(info.message);
                Ok(())
            }
            DisconnectReason::Error(error) => Err(error),
        }
    }

    // russh accepts channels of these types unless told otherwise. Dropping the handle refuses one.

    async fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), GuardError> {
        refuse("session")
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel<Msg>,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), GuardError> {
        refuse("agent")
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), GuardError> {
        refuse("X11")
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), GuardError> {
        refuse("forwarded TCP")
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), GuardError> {
        refuse("TCP")
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), GuardError> {
        refuse("forwarded socket")
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), GuardError> {
        refuse("socket")
    }
}

fn refuse(kind: &str) -> Result<(), GuardError> {
    tracing::debug!("the server wants to open a channel ({kind}); refused");
    Ok(())
}
