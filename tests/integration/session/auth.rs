//! Every way to log in, and every way to be turned away.

use std::borrow::Cow;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use archiver::config::settings::{DestinationSettings, Secret};
use archiver::destination::sftp::{Connector, Timeouts};
use archiver::domain::HostKeyPolicy;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{HashAlg, PrivateKey};
use russh::server::{Auth, Response};
use russh::{MethodKind, MethodSet};

use super::{connect, refused, settings, settings_for, write_ssh_config};
use crate::support::openssh::{OpenSsh, keygen, run};

/// A key of its own in the server's directory, which the server lets in.
fn authorized(server: &OpenSsh, kind: &str) -> std::path::PathBuf {
    let path = server.dir().join(format!("id_{kind}_more"));
    keygen(&path, kind);
    std::fs::copy(path.with_extension("pub"), server.dir().join("authorized_keys")).unwrap();
    path
}

fn chmod(path: &std::path::Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn keys_of_every_type_let_us_in() {
    let server = OpenSsh::plain();
    for kind in ["rsa", "ecdsa", "ed25519"] {
        let mut settings = settings(&server);
        settings.identities = vec![authorized(&server, kind)];
        let connection = connect(&settings).await.unwrap();
        assert_eq!(connection.auth_method(), format!("publickey ({})", settings.identities[0].display()));
    }
}

#[tokio::test]
async fn the_second_key_is_tried_after_the_first() {
    let server = OpenSsh::plain();
    let stranger = server.dir().join("stranger");
    keygen(&stranger, "ed25519");
    let mut settings = settings(&server);
    settings.identities.insert(0, stranger.clone());
    assert!(connect(&settings).await.unwrap().auth_method().contains("id_ed25519"));
    settings.identities.pop();
    let message = refused(&settings).await;
    assert!(message.contains(&format!("tried: publickey ({})", stranger.display())), "{message}");
    assert!(message.contains("the server offers: publickey") && message.contains("authorized_keys"), "{message}");
}

#[tokio::test]
async fn a_server_that_takes_no_keys_is_told_apart_from_having_none() {
    let (mut settings, _open) = door(Wants::Password).await;
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("id_ed25519");
    keygen(&key, "ed25519");
    (settings.identities, settings.password) = (vec![key], None);
    let message = refused(&settings).await;
    assert!(message.contains("takes none of what there is") && message.contains("--password-file"), "{message}");
}

#[tokio::test]
async fn a_server_that_has_enough_of_our_attempts_refuses_us() {
    let server = OpenSsh::builder().option("MaxAuthTries 1").start();
    let stranger = server.dir().join("stranger");
    keygen(&stranger, "ed25519");
    let mut settings = settings(&server);
    settings.identities.insert(0, stranger);
    let message = refused(&settings).await;
    assert!(message.contains("Too many authentication failures") && message.contains("--identity"), "{message}");
}

#[tokio::test]
async fn encrypted_keys_need_their_passphrase() {
    let server = OpenSsh::plain();
    run(Command::new("ssh-keygen").args(["-q", "-p", "-P", "", "-N", "open sesame", "-f"]).arg(server.client_key()));
    let mut settings = settings(&server);
    // Whatever agent runs beside the tests is none of theirs.
    settings.ssh_config = write_ssh_config(server.dir(), "IdentityAgent none\n");
    let message = refused(&settings).await;
    assert!(message.contains("encrypted") && message.contains("--passphrase-file"), "{message}");
    let file = server.dir().join("passphrase");
    settings.passphrase_file = Some(file.clone());
    std::fs::write(&file, "open sesame\n").unwrap();
    connect(&settings).await.unwrap();
    std::fs::write(&file, "wrong\n").unwrap();
    let message = refused(&settings).await;
    assert!(message.contains("passphrase is wrong") && !message.contains("wrong\n"), "{message}");
}

#[tokio::test]
async fn key_files_that_cannot_be_used_are_named() {
    let server = OpenSsh::plain();
    let key = server.client_key();
    let mut settings = settings(&server);
    for (mode, usable) in [(0o600, true), (0o400, true), (0o440, true), (0o644, false), (0o660, false), (0o601, false)]
    {
        chmod(&key, mode);
        match usable {
            true => drop(connect(&settings).await.unwrap()),
            false => {
                let message = refused(&settings).await;
                assert!(message.contains(&format!("chmod 600 {}", key.display())), "{message}");
                assert!(message.contains(&format!("{mode:04o}")), "{message}");
            }
        }
    }
    let missing = server.dir().join("missing");
    let rubbish = server.dir().join("rubbish");
    std::fs::write(&rubbish, "hello").unwrap();
    chmod(&rubbish, 0o600);
    for (path, why) in [
        (missing, "there is no such file"),
        (rubbish, "no private key of a known format"),
        (key.with_extension("pub"), "this is a public key"),
        (server.dir().to_owned(), "directory"),
    ] {
        settings.identities = vec![path.clone()];
        let message = refused(&settings).await;
        assert!(message.contains(why) && message.contains(&path.display().to_string()), "{message}");
    }
}

#[tokio::test]
async fn certificates_let_us_in() {
    let ca = tempfile::tempdir().unwrap();
    keygen(&ca.path().join("ca"), "ed25519");
    let server = OpenSsh::builder().option(format!("TrustedUserCAKeys {}/ca.pub", ca.path().display())).start();
    chmod(ca.path(), 0o755);
    std::fs::write(server.dir().join("authorized_keys"), "").unwrap();
    let key = server.client_key();
    refused(&settings(&server)).await;
    run(Command::new("ssh-keygen")
        .args(["-q", "-I", "me", "-n", server.user(), "-s"])
        .arg(ca.path().join("ca"))
        .arg(key.with_extension("pub")));
    assert!(connect(&settings(&server)).await.unwrap().auth_method().contains("certificate `me`"));
    let elsewhere = ca.path().join("elsewhere.pub");
    std::fs::rename(server.dir().join("id_ed25519-cert.pub"), &elsewhere).unwrap();
    let mut settings = settings(&server);
    refused(&settings).await;
    settings.certificates = vec![elsewhere];
    connect(&settings).await.unwrap();
}

/// A key agent of the test's own.
struct Agent {
    child: std::process::Child,
    socket: std::path::PathBuf,
}

impl Agent {
    fn start(dir: &std::path::Path) -> Self {
        use std::io::BufRead;
        let socket = dir.join("agent");
        let mut child = Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // It names its socket once it listens.
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("SSH_AUTH_SOCK"), "{line}");
        Self { child, socket }
    }

    fn add(&self, key: &std::path::Path) {
        run(Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &self.socket));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn the_agents_keys_let_us_in() {
    let server = OpenSsh::plain();
    let agent = Agent::start(server.dir());
    let stranger = server.dir().join("stranger");
    keygen(&stranger, "ed25519");
    agent.add(&stranger);
    agent.add(&server.client_key());
    let mut settings = settings(&server);
    let config = format!("IdentityAgent {}\nIdentityFile none\n", agent.socket.display());
    settings.ssh_config = write_ssh_config(server.dir(), &config);
    settings.identities.clear();
    let connection = connect(&settings).await.unwrap();
    assert!(connection.auth_method().starts_with("publickey (agent, SHA256:"), "{}", connection.auth_method());

    // The agent has the key that is named, whose file is locked.
    run(Command::new("ssh-keygen").args(["-q", "-p", "-P", "", "-N", "secret", "-f"]).arg(server.client_key()));
    settings.identities = vec![server.client_key()];
    assert!(connect(&settings).await.unwrap().auth_method().contains("agent"));

    // Of the agent's keys only the one that is named is tried.
    settings.identities = vec![stranger];
    let message = refused(&settings).await;
    assert_eq!(message.matches("agent").count(), 1, "{message}");
}

#[tokio::test]
async fn an_agent_that_is_gone_is_said() {
    let server = OpenSsh::plain();
    let mut settings = settings(&server);
    settings.ssh_config = write_ssh_config(server.dir(), "IdentityAgent /nowhere/agent\nIdentityFile none\n");
    settings.identities.clear();
    assert!(refused(&settings).await.contains("the agent at /nowhere/agent"));
}

#[tokio::test]
async fn a_jump_host_passes_us_on() {
    let gate = OpenSsh::plain();
    let server = OpenSsh::plain();
    let known = server.dir().join("both");
    let text = [gate.known_hosts(), server.known_hosts()].map(|file| std::fs::read_to_string(file).unwrap()).concat();
    std::fs::write(&known, text).unwrap();
    let gate_keys = gate.known_hosts();
    let config = |gate_known: &std::path::Path| {
        format!(
            "Host gate\n HostName 127.0.0.1\n Port {}\n IdentityFile {}\n UserKnownHostsFile {}\n\
             Host inner\n HostName 127.0.0.1\n Port {}\n ProxyJump gate\n",
            gate.port(),
            gate.client_key().display(),
            gate_known.display(),
            server.port()
        )
    };
    let mut settings = settings(&server);
    settings.url = format!("sftp://{}@inner/x", server.user()).parse().unwrap();
    settings.known_hosts = vec![known.clone()];
    settings.ssh_config = write_ssh_config(server.dir(), &config(&gate_keys));
    let connector = Connector::new(&settings, Timeouts::default()).unwrap();
    assert!(connector.resolve().await.unwrap().is_empty());
    let connection = connector.connect().await.unwrap();
    connection.open_session().await.unwrap().realpath(".").await.unwrap();
    gate.wait_for_log("Accepted publickey");
    // The host on the way must be known just as well.
    settings.known_hosts.clear();
    settings.ssh_config = write_ssh_config(server.dir(), &config(&server.known_hosts()));
    let message = refused(&settings).await;
    assert!(message.contains(&format!("[127.0.0.1]:{}", gate.port())), "{message}");
}

#[tokio::test]
async fn a_proxy_command_carries_the_connection() {
    let gate = OpenSsh::plain();
    let server = OpenSsh::plain();
    let mut settings = settings(&server);
    let config = format!(
        "ProxyCommand ssh -q -F none -i {} -o UserKnownHostsFile={} -p {} -W %h:%p {}@127.0.0.1\n",
        gate.client_key().display(),
        gate.known_hosts().display(),
        gate.port(),
        gate.user()
    );
    settings.ssh_config = write_ssh_config(server.dir(), &config);
    let connection = connect(&settings).await.unwrap();
    connection.open_session().await.unwrap().realpath(".").await.unwrap();
}

#[derive(Clone, Copy)]
enum Wants {
    Password,
    /// Text, then the question for the password, then nothing more.
    Questions,
    /// More than a password.
    Code,
    KeyThenPassword,
}

/// A server for the methods that OpenSSH's would need a system's accounts for.
struct Door {
    wants: Wants,
}

const PASSWORD: &str = "pa55 wörd";

fn partly(methods: &[MethodKind]) -> Auth {
    Auth::Reject { proceed_with_methods: Some(MethodSet::from(methods)), partial_success: true }
}

impl russh::server::Handler for Door {
    type Error = russh::Error;

    async fn auth_password(&mut self, _: &str, password: &str) -> Result<Auth, russh::Error> {
        Ok(match (self.wants, password == PASSWORD) {
            (Wants::Password | Wants::KeyThenPassword, true) => Auth::Accept,
            // As OpenSSH does, which lets one try again.
            _ => Auth::Reject {
                proceed_with_methods: Some(MethodSet::from(&[MethodKind::Password][..])),
                partial_success: false,
            },
        })
    }

    async fn auth_publickey(&mut self, _: &str, _: russh::server::VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        Ok(match self.wants {
            Wants::KeyThenPassword => partly(&[MethodKind::Password]),
            _ => Auth::reject(),
        })
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _: &str,
        _: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, russh::Error> {
        let ask = |prompts: &[(&'static str, bool)]| Auth::Partial {
            name: Cow::Borrowed(""),
            instructions: Cow::Borrowed("Welcome"),
            prompts: prompts.iter().map(|(text, echo)| (Cow::Borrowed(*text), *echo)).collect(),
        };
        Ok(match (self.wants, response) {
            (Wants::Questions, None) => ask(&[]),
            (Wants::Questions, Some(answers)) => {
                let answers: Vec<_> = answers.map(|answer| answer.to_vec()).collect();
                match answers.len() {
                    0 => ask(&[("Password: ", false)]),
                    _ if answers == [PASSWORD.as_bytes()] => Auth::Accept,
                    _ => Auth::reject(),
                }
            }
            (Wants::Code, None) => ask(&[("Password: ", false), ("Code: ", true)]),
            _ => Auth::reject(),
        })
    }
}

/// The server's task and the directory of its settings, for as long as the test lasts.
struct Open {
    _tasks: tokio::task::JoinSet<()>,
    _dir: tempfile::TempDir,
}

/// A server that takes one connection after another, and settings for it with a password.
async fn door(wants: Wants) -> (DestinationSettings, Open) {
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&[7; 32]));
    let fingerprint = key.public_key().fingerprint(HashAlg::Sha256).to_string();
    let methods: &[MethodKind] = match wants {
        Wants::Password => &[MethodKind::Password],
        Wants::KeyThenPassword => &[MethodKind::PublicKey],
        Wants::Questions | Wants::Code => &[MethodKind::KeyboardInteractive],
    };
    let config = Arc::new(russh::server::Config {
        keys: vec![key],
        methods: MethodSet::from(methods),
        auth_rejection_time: Duration::ZERO,
        auth_rejection_time_initial: Some(Duration::ZERO),
        ..Default::default()
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(session) = russh::server::run_stream(config.clone(), stream, Door { wants }).await {
                // How it ends is the client's to see.
                let _ = session.await;
            }
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let settings = DestinationSettings {
        identities: Vec::new(),
        known_hosts: Vec::new(),
        host_key: HostKeyPolicy::Pinned(fingerprint),
        ssh_config: write_ssh_config(dir.path(), "IdentityAgent none\nIdentityFile none\n"),
        password: Some(Secret::new(PASSWORD)),
        ..settings_for(&format!("sftp://me@127.0.0.1:{port}/x"))
    };
    (settings, Open { _tasks: tasks, _dir: dir })
}

#[tokio::test]
async fn a_password_lets_us_in_from_settings_or_from_a_file() {
    let (mut settings, _door) = door(Wants::Password).await;
    assert_eq!(connect(&settings).await.unwrap().auth_method(), "password");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    settings.password = None;
    settings.password_file = Some(file.clone());
    let message = refused(&settings).await;
    assert!(message.contains("--password-file") && message.contains(&file.display().to_string()), "{message}");
    std::fs::write(&file, "").unwrap();
    assert!(refused(&settings).await.contains("it is empty"));
    for end in ["", "\n", "\r\n"] {
        std::fs::write(&file, format!("{PASSWORD}{end}")).unwrap();
        assert_eq!(connect(&settings).await.unwrap().auth_method(), "password");
    }
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_never_shown() {
    let (mut settings, _door) = door(Wants::Password).await;
    settings.password = Some(Secret::new("not-this-one"));
    let message = refused(&settings).await;
    assert!(message.contains("tried: password; the server offers: password"), "{message}");
    assert!(!message.contains("not-this-one") && !format!("{settings:?}").contains("not-this-one"));
    settings.password = None;
    let message = refused(&settings).await;
    assert!(message.contains("no key and no password") && message.contains("--password-file"), "{message}");
}

#[tokio::test]
async fn questions_are_answered_with_the_password() {
    let (mut settings, _door) = door(Wants::Questions).await;
    assert_eq!(connect(&settings).await.unwrap().auth_method(), "keyboard-interactive");
    settings.password = Some(Secret::new("not-this-one"));
    assert!(refused(&settings).await.contains("tried: keyboard-interactive"));
    let (settings, _door) = door(Wants::Code).await;
    refused(&settings).await;
}

#[tokio::test]
async fn a_key_and_then_a_password_can_be_asked_for() {
    let (mut settings, _door) = door(Wants::KeyThenPassword).await;
    let dir = tempfile::tempdir().unwrap();
    settings.identities = vec![dir.path().join("key")];
    keygen(&settings.identities[0], "ed25519");
    assert_eq!(connect(&settings).await.unwrap().auth_method(), "password");
    settings.password = None;
    let message = refused(&settings).await;
    assert!(message.contains("accepted, and more wanted") && message.contains("offers: password"), "{message}");
}
