//! Servers that are hostile before anybody is logged in: floods, banners and questions without end.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use russh::MethodKind;
use russh::keys::{Algorithm, PrivateKey};
use russh::server::{Auth, Config, Handler, Response, run_stream};
use tokio::runtime::Runtime;

use super::{Bench, Pushed};
use crate::support::env::{DEADLINE, Running, TestEnv, files, peak_memory, write};

const MOST_MEMORY_KIB: u64 = 128 << 10;

/// Pushes a file to it, which must fail in time and in bounds; gives what it said.
fn refused(to: SocketAddr, options: &[&str]) -> Pushed {
    let env = TestEnv::new();
    write(&env.local(), "a", "a");
    write(&env.home(), "password", "secret");
    let base = env.remote();
    let bench = Bench::of(env, format!("sftp://u@{to}/x"), base);
    let mut command = bench.push([bench.env.local()]);
    command.args(["--retries", "2", "--after", "delete", "--password-file"]).arg(bench.env.home().join("password"));
    command.args(["--host-key", "accept-new"]).args(options).env("ARCHIVER_POOL__CONNECT_TIMEOUT", "1s");
    let begin = Instant::now();
    let running = Running::start(&mut command);
    let memory = peak_memory(running.pid());
    let pushed = Pushed::of(running.finish()).expect(3);
    let memory = memory.join().unwrap();
    println!("{:?}, {memory} KiB: {}", begin.elapsed(), pushed.finished.stderr);
    assert!(begin.elapsed() < DEADLINE && memory < MOST_MEMORY_KIB, "{:?}, {memory} KiB", begin.elapsed());
    assert_eq!(files(&bench.env.local()).len(), 1);
    assert!(pushed.finished.stderr.len() < 20_000, "{} bytes of errors", pushed.finished.stderr.len());
    assert!(!pushed.finished.stderr.contains("secret"));
    pushed
}

#[test]
fn a_flood_instead_of_an_identification_is_left() {
    for piece in ["welcome to this server\r\n", "x", "SSH-2.0-", "\r\n", "SSH-2.0-x\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            while let Ok((mut client, _)) = listener.accept() {
                let piece = piece.repeat(4_000);
                std::thread::spawn(move || while client.write_all(piece.as_bytes()).is_ok() {});
            }
        });
        refused(to, &[]).says(&["error: "]);
    }
}

/// Asks for more, whatever is answered.
#[derive(Clone)]
struct Asking {
    rounds: Arc<AtomicUsize>,
    banner: String,
    logins: Arc<AtomicUsize>,
}

impl Handler for Asking {
    type Error = russh::Error;

    async fn authentication_banner(&mut self) -> Result<Option<String>, Self::Error> {
        Ok(Some(self.banner.clone()))
    }

    async fn auth_password(&mut self, _: &str, _: &str) -> Result<Auth, Self::Error> {
        self.logins.fetch_add(1, Ordering::SeqCst);
        Ok(Auth::Reject { proceed_with_methods: None, partial_success: true })
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _: &str,
        _: &str,
        _: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        self.rounds.fetch_add(1, Ordering::SeqCst);
        let prompts = vec![("Password: ".into(), false)].into();
        Ok(Auth::Partial { name: "again".into(), instructions: "and again".into(), prompts })
    }
}

fn asking(methods: &[MethodKind], banner: String) -> (Runtime, SocketAddr, Asking) {
    let runtime = Runtime::new().unwrap();
    let asking = Asking { rounds: Arc::default(), banner, logins: Arc::default() };
    let config = Arc::new(Config {
        keys: vec![PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap()],
        auth_rejection_time: std::time::Duration::ZERO,
        methods: methods.into(),
        ..Config::default()
    });
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let to = listener.local_addr().unwrap();
    let handler = asking.clone();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (config, handler) = (config.clone(), handler.clone());
            tokio::spawn(async move {
                if let Ok(session) = run_stream(config, stream, handler).await {
                    let _ = session.await;
                }
            });
        }
    });
    (runtime, to, asking)
}

#[test]
fn questions_without_end_are_answered_only_so_often() {
    let (_runtime, to, asking) = asking(&[MethodKind::KeyboardInteractive], String::new());
    refused(to, &[]).says(&["keyboard-interactive"]);
    let rounds = asking.rounds.load(Ordering::SeqCst);
    assert!((1..=64).contains(&rounds), "{rounds} rounds");
}

#[test]
fn a_password_that_is_never_enough_is_given_once() {
    let (_runtime, to, asking) = asking(&[MethodKind::Password], String::new());
    refused(to, &[]).says(&["password"]);
    assert!((1..=4).contains(&asking.logins.load(Ordering::SeqCst)));
}

#[test]
fn a_banner_of_any_length_is_no_burden() {
    let (_runtime, to, _asking) = asking(&[MethodKind::KeyboardInteractive], "hear, hear\x1b[2J\r\n".repeat(10_000));
    let pushed = refused(to, &[]);
    assert!(!pushed.finished.stderr.contains('\x1b'));
}
