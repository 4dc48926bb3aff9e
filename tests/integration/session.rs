//! SSH connections and SFTP sessions against OpenSSH's own server.

use std::path::Path;
use std::time::Duration;

use archiver::config::settings::{DestinationSettings, SshConfigFile};
use archiver::destination::error::StatusCode;
use archiver::destination::sftp::{
    Connection, Connector, Kind, OpenHow, RenameBehaviour, ReplyOrder, Session, Timeouts,
};
use archiver::destination::{Consequence, DestinationError};
use archiver::domain::{DateFrom, Fsync, HostKeyPolicy, OnConflict, Publish, RemotePath, Timezone, Verify};

use crate::support::openssh::OpenSsh;

#[path = "session/auth.rs"]
mod auth;
#[path = "session/host_keys.rs"]
mod host_keys;
#[path = "session/pool.rs"]
mod pool;
#[path = "session/verify.rs"]
mod verify;

/// Settings that reach this server with its own key and known hosts, and nothing of this machine's.
pub fn settings(server: &OpenSsh) -> DestinationSettings {
    DestinationSettings {
        identities: vec![server.client_key()],
        known_hosts: vec![server.known_hosts()],
        ..settings_for(&server.url())
    }
}

/// Settings with nothing but a URL.
pub fn settings_for(url: &str) -> DestinationSettings {
    DestinationSettings {
        url: url.parse().unwrap(),
        identities: Vec::new(),
        passphrase_file: None,
        certificates: Vec::new(),
        password: None,
        password_file: None,
        known_hosts: Vec::new(),
        host_key: HostKeyPolicy::Strict,
        ssh_config: SshConfigFile::None,
        layout: "%Y/%m/%d".parse().unwrap(),
        date_from: DateFrom::default(),
        timezone: Timezone::default(),
        publish: Publish::default(),
        verify: Verify::default(),
        on_conflict: OnConflict::default(),
        fsync: Fsync::default(),
    }
}

pub async fn connect(settings: &DestinationSettings) -> Result<Connection, DestinationError> {
    Connector::new(settings, Timeouts::default())?.connect().await
}

/// What must fail, and its message with the hint.
pub async fn refused(settings: &DestinationSettings) -> String {
    match connect(settings).await {
        Ok(connection) => panic!("let in with {}", connection.auth_method()),
        Err(error) => {
            assert_eq!(error.consequence, Consequence::Refusal, "{error}");
            format!("{error}; {}", error.hint.as_deref().unwrap_or_default())
        }
    }
}

/// An `ssh_config` for a server, to be extended; gives its path.
pub fn write_ssh_config(dir: &Path, text: &str) -> SshConfigFile {
    let path = dir.join("ssh_config");
    std::fs::write(&path, text).unwrap();
    SshConfigFile::Path(path)
}

struct Started {
    server: OpenSsh,
    session: Session,
    _connection: Connection,
}

impl Started {
    async fn on(server: OpenSsh) -> Self {
        let connection = connect(&settings(&server)).await.unwrap();
        Self { session: connection.open_session().await.unwrap(), _connection: connection, server }
    }

    fn path(&self, name: &str) -> RemotePath {
        RemotePath::new(format!("{}/{name}", self.server.base()))
    }
}

#[tokio::test]
async fn every_operation_does_what_it_says() {
    let chrooted = OpenSsh::builder().chrooted().map(|builder| builder.start());
    for server in [Some(OpenSsh::plain()), chrooted].into_iter().flatten() {
        let t = Started::on(server).await;
        let s = &t.session;
        let (a, b, c) = (t.path("a"), t.path("b"), t.path("c"));

        let file = s.open(&a, OpenHow::CreateNew).await.unwrap();
        assert_eq!(file.path(), &a);
        s.write(&file, 0, &b"hello"[..]).await.unwrap();
        s.write(&file, 5, &b" world"[..]).await.unwrap();
        assert_eq!(s.fstat(&file).await.unwrap().size, Some(11));
        s.fsetstat(&file, 1_000_000_000, 0o640).await.unwrap();
        s.fsync(&file).await.unwrap();
        s.close(&file).await.unwrap();
        assert_eq!(s.close(&file).await.unwrap_err().consequence, Consequence::File);

        let seen = s.lstat(&a).await.unwrap().unwrap();
        assert_eq!(
            (seen.kind, seen.size, seen.mode, seen.mtime),
            (Kind::File, Some(11), Some(0o640), Some(1_000_000_000))
        );
        assert_eq!(std::fs::read(t.server.local(a.as_str())).unwrap(), b"hello world");
        assert_eq!(s.lstat(&b).await.unwrap(), None);
        let again = s.open(&a, OpenHow::CreateNew).await.unwrap_err();
        assert_eq!((again.consequence, again.status), (Consequence::File, Some(StatusCode::Failure)));
        assert!(s.open(&b, OpenHow::Existing).await.unwrap_err().is_status(StatusCode::NoSuchFile));

        let file = s.open(&a, OpenHow::Read).await.unwrap();
        assert_eq!(s.read(&file, 6, 100).await.unwrap(), b"world");
        assert_eq!(s.read(&file, 11, 100).await.unwrap(), b"");
        s.close(&file).await.unwrap();
        let file = s.open(&a, OpenHow::Existing).await.unwrap();
        s.write(&file, 0, &b"J"[..]).await.unwrap();
        assert_eq!(s.read(&file, 0, 5).await.unwrap(), b"Jello");
        s.close(&file).await.unwrap();

        s.hardlink(&a, &b).await.unwrap();
        s.hardlink(&a, &b).await.unwrap_err();
        assert!(s.rename(&a, &b).await.unwrap_err().is_status(StatusCode::Failure));
        s.rename(&a, &c).await.unwrap();
        s.posix_rename(&c, &b).await.unwrap();
        s.mkdir(t.path("dir").as_str()).await.unwrap();
        assert_eq!(s.mkdir(t.path("dir").as_str()).await.unwrap_err().consequence, Consequence::File);
        std::os::unix::fs::symlink("/nowhere", t.server.local(a.as_str())).unwrap();
        let mut names: Vec<_> = s.list(&t.server.base(), 100).await.unwrap();
        names.sort_by(|x, y| x.name.cmp(&y.name));
        let names: Vec<_> = names.iter().map(|entry| (entry.name.as_str(), entry.attributes.kind)).collect();
        // `c` and `b` were two names of one file, so that the rename left both (POSIX, rename).
        assert_eq!(names, [("a", Kind::Symlink), ("b", Kind::File), ("c", Kind::File), ("dir", Kind::Directory)]);
        assert_eq!(s.list(&t.server.base(), 1).await.unwrap().len(), 1);
        assert!(s.list(t.path("none").as_str(), 1).await.unwrap_err().is_status(StatusCode::NoSuchFile));
        assert!(s.remove(&t.path("dir")).await.is_err());
        s.rmdir(t.path("dir").as_str()).await.unwrap();
        for path in [&a, &b, &c] {
            s.remove(path).await.unwrap();
        }
        assert_eq!(s.realpath(&format!("{}/.", t.server.base())).await.unwrap(), t.server.base());
        assert!(s.realpath("").await.unwrap().starts_with('/'));
        let free = s.free_space(&t.server.base()).await.unwrap().unwrap();
        assert!(free.bytes > 0);
        assert!(s.list(&t.server.base(), 100).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn only_upload_is_writable_in_a_chroot() {
    let Some(builder) = OpenSsh::builder().chrooted() else { return };
    let t = Started::on(builder.start()).await;
    let error = t.session.mkdir("/2026").await.unwrap_err();
    assert_eq!((error.consequence, error.status), (Consequence::File, Some(StatusCode::PermissionDenied)));
    assert!(error.to_string().starts_with("MKDIR /2026: permission denied"), "{error}");
}

#[tokio::test]
async fn features_are_what_openssh_says() {
    let t = Started::on(OpenSsh::plain()).await;
    let features = t.session.features();
    assert!(features.server.starts_with("SSH-2.0-OpenSSH_"), "{features:?}");
    assert_eq!((features.version, features.write_len, features.read_len), (3, 255_000, 255_000));
    assert!(features.max_open_handles.unwrap() > 64);
    assert!(features.fsync && features.posix_rename && features.hardlink && features.statvfs);
    assert_eq!((features.order, features.rename), (ReplyOrder::InOrder, RenameBehaviour::RefusesExisting));

    let data: Vec<u8> = (0..features.write_len).map(|n| n as u8).collect();
    let path = t.path("large");
    let file = t.session.open(&path, OpenHow::CreateNew).await.unwrap();
    t.session.write(&file, 0, data.clone()).await.unwrap();
    t.session.close(&file).await.unwrap();
    let file = t.session.open(&path, OpenHow::Read).await.unwrap();
    assert!(t.session.read(&file, 0, features.read_len).await.unwrap() == data);
}

#[tokio::test]
async fn joined_requests_go_out_in_order_in_one_round_trip() {
    let t = Started::on(OpenSsh::plain()).await;
    let s = &t.session;
    let jobs = (0..50).map(async |n| {
        let path = t.path(&format!("{n}"));
        let file = s.open(&path, OpenHow::CreateNew).await.unwrap();
        let data = vec![n as u8; 13 * 1024];
        // A handle that is closed takes nothing more: any other order would fail.
        let (w1, w2, set, stat, close) = futures::join!(
            s.write(&file, 0, data.clone()),
            s.write(&file, data.len() as u64, &b"end"[..]),
            s.fsetstat(&file, 7, 0o600),
            s.fstat(&file),
            s.close(&file)
        );
        w1.and(w2).and(set).and(close).unwrap();
        let stat = stat.unwrap();
        assert_eq!((stat.size, stat.mtime), (Some(13 * 1024 + 3), Some(7)));
    });
    futures::future::join_all(jobs).await;
}

/// OpenSSH's 129th handle is bytes that are no UTF-8.
#[tokio::test]
async fn many_files_can_be_open_at_once() {
    let t = Started::on(OpenSsh::plain()).await;
    let names: Vec<_> = (0..200).map(|n| t.path(&format!("{n}"))).collect();
    let open = names.iter().map(|path| t.session.open(path, OpenHow::CreateNew));
    let files: Vec<_> = futures::future::join_all(open).await.into_iter().map(Result::unwrap).collect();
    for (file, path) in files.iter().zip(&names) {
        t.session.write(file, 0, path.as_str().as_bytes().to_vec()).await.unwrap();
        t.session.close(file).await.unwrap();
        assert_eq!(std::fs::read_to_string(path.as_str()).unwrap(), path.as_str());
    }
}

#[tokio::test]
async fn a_dropped_open_leaves_no_handle_behind() {
    let t = Started::on(OpenSsh::plain()).await;
    let path = t.path("dropped");
    {
        let open = t.session.open(&path, OpenHow::CreateNew);
        futures::pin_mut!(open);
        // Queued, and forgotten.
        assert!(futures::poll!(&mut open).is_pending());
    }
    // Requests are answered in order: OPEN has been, CLOSE is queued behind it.
    t.session.realpath(".").await.unwrap();
    t.session.realpath(".").await.unwrap();
    // The handle is free again, so that the next file gets the same one.
    let file = t.session.open(&path, OpenHow::Read).await.unwrap();
    assert!(format!("{file:?}").contains(r"\0\0\0\0"), "{file:?}");
}

#[tokio::test]
async fn a_server_that_dies_fails_what_is_outstanding() {
    let mut t = Started::on(OpenSsh::plain()).await;
    let path = t.path("x");
    let file = t.session.open(&path, OpenHow::CreateNew).await.unwrap();
    t.server.freeze();
    let write = t.session.write(&file, 0, &b"data"[..]);
    futures::pin_mut!(write);
    assert!(futures::poll!(&mut write).is_pending());
    t.server.kill();
    let error = write.await.unwrap_err();
    assert_eq!(error.consequence, Consequence::Session, "{error}");
    assert!(t.session.is_closed());
    assert_eq!(t.session.fstat(&file).await.unwrap_err().consequence, Consequence::Session);
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up() {
    let server = OpenSsh::plain();
    let timeouts = Timeouts { request: Duration::from_millis(300), ..Timeouts::default() };
    let connection = Connector::new(&settings(&server), timeouts).unwrap().connect().await.unwrap();
    let session = connection.open_session().await.unwrap();
    server.freeze();
    let error = session.realpath(".").await.unwrap_err();
    assert_eq!(error.consequence, Consequence::Session);
    assert!(error.to_string().contains("no answer from the server for 300ms"), "{error}");
    assert!(session.is_closed() && connection.is_closed());
    server.thaw();
}

#[tokio::test]
async fn a_silent_peer_is_noticed_by_keepalives_without_any_request() {
    let server = OpenSsh::plain();
    let timeouts = Timeouts { keepalive: Duration::from_millis(50), ..Timeouts::default() };
    let connection = Connector::new(&settings(&server), timeouts).unwrap().connect().await.unwrap();
    let session = connection.open_session().await.unwrap();
    server.freeze();
    // Would wait for 30 seconds of the watchdog's patience otherwise.
    let error = tokio::time::timeout(Duration::from_secs(10), session.realpath(".")).await.unwrap().unwrap_err();
    assert_eq!(error.consequence, Consequence::Session);
    server.thaw();
}

#[tokio::test]
async fn destinations_that_cannot_be_reached_are_outages() {
    let mut server = OpenSsh::plain();
    let mut settings = settings(&server);
    server.kill();
    let error = connect(&settings).await.err().unwrap();
    assert_eq!(error.consequence, Consequence::Outage, "{error}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{}", server.port())), "{error}");
    settings.url = "sftp://nobody@host.invalid/x".parse().unwrap();
    let error = connect(&settings).await.err().unwrap();
    assert_eq!(error.consequence, Consequence::Outage, "{error}");
    assert!(error.to_string().starts_with("looking up host.invalid"), "{error}");
}

#[tokio::test]
async fn a_listener_that_never_speaks_or_speaks_otherwise_is_an_outage() {
    use tokio::io::AsyncWriteExt;
    let server = OpenSsh::plain();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = settings(&server);
    settings.url = format!("sftp://x@127.0.0.1:{}/", listener.local_addr().unwrap().port()).parse().unwrap();
    let timeouts = Timeouts { connect: Duration::from_millis(300), ..Timeouts::default() };
    let connector = Connector::new(&settings, timeouts).unwrap();
    let error = connector.connect().await.err().unwrap();
    assert!(error.to_string().contains("no connection within 300ms"), "{error}");
    assert_eq!(error.consequence, Consequence::Outage);

    let answer = async {
        // The first is the connection of before.
        let _silent = listener.accept().await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    };
    let connector = Connector::new(&settings, Timeouts::default()).unwrap();
    let (result, ()) = tokio::join!(connector.connect(), answer);
    let error = result.err().unwrap();
    assert!(error.to_string().contains("HTTP/1.1 400"), "{error}");
}

#[tokio::test]
async fn the_steps_can_be_taken_one_by_one() {
    let server = OpenSsh::plain();
    let connector = Connector::new(&settings(&server), Timeouts::default()).unwrap();
    let addresses = connector.resolve().await.unwrap();
    let dialled = connector.dial(&addresses).await.unwrap();
    assert_eq!(dialled.peer, format!("127.0.0.1:{}", server.port()));
    let handshaken = connector.handshake(dialled).await.unwrap();
    assert!(handshaken.server().contains("OpenSSH"));
    assert_eq!(handshaken.host_key().algorithm, "ssh-ed25519");
    let connection = connector.authenticate(handshaken).await.unwrap();
    assert!(connection.auth_method().contains("id_ed25519"));
    connection.open_session().await.unwrap();
    connection.close().await;
}
