//! The embedded server by the raw protocol: its status codes, its bounds, its quirks and its faults.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use archiver::config::settings::Secret;
use archiver::embedded::*;
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::error::Error;
use russh_sftp::protocol::{FileAttributes, OpenFlags, Packet, Status};
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;

use crate::support::embedded::{Embedded, PASSWORD, USER, sftp_on};
use crate::support::env::*;

/// The code of a status, whether it came as a result or as an error.
#[track_caller]
fn code<T>(outcome: Result<T, Error>) -> StatusCode {
    match outcome {
        Ok(_) => StatusCode::Ok,
        Err(Error::Status(status)) => status.status_code,
        Err(other) => panic!("no status but {other}"),
    }
}

async fn put(sftp: &RawSftpSession, path: &str, content: &[u8]) {
    let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::TRUNCATE;
    let handle = sftp.open(path, flags, FileAttributes::empty()).await.unwrap().handle;
    if !content.is_empty() {
        sftp.write(&handle, 0, content.to_vec()).await.unwrap();
    }
    sftp.close(handle).await.unwrap();
}

fn strings(parts: &[&str]) -> Vec<u8> {
    parts.iter().flat_map(|part| [&(part.len() as u32).to_be_bytes()[..], part.as_bytes()].concat()).collect()
}

async fn extended(sftp: &RawSftpSession, name: &str, parts: &[&str]) -> StatusCode {
    match sftp.extended(name, strings(parts)).await {
        Ok(Packet::Status(Status { status_code, .. })) => status_code,
        Ok(Packet::ExtendedReply(_)) => StatusCode::Ok,
        outcome => code(outcome),
    }
}

#[test]
fn nothing_outside_of_the_root_is_reached() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    write(env.path(), "secret", "secret");
    std::os::unix::fs::symlink(env.path().join("secret"), env.remote().join("absolute")).unwrap();
    std::os::unix::fs::symlink("../secret", env.remote().join("relative")).unwrap();
    std::os::unix::fs::symlink("..", env.remote().join("up")).unwrap();
    server.block_on(async {
        let (_connection, sftp) = server.sftp().await;
        for path in ["../secret", "/../secret", "absolute", "relative", "up/secret", "up/../up/secret"] {
            assert_eq!(code(sftp.open(path, OpenFlags::READ, FileAttributes::empty()).await), StatusCode::NoSuchFile);
            assert_eq!(code(sftp.stat(path).await), StatusCode::NoSuchFile, "{path}");
        }
        // Renaming, removing and making through `..` stay inside as well.
        assert_eq!(code(sftp.rename("../secret", "stolen").await), StatusCode::NoSuchFile);
        assert_eq!(code(sftp.remove("up/secret").await), StatusCode::NoSuchFile);
        put(&sftp, "../../made", b"inside").await;
        sftp.mkdir("/../../dir", FileAttributes::empty()).await.unwrap();
        assert_eq!(sftp.realpath("../up/../made").await.unwrap().files[0].filename, "/made");
        assert_eq!(sftp.realpath(".").await.unwrap().files[0].filename, "/");
        // Links that would lead out for others who read the directory are not made: target first, as OpenSSH has it.
        for target in ["/etc/passwd", "../secret", "dir/../../secret"] {
            assert_eq!(code(sftp.symlink(target, "link").await), StatusCode::PermissionDenied, "{target}");
        }
        sftp.symlink("../made", "dir/link").await.unwrap();
        assert_eq!(sftp.readlink("dir/link").await.unwrap().files[0].filename, "../made");
    });
    assert_eq!(std::fs::read(env.remote().join("made")).unwrap(), b"inside");
    let outside: Vec<_> = tree(env.path()).into_keys().filter(|path| path.iter().count() == 1).collect();
    assert_eq!(outside, ["home", "local", "remote", "secret"].map(PathBuf::from));
}

#[test]
fn thousands_of_requests_in_flight_are_all_answered() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    write(&env.remote(), "old", "old");
    server.block_on(async {
        let (connection, first) = server.sftp().await;
        let mut sessions = vec![first];
        for _ in 1..10 {
            sessions.push(sftp_on(&connection).await.unwrap());
        }
        // All sessions share the one task that carries their connection.
        let asked = sessions.iter().flat_map(|sftp| (0..1000).map(|_| sftp.stat("old")));
        let asked = futures::future::join_all(asked);
        let answers = tokio::time::timeout(DEADLINE, asked).await.expect("the session stands still");
        assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|found| found.attrs.size == Some(3))));
    });
}

#[test]
fn requests_are_answered_as_openssh_answers_them() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    write(&env.remote(), "old", "old");
    rustix::fs::mkfifoat(rustix::fs::CWD, env.remote().join("fifo"), rustix::fs::Mode::RWXU).unwrap();
    server.block_on(async {
        let (_connection, sftp) = server.sftp().await;
        let open = async |path: &str, flags| sftp.open(path, flags, FileAttributes::empty()).await;
        let (create, exclusive) = (OpenFlags::WRITE | OpenFlags::CREATE, OpenFlags::EXCLUDE);
        assert_eq!(code(open("missing", OpenFlags::READ).await), StatusCode::NoSuchFile);
        assert_eq!(code(open("old/x", OpenFlags::READ).await), StatusCode::NoSuchFile);
        assert_eq!(code(open("old", create | exclusive).await), StatusCode::Failure);
        assert_eq!(code(open("fifo", OpenFlags::READ).await), StatusCode::Failure, "and it does not hang");
        assert_eq!(code(open(&"x".repeat(256), create).await), StatusCode::BadMessage);
        assert_eq!(code(sftp.opendir("old").await), StatusCode::NoSuchFile);
        assert_eq!(code(sftp.close("no handle").await), StatusCode::Failure);
        assert_eq!(code(sftp.rmdir("/").await), StatusCode::BadMessage);

        let handle = open("old", OpenFlags::READ | OpenFlags::WRITE | OpenFlags::APPEND).await.unwrap().handle;
        sftp.write(&handle, 0, b"er".to_vec()).await.unwrap();
        assert_eq!(sftp.read(&handle, 1, 100).await.unwrap().data, b"lder");
        assert_eq!(code(sftp.read(&handle, 5, 100).await), StatusCode::Eof);
        let wanted = FileAttributes {
            size: Some(4),
            permissions: Some(0o640),
            atime: Some(1_000_000_000),
            mtime: Some(1_234_567_890),
            ..FileAttributes::empty()
        };
        sftp.fsetstat(&handle, wanted).await.unwrap();
        let found = sftp.fstat(&handle).await.unwrap().attrs;
        assert_eq!((found.size, found.mtime, found.atime), (Some(4), Some(1_234_567_890), Some(1_000_000_000)));
        assert_eq!(found.permissions, Some(0o100_640));
        assert_eq!(sftp.fsync(&handle).await.unwrap().status_code, StatusCode::Ok);
        sftp.close(&handle).await.unwrap();
        assert_eq!(code(sftp.fstat(&handle).await), StatusCode::Failure, "a closed handle");

        // RENAME never replaces, posix-rename always does; hardlink never does.
        put(&sftp, "new", b"new").await;
        assert_eq!(code(sftp.rename("new", "old").await), StatusCode::Failure);
        assert_eq!(code(sftp.rename("missing", "free").await), StatusCode::NoSuchFile);
        assert_eq!(extended(&sftp, "hardlink@openssh.com", &["new", "old"]).await, StatusCode::Failure);
        assert_eq!(extended(&sftp, "posix-rename@openssh.com", &["new", "old"]).await, StatusCode::Ok);
        assert_eq!(sftp.stat("old").await.unwrap().attrs.size, Some(3));
        assert_eq!(extended(&sftp, "unheard-of@example.com", &[]).await, StatusCode::OpUnsupported);

        let limits = sftp.limits().await.unwrap();
        assert_eq!((limits.max_write_len, limits.max_open_handles), (255 * 1024, 256));
        let handle = open("old", create).await.unwrap().handle;
        sftp.write(&handle, 0, noise(255 * 1024, 1)).await.unwrap();
        for _ in 1..limits.max_open_handles {
            open("old", OpenFlags::READ).await.unwrap();
        }
        assert_eq!(code(open("old", OpenFlags::READ).await), StatusCode::Failure, "the handles are bounded");
        assert!(sftp.statvfs("/").await.unwrap().blocks_avail > 0);
    });
}

#[test]
fn long_directories_are_listed_in_parts() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    for number in 0..300 {
        write(&env.remote(), format!("{number:0>250}"), "");
    }
    server.block_on(async {
        let (_connection, sftp) = server.sftp().await;
        let handle = sftp.opendir("/").await.unwrap().handle;
        let mut names = Vec::new();
        loop {
            match sftp.readdir(&handle).await {
                Ok(part) => names.extend(part.files.into_iter().map(|file| file.filename)),
                end => break assert_eq!(code(end), StatusCode::Eof),
            }
        }
        assert_eq!(names.len(), 302, "with . and ..");
    });
}

#[test]
fn many_requests_in_flight_on_many_sessions_are_all_answered() {
    const WRITE: usize = 255 * 1024;
    const WRITES: usize = 24;
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    server.block_on(async {
        let (connection, first) = server.sftp().await;
        let mut sessions = vec![first];
        for _ in 1..10 {
            sessions.push(sftp_on(&connection).await.unwrap());
        }
        assert!(sftp_on(&connection).await.is_err(), "as many as OpenSSH's MaxSessions, and no more");
        let upload = async |number: usize, sftp: &RawSftpSession| {
            let flags = OpenFlags::WRITE | OpenFlags::CREATE;
            let handle = sftp.open(number.to_string(), flags, FileAttributes::empty()).await.unwrap().handle;
            let content = noise(WRITE * WRITES, number as u64);
            let writes = content.chunks(WRITE).enumerate();
            let writes = writes.map(|(at, data)| sftp.write(&handle, (at * WRITE) as u64, data.to_vec()));
            futures::future::try_join_all(writes).await.unwrap();
            sftp.close(handle).await.unwrap();
        };
        let uploads = sessions.iter().take(4).enumerate().map(|(number, sftp)| upload(number, sftp));
        futures::future::join_all(uploads).await;
    });
    for number in 0..4 {
        let content = std::fs::read(env.remote().join(number.to_string())).unwrap();
        assert!(content == noise(WRITE * WRITES, number), "file {number} differs");
    }
}

#[test]
fn a_connection_without_a_login_is_cut() {
    let env = TestEnv::new();
    let users = Authentication::with_password(USER, Secret::new(PASSWORD));
    let login_grace = Duration::from_millis(10);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let config = ServerConfig { login_grace, ..ServerConfig::on_loopback(env.remote(), users) };
        let server = Server::start(config).await.unwrap();
        let mut silent = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
        let mut said = Vec::new();
        tokio::time::timeout(DEADLINE, silent.read_to_end(&mut said)).await.unwrap().unwrap();
        assert!(said.starts_with(b"SSH-2.0-"));
        server.shutdown().await;
    });
}

#[test]
fn what_cannot_be_served_is_refused_at_the_start() {
    let env = TestEnv::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let start = |config| runtime.block_on(Server::start(config)).map(|_| ()).unwrap_err();
    let users = || Authentication::with_password(USER, Secret::new(PASSWORD));
    let missing = start(ServerConfig::on_loopback(env.path().join("missing"), users()));
    assert!(missing.to_string().contains("missing: No such file"), "{missing}");
    let nobody = start(ServerConfig::on_loopback(env.remote(), Authentication::with_keys(USER, Vec::new())));
    assert!(matches!(nobody, StartError::NoCredentials));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let taken = start(ServerConfig { listen, ..ServerConfig::on_loopback(env.remote(), users()) });
    assert!(matches!(taken, StartError::Listen { address, .. } if address == listen));
    let host_key = HostKey::File(write(env.path(), "key", "no key"));
    let unreadable = start(ServerConfig { host_key, ..ServerConfig::on_loopback(env.remote(), users()) });
    assert!(unreadable.to_string().contains("key: cannot read the host key"), "{unreadable}");
}

#[test]
fn quirks_show_on_the_wire() {
    let env = TestEnv::new();
    let with = |names: &[&str]| {
        let quirks = names.iter().try_fold(Quirks::default(), |quirks, name| quirks.with(name)).unwrap();
        Embedded::with_quirks(&env, quirks)
    };
    let attributes = FileAttributes { permissions: Some(0o600), ..FileAttributes::empty() };

    let server = with(&["rename-overwrites", "setstat-refused", "no-limits"]);
    server.block_on(async {
        let (_connection, sftp) = server.sftp().await;
        put(&sftp, "a", b"a").await;
        put(&sftp, "b", b"b").await;
        assert_eq!(code(sftp.rename("a", "b").await), StatusCode::Ok);
        assert_eq!(code(sftp.setstat("b", attributes.clone()).await), StatusCode::PermissionDenied);
        let handle = sftp.open("b", OpenFlags::READ, FileAttributes::empty()).await.unwrap().handle;
        assert_eq!(code(sftp.fsetstat(handle, attributes).await), StatusCode::PermissionDenied);
        assert_eq!(extended(&sftp, "limits@openssh.com", &[]).await, StatusCode::OpUnsupported);
        assert_eq!(extended(&sftp, "statvfs@openssh.com", &["/"]).await, StatusCode::Ok);
    });
    assert_eq!(std::fs::read(env.remote().join("b")).unwrap(), b"a");

    let server = with(&["rename-unsupported", "no-extensions"]);
    server.block_on(async {
        let (_connection, sftp) = server.sftp().await;
        assert_eq!(code(sftp.rename("b", "c").await), StatusCode::OpUnsupported);
        assert_eq!(extended(&sftp, "posix-rename@openssh.com", &["b", "c"]).await, StatusCode::OpUnsupported);
        assert_eq!(extended(&sftp, "statvfs@openssh.com", &["/"]).await, StatusCode::OpUnsupported);
    });

    let server = with(&["quota=5000"]);
    server.block_on(async {
        let (_connection, sftp) = server.sftp().await;
        put(&sftp, "full", &[0; 4999]).await;
        let handle = sftp.open("more", OpenFlags::WRITE | OpenFlags::CREATE, FileAttributes::empty()).await.unwrap();
        assert_eq!(code(sftp.write(&handle.handle, 0, vec![0]).await), StatusCode::Failure);
        assert_eq!(sftp.statvfs("/").await.unwrap().blocks_avail, 0);
        sftp.remove("full").await.unwrap();
        assert_eq!(code(sftp.write(&handle.handle, 0, vec![0]).await), StatusCode::Ok, "there is room again");
    });
}

#[test]
fn faults_strike_the_request_they_are_meant_for() {
    let env = TestEnv::new();
    let (seen, requests) = channel();
    let server = Embedded::with_faults(&env, move |request: &Request| {
        let _ = seen.send(request.clone());
        match (request.operation, request.path.as_str()) {
            (Operation::Rename, "status") => Fault::Status(StatusCode::PermissionDenied),
            (Operation::Rename, "pretend") => Fault::Pretend,
            (Operation::Rename, "lost") => Fault::ReplyLost,
            (Operation::Rename, "after") => Fault::DropAfter,
            (Operation::Rename, "before") => Fault::DropConnection,
            _ => Fault::None,
        }
    });
    server.block_on(async {
        let (_connection, sftp) = server.sftp().await;
        for name in ["status", "pretend", "lost", "after", "before"] {
            put(&sftp, name, name.as_bytes()).await;
        }
        assert_eq!(code(sftp.rename("status", "1").await), StatusCode::PermissionDenied);
        assert_eq!(code(sftp.rename("pretend", "2").await), StatusCode::Ok);
        assert!(sftp.stat("pretend").await.is_ok(), "nothing was done");

        sftp.set_timeout(1);
        assert!(matches!(sftp.rename("lost", "3").await, Err(Error::Timeout)));
        assert_eq!(code(sftp.stat("3").await), StatusCode::Ok, "it was done, and the session goes on");
        assert!(sftp.rename("after", "4").await.is_err());
        assert!(sftp.stat("4").await.is_err(), "the connection is gone");

        let (_connection, sftp) = server.sftp().await;
        assert_eq!(code(sftp.stat("4").await), StatusCode::Ok, "it was done");
        assert!(sftp.rename("before", "5").await.is_err());
        let (_connection, sftp) = server.sftp().await;
        assert_eq!(code(sftp.stat("before").await), StatusCode::Ok, "nothing was done");
    });
    let requests: Vec<Request> = requests.try_iter().collect();
    assert_eq!(requests[0].operation, Operation::Init);
    let write = requests.iter().find(|request| request.operation == Operation::Write).unwrap();
    assert_eq!((write.path.as_str(), write.length, write.connection), ("status", 6, 0));
    let renamed = requests.iter().find(|request| request.operation == Operation::Rename).unwrap();
    assert_eq!((renamed.path.as_str(), renamed.target.as_str()), ("status", "1"));
    assert_eq!(requests.last().unwrap().connection, 2);
}

#[test]
fn a_request_can_be_held_until_the_test_is_ready() {
    let env = TestEnv::new();
    let (release, held) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let (hold, reached) = (Arc::clone(&release), Arc::clone(&held));
    let mut server = Embedded::with_faults(&env, move |request: &Request| match request.operation {
        Operation::Mkdir => {
            reached.store(true, Ordering::SeqCst);
            Fault::Hold(Arc::clone(&hold))
        }
        _ => Fault::None,
    });
    server.block_on(async {
        let (_connection, sftp) = server.sftp().await;
        let asked = sftp.mkdir("held", FileAttributes::empty());
        let released = async {
            tokio::task::spawn_blocking(move || wait_until("MKDIR came", || held.load(Ordering::SeqCst)))
                .await
                .unwrap();
            assert!(!env.remote().join("held").exists());
            release.notify_one();
        };
        assert_eq!(code(futures::join!(asked, released).0), StatusCode::Ok);
        assert!(env.remote().join("held").exists());
    });
    // One that nobody releases does not keep the server from ending, and with it the client.
    let (_connection, sftp) = server.block_on(server.sftp());
    let asked = server.spawn(async move { sftp.mkdir("never", FileAttributes::empty()).await.is_err() });
    server.stop();
    assert!(server.block_on(asked).unwrap());
    assert!(std::net::TcpStream::connect(server.address()).is_err(), "the port is free");
    assert!(!env.remote().join("never").exists());
}
