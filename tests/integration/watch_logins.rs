//! Connections that are lost in the middle of a login: an outage, never a refusal.

use std::sync::Arc;
use std::time::Duration;

use russh::keys::{Algorithm, PrivateKey};
use russh::server::{Auth, Config, Handler, PublicKeyOffer, VerifiedPublicKey, run_stream};
use tokio::net::TcpListener;

use super::watch::stop;
use crate::support::env::{Running, TestEnv};
use crate::support::openssh::keygen;

/// When a login is dropped without a word, as by a server that is killed.
#[derive(Clone, Copy)]
enum Drops {
    AtFirst,
    AtTheKey,
}

impl Handler for Drops {
    type Error = russh::Error;

    async fn auth_none(&mut self, _: &str) -> Result<Auth, Self::Error> {
        match self {
            Self::AtFirst => Err(russh::Error::Disconnect),
            Self::AtTheKey => Ok(Auth::reject()),
        }
    }

    async fn auth_publickey_offered(&mut self, _: &str, _: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        Err(russh::Error::Disconnect)
    }

    async fn auth_publickey(&mut self, _: &str, _: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        Err(russh::Error::Disconnect)
    }
}

/// Waits for such a server, which is asked again and again, and stops without a failure.
fn outlasts(drops: Drops) {
    let env = TestEnv::new();
    keygen(&env.home().join(".ssh/id_ed25519"), "ed25519");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("sftp://pine@{}/upload", listener.local_addr().unwrap());
    let (asked, logins) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        let keys = vec![PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap()];
        let config = Arc::new(Config { keys, auth_rejection_time: Duration::ZERO, ..Config::default() });
        while let Ok((stream, _)) = listener.accept().await {
            let served = run_stream(config.clone(), stream, drops).await;
            // It ends with the error that the handler gives.
            if let Ok(session) = served {
                let _ = session.await;
            }
            if asked.send(()).is_err() {
                return;
            }
        }
    });
    let mut command = env.archiver(["watch", "--host-key", "accept-new", "--to", &url]);
    command.env("ARCHIVER_RETRY__INITIAL_BACKOFF", "10ms").env("ARCHIVER_RETRY__MAX_BACKOFF", "50ms");
    let mut running = Running::start(command.arg(env.local()));
    running.expect_line("is out");
    for _ in 0..5 {
        logins.recv_timeout(crate::support::env::DEADLINE).expect("it goes on trying");
    }
    stop(running).assert_code(0);
}

#[test]
fn a_connection_lost_before_the_first_answer_is_an_outage() {
    outlasts(Drops::AtFirst);
}

#[test]
fn a_connection_lost_at_the_key_is_an_outage() {
    outlasts(Drops::AtTheKey);
}
