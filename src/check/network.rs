//! From the settings to a session, in the steps of [`Connector`], and how many sessions there may be.

use std::sync::Arc;

use futures::future::join_all;

use super::probe::{Name, Probe};
use super::{Run, Skip};
use crate::config::settings::{DestinationSettings, Settings};
use crate::destination::DestinationError;
use crate::destination::sftp::host_key::Accepted;
use crate::destination::sftp::target::Way;
use crate::destination::sftp::{Connector, Session, Timeouts};
use crate::domain::{After, Fsync, display};

/// Connections that are opened where the settings name no number: as many as a run would have.
const CONNECTIONS: u16 = 4;
/// More than this proves nothing new and may look like an attack.
const MOST_CONNECTIONS: u16 = 32;

impl Run<'_> {
    pub(super) async fn connect(&mut self) -> Result<Arc<Session>, Skip> {
        let connector = match Connector::new(self.destination, Timeouts::from(&self.settings.pool)) {
            Ok(connector) => connector,
            Err(error) => return Err(self.ended(Name::Ssh, &error, "the settings cannot be used")),
        };
        self.connector = Some(connector.clone());
        let target = connector.target();
        let way = match &target.way {
            Way::Direct => "",
            Way::Jump(_) => ", through ProxyJump",
            Way::Command(_) => ", through ProxyCommand",
        };
        self.found(Probe::ok(Name::Ssh, format!("{} at {}, port {}{way}", target.user, target.host, target.port)));

        let addresses = connector.resolve().await.map_err(|error| self.ended(Name::Dns, &error, "no address"))?;
        match target.way {
            Way::Direct => {
                let shown: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
                self.found(Probe::ok(Name::Dns, shown.join(", ")));
            }
            Way::Jump(_) | Way::Command(_) => self.skip(&[Name::Dns], "the proxy finds the address"),
        }
        let dialled =
            connector.dial(&addresses).await.map_err(|error| self.ended(Name::Tcp, &error, "no connection"))?;
        self.found(Probe::ok(Name::Tcp, dialled.peer.clone()));
        let handshaken = connector.handshake(dialled).await;
        let handshaken = handshaken.map_err(|error| self.ended(Name::HostKey, &error, "no trusted connection"))?;
        let key = handshaken.host_key();
        let how = match &key.accepted {
            Accepted::Known(file, line) => format!("known: {} line {line}", display::path(file)),
            Accepted::Certified(file, line) => format!("certified by {} line {line}", display::path(file)),
            Accepted::Pinned => "pinned by --host-key".into(),
            Accepted::New => "new, accepted as --host-key accept-new asks".into(),
        };
        self.found(Probe::ok(Name::HostKey, format!("{} {} ({how})", key.algorithm, key.fingerprint)));
        let connection = connector
            .authenticate(handshaken)
            .await
            .map_err(|error| self.ended(Name::Authentication, &error, "not logged in"))?;
        self.found(Probe::ok(Name::Authentication, connection.auth_method()));
        let opened = connection.open_session().await;
        self.connection = Some(connection);
        let session = Arc::new(opened.map_err(|error| self.ended(Name::Sftp, &error, "no SFTP session"))?);
        self.session = Some(session.clone());
        self.features(&session);
        Ok(session)
    }

    /// Reports the failure that ends all that follows.
    fn ended(&mut self, name: Name, error: &DestinationError, reason: &'static str) -> Skip {
        self.found(Probe::refused(name, error));
        Skip::Without(reason)
    }

    fn features(&mut self, session: &Session) {
        let features = session.features();
        let known = [
            ("posix-rename", features.posix_rename),
            ("hardlink", features.hardlink),
            ("fsync", features.fsync),
            ("statvfs", features.statvfs),
            ("limits", features.has_limits()),
        ];
        let list = |wanted: bool| {
            let names = known.iter().filter(|(_, there)| *there == wanted).map(|(name, _)| *name);
            names.collect::<Vec<_>>().join(", ")
        };
        let extensions = match (list(true), list(false)) {
            (there, missing) if missing.is_empty() => there,
            (there, missing) if there.is_empty() => format!("without {missing}"),
            (there, missing) => format!("{there}; without {missing}"),
        };
        let detail = format!("version {}, {}: {extensions}", features.version, features.server);
        self.found(match features.fsync || !wants_sync(self.settings, self.destination, self.index) {
            true => Probe::ok(Name::Sftp, detail),
            false => Probe::warn(Name::Sftp, detail).hint(
                "without fsync a power cut of the server may take files whose local copy is gone; \
                 --after keep is safe, --fsync never says that you know",
            ),
        });
        let handles = features.max_open_handles.map_or("not said".into(), |handles| handles.to_string());
        let source = if features.has_limits() { "" } else { " (assumed, for the server does not say)" };
        self.found(Probe::ok(
            Name::Limits,
            format!(
                "write {} bytes, read {} bytes{source}; open handles {handles}",
                features.write_len, features.read_len
            ),
        ));
    }

    /// Opens as many connections as a run would have, at the same time, each with a session.
    pub(super) async fn sessions(&mut self) {
        let wanted = self.settings.pool.connections.unwrap_or(CONNECTIONS).min(MOST_CONNECTIONS);
        let Some(connector) = self.connector.clone() else { return };
        let more = (1..wanted).map(|_| async {
            let connection = connector.connect().await?;
            let session = connection.open_session().await?;
            // Held until all of them have tried.
            Ok::<_, DestinationError>((connection, session))
        });
        let mut opened = Vec::new();
        let mut first_error = None;
        for result in join_all(more).await {
            match result {
                Ok(held) => opened.push(held),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        let count = opened.len() + 1;
        join_all(opened.into_iter().map(|(connection, session)| {
            drop(session);
            connection.close()
        }))
        .await;
        self.found(match first_error {
            None => Probe::ok(Name::Sessions, format!("{count} of {wanted} connections at the same time")),
            Some(error) => Probe::warn(
                Name::Sessions,
                format!("{count} of {wanted} connections at the same time ({error})"),
            )
            .hint(
                "the archiver makes do with what it gets; raise MaxStartups and MaxSessions of sshd for more speed, \
                     or ask for fewer with --connections",
            ),
        });
    }
}

/// Whether files of this destination are asked to be on the server's disk before their local copy goes.
pub(super) fn wants_sync(settings: &Settings, destination: &DestinationSettings, index: usize) -> bool {
    match destination.fsync {
        Fsync::Always => true,
        Fsync::Never => false,
        Fsync::Auto => {
            let mut sources = settings.sources.iter().filter(|source| source.destination == index);
            sources.any(|source| source.after != After::Keep)
        }
    }
}
