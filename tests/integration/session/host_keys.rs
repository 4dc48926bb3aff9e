//! Which servers are believed.

use std::path::PathBuf;
use std::process::Command;

use archiver::destination::sftp::host_key::Accepted;
use archiver::domain::HostKeyPolicy;

use super::{connect, refused, settings, write_ssh_config};
use crate::support::openssh::{OpenSsh, keygen, run};

fn other_key(server: &OpenSsh, kind: &str) -> String {
    let path = server.dir().join(format!("other_{kind}"));
    keygen(&path, kind);
    let line = std::fs::read_to_string(path.with_extension("pub")).unwrap();
    line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

fn write_known_hosts(server: &OpenSsh, text: &str) -> PathBuf {
    std::fs::write(server.known_hosts(), text).unwrap();
    server.known_hosts()
}

fn fingerprint(server: &OpenSsh, kind: &str) -> String {
    let listed = run(Command::new("ssh-keygen").arg("-lf").arg(server.dir().join(format!("host_{kind}.pub"))));
    String::from_utf8(listed).unwrap().split(' ').nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn an_unknown_key_is_refused_with_a_way_to_add_it() {
    let server = OpenSsh::plain();
    let file = write_known_hosts(&server, "");
    let message = refused(&settings(&server)).await;
    let expected = format!("ssh-keyscan -t ed25519 -p {} 127.0.0.1 >> {}", server.port(), file.display());
    for part in [&fingerprint(&server, "ed25519"), &expected, "is not known", "accept-new"] {
        assert!(message.contains(part), "{message} lacks {part}");
    }
    // The host's key on its other port is another host's.
    write_known_hosts(&server, &format!("127.0.0.1 {}\n", server.host_key("ed25519")));
    assert!(refused(&settings(&server)).await.contains("is not known"));
}

#[tokio::test]
async fn a_changed_key_is_refused_and_the_line_named() {
    let server = OpenSsh::plain();
    let port = server.port();
    let file = write_known_hosts(&server, &format!("# mine\n[127.0.0.1]:{port} {}\n", other_key(&server, "ed25519")));
    for policy in [HostKeyPolicy::Strict, HostKeyPolicy::AcceptNew] {
        let message =
            refused(&archiver::config::settings::DestinationSettings { host_key: policy, ..settings(&server) }).await;
        assert!(message.contains(&format!("{} line 2", file.display())), "{message}");
        assert!(message.contains("ssh-keygen -R"), "{message}");
    }
    // A key of another type is no less a change.
    write_known_hosts(&server, &format!("[127.0.0.1]:{port} {}\n", other_key(&server, "ecdsa")));
    let mut settings = settings(&server);
    settings.host_key = HostKeyPolicy::AcceptNew;
    assert!(refused(&settings).await.contains("has the ecdsa-sha2-nistp256 key"));
}

#[tokio::test]
async fn hashed_names_patterns_and_several_keys_are_found() {
    let server = OpenSsh::plain();
    run(Command::new("ssh-keygen").arg("-q").arg("-H").arg("-f").arg(server.known_hosts()));
    assert!(std::fs::read_to_string(server.known_hosts()).unwrap().starts_with("|1|"));
    assert!(matches!(connect(&settings(&server)).await.unwrap().host_key().accepted, Accepted::Known(_, 1)));
    let text = format!(
        "x,[127.0.0.*]:{port} {}\n[127.*]:{port},![127.0.0.2]:* {}\n",
        other_key(&server, "ed25519"),
        server.host_key("ed25519"),
        port = server.port()
    );
    write_known_hosts(&server, &text);
    assert!(matches!(connect(&settings(&server)).await.unwrap().host_key().accepted, Accepted::Known(_, 2)));
}

#[tokio::test]
async fn the_server_is_asked_for_a_key_type_that_is_known() {
    let server = OpenSsh::builder().host_keys(&["ed25519", "ecdsa", "rsa"]).start();
    for (kind, algorithm) in [("rsa", "ssh-rsa"), ("ecdsa", "ecdsa-sha2-nistp256"), ("ed25519", "ssh-ed25519")] {
        write_known_hosts(&server, &format!("[127.0.0.1]:{} {}\n", server.port(), server.host_key(kind)));
        assert_eq!(connect(&settings(&server)).await.unwrap().host_key().algorithm, algorithm);
    }
}

#[tokio::test]
async fn accept_new_adds_the_key_once_and_keeps_to_it() {
    let server = OpenSsh::plain();
    let mut settings = settings(&server);
    settings.host_key = HostKeyPolicy::AcceptNew;
    settings.known_hosts = vec![server.dir().join("fresh/known_hosts")];
    assert_eq!(connect(&settings).await.unwrap().host_key().accepted, Accepted::New);
    assert!(matches!(connect(&settings).await.unwrap().host_key().accepted, Accepted::Known(_, 1)));
    let text = std::fs::read_to_string(&settings.known_hosts[0]).unwrap();
    assert_eq!(text, format!("[127.0.0.1]:{} {}\n", server.port(), server.host_key("ed25519")));
}

#[tokio::test]
async fn accept_new_keeps_to_a_key_that_it_cannot_write_down() {
    use archiver::destination::sftp::{Connector, Timeouts};
    let mut server = OpenSsh::plain();
    let mut settings = settings(&server);
    settings.host_key = HostKeyPolicy::AcceptNew;
    // Nobody makes files here, not even root.
    settings.known_hosts = vec!["/proc/known_hosts".into()];
    let connector = Connector::new(&settings, Timeouts::default()).unwrap();
    for _ in 0..2 {
        assert_eq!(connector.connect().await.unwrap().host_key().accepted, Accepted::New);
    }
    let key = server.dir().join("host_ed25519");
    for file in [key.clone(), key.with_extension("pub")] {
        std::fs::remove_file(file).unwrap();
    }
    keygen(&key, "ed25519");
    server.restart();
    let error = connector.connect().await.err().unwrap();
    assert!(error.to_string().contains("an earlier connection has"), "{error}");
}

#[tokio::test]
async fn a_pinned_fingerprint_is_all_that_counts() {
    let server = OpenSsh::plain();
    write_known_hosts(&server, "");
    let mut settings = settings(&server);
    settings.host_key = HostKeyPolicy::Pinned(fingerprint(&server, "ed25519"));
    assert_eq!(connect(&settings).await.unwrap().host_key().accepted, Accepted::Pinned);
    settings.host_key = HostKeyPolicy::Pinned(format!("SHA256:{}", "A".repeat(43)));
    assert!(refused(&settings).await.contains("was asked for"));
}

#[tokio::test]
async fn a_revoked_key_is_refused_even_where_it_is_known_or_pinned() {
    let server = OpenSsh::plain();
    let key = server.host_key("ed25519");
    write_known_hosts(&server, &format!("[127.0.0.1]:{} {key}\n@revoked * {key}\n", server.port()));
    let mut settings = settings(&server);
    assert!(refused(&settings).await.contains("@revoked"));
    settings.host_key = HostKeyPolicy::Pinned(fingerprint(&server, "ed25519"));
    assert!(refused(&settings).await.contains("@revoked"));
}

#[tokio::test]
async fn a_certified_host_is_known_by_its_authority() {
    let ca = tempfile::tempdir().unwrap();
    keygen(&ca.path().join("ca"), "ed25519");
    let certify = |server: &OpenSsh, principals: &str| {
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-h", "-I", "host", "-n", principals, "-s"]).arg(ca.path().join("ca"));
        run(command.arg(server.dir().join("host_ed25519.pub")));
    };
    let mut server = OpenSsh::plain();
    certify(&server, "127.0.0.1");
    let config = format!("HostCertificate {}", server.dir().join("host_ed25519-cert.pub").display());
    server.add_option(config);
    server.restart();
    let public = std::fs::read_to_string(ca.path().join("ca.pub")).unwrap();
    write_known_hosts(&server, &format!("@cert-authority [127.*]:* {public}"));
    assert!(matches!(connect(&settings(&server)).await.unwrap().host_key().accepted, Accepted::Certified(_, 1)));
    certify(&server, "elsewhere");
    server.restart();
    assert!(refused(&settings(&server)).await.contains("is not for the name 127.0.0.1"));
}

#[tokio::test]
async fn ssh_config_names_files_alias_and_strictness() {
    let server = OpenSsh::plain();
    let file = server.dir().join("named");
    let config = format!(
        "Host alias\n HostName 127.0.0.1\n Port {}\n User {}\n HostKeyAlias known-as\n UserKnownHostsFile {}\n \
         GlobalKnownHostsFile none\n StrictHostKeyChecking accept-new\n IdentityFile {}\n",
        server.port(),
        server.user(),
        file.display(),
        server.client_key().display()
    );
    let mut settings = settings(&server);
    settings.ssh_config = write_ssh_config(server.dir(), &config);
    settings.url = "sftp://alias/x".parse().unwrap();
    settings.known_hosts.clear();
    settings.identities.clear();
    assert_eq!(connect(&settings).await.unwrap().host_key().accepted, Accepted::New);
    assert!(std::fs::read_to_string(file).unwrap().starts_with("known-as ssh-ed25519 "));
}
