//! The embedded server as others see it: OpenSSH's own clients, rclone and lftp where they are installed, and the raw
//! protocol.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

use archiver::domain::DestinationUrl;
use archiver::embedded::{Fault, Operation, Quirks, Request, StatusCode};
use russh::client::KeyboardInteractiveAuthResponse;
use russh_sftp::client::error::Error;
use russh_sftp::client::{RawSftpSession, error};
use russh_sftp::protocol::{FileAttributes, OpenFlags, Packet, Status};
use tokio::sync::Notify;

use crate::support::embedded::{Embedded, PASSWORD, USER};
use crate::support::env::*;

/// Names that a shell, a listing or a glob could trip over. A newline cannot be typed into a batch file.
const ODD_NAMES: [&str; 6] = ["with space", "naïve 🌲.txt", "'quoted'", "#hash", "a;b&c|d", "-dash"];

fn sftp(env: &TestEnv, server: &Embedded, batch: &str) -> Finished {
    let batch = write(env.path(), "batch", batch);
    let mut command = env.command("sftp");
    server.client_options(&mut command);
    run(command.arg("-b").arg(batch).arg(format!("{USER}@{}", server.address().ip())))
}

/// The code of a status, whether it came as a result or as an error.
#[track_caller]
fn code<T>(outcome: Result<T, error::Error>) -> StatusCode {
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
fn openssh_sftp_puts_gets_and_tidies_up() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    for (index, name) in ODD_NAMES.iter().enumerate() {
        write(&env.local(), format!("tree/{name}"), noise(1000 + index, index as u64));
    }
    write(&env.local(), "tree/sub/empty", "");
    write(&env.local(), "tree/sub/large", noise(20 << 20, 99));
    sftp(&env, &server, "put -pR local/tree\nls -l tree\nget -pR tree back\n").assert_code(0);
    assert_eq!(tree(&env.local().join("tree")), tree(&env.remote().join("tree")));
    assert_eq!(tree(&env.local().join("tree")), tree(&env.path().join("back")));
    let modified = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let seconds = |path: &Path| modified(path).duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(seconds(&env.local().join("tree/#hash")), seconds(&env.remote().join("tree/#hash")), "-p keeps times");

    let batch = "mkdir dir\nrename tree/sub/empty dir/moved\nchmod 600 dir/moved\nln dir/moved dir/hard\n\
                 symlink moved dir/soft\nls -la dir\nrm dir/moved\nrm dir/soft\ndf\n";
    let listed = sftp(&env, &server, batch);
    listed.assert_code(0);
    assert!(listed.stdout.lines().any(|line| line.starts_with("lrwx") && line.ends_with("soft")), "{}", listed.stdout);
    assert!(listed.stdout.lines().any(|line| line.starts_with("-rw-------")), "{}", listed.stdout);
    assert_eq!(files(&env.remote().join("dir")).len(), 1);
    sftp(&env, &server, "rm dir/hard\nrmdir dir\n").assert_code(0);
    assert!(!env.remote().join("dir").exists());

    for (batch, why) in [
        ("get missing\n", "not found"),
        ("rmdir tree\n", "Failure"),
        ("mkdir tree\n", "Failure"),
        ("rename -l tree/sub/large tree/-dash\n", "Failure"),
        ("ls ../../etc\n", "not found"),
        ("get /etc/passwd\n", "not found"),
    ] {
        let refused = sftp(&env, &server, batch);
        assert_eq!(refused.code(), Some(1), "{batch}");
        assert!(refused.stderr.contains(why), "{batch}: {}", refused.stderr);
    }
}

#[test]
fn openssh_scp_copies_both_ways() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    write(&env.local(), "new\nline", noise(70_000, 1));
    write(&env.local(), "sub/x", "x");
    let at = |path: &str| format!("{USER}@{}:{path}", server.address().ip());
    let scp = |from: &str, to: &str| {
        let mut command = env.command("scp");
        server.client_options(&mut command);
        run(command.args(["-s", "-rp", from, to])).assert_code(0);
    };
    scp("local", &at("/copy"));
    scp(&at("/copy"), "back");
    assert_eq!(tree(&env.local()), tree(&env.remote().join("copy")));
    assert_eq!(tree(&env.local()), tree(&env.path().join("back")));
}

#[test]
fn the_host_key_has_the_fingerprint_that_ssh_keygen_prints() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    let url: DestinationUrl = server.url("/upload").parse().unwrap();
    let mut keygen = env.command("ssh-keygen");
    keygen.args(["-l", "-F", &format!("[{}]:{}", url.host, url.port.unwrap()), "-f", "home/.ssh/known_hosts"]);
    let found = run(&mut keygen);
    assert!(found.assert_code(0).stdout.contains(server.fingerprint()), "{}", found.stdout);
}

/// Runs `command` if its program is installed, and says so if it is not.
fn run_if_installed(command: &mut Command) -> Option<Finished> {
    let program = command.get_program().to_owned();
    if !Command::new("which").arg(&program).output().is_ok_and(|out| out.status.success()) {
        eprintln!("not tested: {} is not installed", program.display());
        return None;
    }
    Some(run(command))
}

#[test]
fn rclone_copies_and_finds_no_difference() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    for name in ODD_NAMES {
        write(&env.local(), format!("sub/{name}"), name);
    }
    write(&env.local(), "large", noise(3 << 20, 1));
    let ssh = env.home().join(".ssh");
    let remote = format!(
        ":sftp,host={},port={},user={USER},shell_type=none,key_file={},known_hosts_file={}:/",
        server.address().ip(),
        server.address().port(),
        ssh.join("id_ed25519").display(),
        ssh.join("known_hosts").display(),
    );
    for subcommand in [["copy"].as_slice(), &["check", "--download"]] {
        let local = env.local();
        let Some(finished) = run_if_installed(env.command("rclone").args(subcommand).arg(local).arg(&remote)) else {
            return;
        };
        finished.assert_code(0);
    }
    assert_eq!(tree(&env.local()), tree(&env.remote()));
}

#[test]
fn lftp_mirrors_both_ways() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    for name in ODD_NAMES {
        write(&env.local(), format!("sub/{name}"), name);
    }
    write(&env.local(), "large", noise(3 << 20, 1));
    let ssh = env.home().join(".ssh");
    let connect = format!(
        "ssh -a -x -F none -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes -o UserKnownHostsFile={} -i {}",
        ssh.join("known_hosts").display(),
        ssh.join("id_ed25519").display(),
    );
    let script = format!(
        "set net:max-retries 1; set sftp:connect-program '{connect}'; open -u {USER}, -p {} sftp://{}; \
         mirror -R local /; mirror / back",
        server.address().port(),
        server.address().ip(),
    );
    let Some(finished) = run_if_installed(env.command("lftp").args(["-c", &script])) else { return };
    finished.assert_code(0);
    assert_eq!(tree(&env.local()), tree(&env.remote()));
    assert_eq!(tree(&env.local()), tree(&env.path().join("back")));
}

#[test]
fn only_sftp_is_to_be_had() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    let ssh = env.home().join(".ssh");
    let attempt = |arguments: &[&str]| {
        let mut command = env.command("ssh");
        command.args(["-F", "none", "-o", "BatchMode=yes", "-p", &server.address().port().to_string(), "-i"]);
        command.arg(ssh.join("id_ed25519")).args(arguments);
        command.arg("-o").arg(format!("UserKnownHostsFile={}", ssh.join("known_hosts").display()));
        run(command.arg(format!("{USER}@{}", server.address().ip())).arg("true"))
    };
    let command = attempt(&[]);
    assert_eq!(command.code(), Some(255));
    assert!(command.stderr.contains("exec request failed"), "{}", command.stderr);
    let terminal = attempt(&["-tt"]);
    assert!(terminal.code() == Some(255) && terminal.stderr.contains("PTY allocation request failed"));
    let forward = attempt(&["-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1"]);
    assert!(forward.stderr.contains("remote port forwarding failed"), "{}", forward.stderr);
}

#[test]
fn logins_need_the_right_user_and_password_or_key() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    server.block_on(async {
        let connect = async || server.connect_unauthenticated().await;
        assert!(connect().await.authenticate_password(USER, PASSWORD).await.unwrap().success());
        for (user, password) in [(USER, "wrong"), ("fir", PASSWORD), (USER, "")] {
            assert!(!connect().await.authenticate_password(user, password).await.unwrap().success());
        }
        for (answer, expected) in [(PASSWORD, true), ("wrong", false)] {
            let mut handle = connect().await;
            let asked = handle.authenticate_keyboard_interactive_start(USER, None).await.unwrap();
            assert!(matches!(asked, KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. }
                if prompts.len() == 1 && !prompts[0].echo));
            let answered = handle.authenticate_keyboard_interactive_respond(vec![answer.to_owned()]).await.unwrap();
            assert_eq!(matches!(answered, KeyboardInteractiveAuthResponse::Success), expected);
        }
    });
    // The key works in every test with OpenSSH's client; another one must not.
    let stranger = env.path().join("stranger");
    run(env.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&stranger)).assert_code(0);
    std::fs::rename(&stranger, env.home().join(".ssh/id_ed25519")).unwrap();
    let refused = sftp(&env, &server, "ls\n");
    assert_eq!(refused.code(), Some(255));
    assert!(refused.stderr.contains("Permission denied"), "{}", refused.stderr);
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
