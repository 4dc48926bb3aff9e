//! A hostile server: what it is offered, what it can make the archiver do, and what it cannot.

use std::borrow::Cow;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use russh::{MethodKind, Preferred, cipher, kex};

use crate::support::embedded::PASSWORD;
use crate::support::env::{DEADLINE, Finished, Running, TestEnv, files, run, write};
use crate::support::hostile::{Hostile, Manners, attributes, field, reply, request, status};
use crate::support::openssh::OpenSsh;

/// One file to push, and a server that lies.
fn against(manners: Manners) -> (TestEnv, Hostile) {
    let env = TestEnv::new();
    write(&env.local(), "a.csv", "content");
    let server = Hostile::start(&env, manners);
    (env, server)
}

fn archiver(env: &TestEnv, command: &str, to: &str) -> Command {
    let mut archiver = env.archiver([command, "--to", to, "--ssh-config", "none"]);
    archiver.env("ARCHIVER_PASSWORD", PASSWORD).env("ARCHIVER_SUMMARY", "json");
    archiver.env("ARCHIVER_RETRY__INITIAL_BACKOFF", "1ms").env("ARCHIVER_RETRY__MAX_BACKOFF", "5ms");
    archiver.env("ARCHIVER_POOL__CONNECT_TIMEOUT", "5s").env("ARCHIVER_POOL__REQUEST_TIMEOUT", "2s");
    archiver
}

fn push(env: &TestEnv, to: &str) -> Command {
    let mut push = archiver(env, "push", to);
    push.args(["--retries", "2", "--after", "delete"]).arg(env.local());
    push
}

/// The name lists of the client's SSH_MSG_KEXINIT (RFC 4253, section 7.1), in their order.
fn offered(env: &TestEnv) -> Vec<Vec<String>> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("sftp://u@{}/x", listener.local_addr().unwrap());
    let client = Running::start(&mut push(env, &to));
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"SSH-2.0-peer\r\n").unwrap();
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.push(0);
        stream.read_exact(line.last_mut().map(std::slice::from_mut).unwrap()).unwrap();
    }
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut packet = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut packet).unwrap();
    drop((stream, listener));
    client.finish();
    // Length of the padding, type, cookie.
    assert_eq!(packet[1], 20);
    let mut rest = &packet[18..];
    let mut lists = Vec::new();
    for _ in 0..10 {
        let (names, after) = crate::support::hostile::string(rest).unwrap();
        lists.push(String::from_utf8(names.to_vec()).unwrap().split(',').map(str::to_owned).collect());
        rest = after;
    }
    lists
}

#[test]
fn nothing_weak_is_offered() {
    let env = TestEnv::new();
    write(&env.local(), "a", "a");
    let lists = offered(&env);
    let [kex, keys, to_server, to_client, macs, macs_back, compression, ..] = &lists[..] else { panic!("{lists:?}") };
    assert!(kex.contains(&"kex-strict-c-v00@openssh.com".into()), "{kex:?}");
    assert_eq!(kex[0], "mlkem768x25519-sha256");
    for name in lists.iter().flatten() {
        let weak = ["sha1", "md5", "cbc", "arcfour", "3des", "dss", "group1-", "none@", "umac-64", "blowfish"];
        assert!(!weak.iter().any(|weak| name.contains(weak)), "{name} is offered: {lists:?}");
    }
    assert!(!keys.contains(&"ssh-rsa".into()), "{keys:?}");
    assert_eq!((to_server, macs), (to_client, macs_back));
    assert!(!to_server.contains(&"none".into()) && !macs.contains(&"none".into()));
    assert_eq!(to_server.last().unwrap(), "chacha20-poly1305@openssh.com");
    assert_eq!(compression, &["none"]);
    eprintln!("offered: {}", lists.iter().map(|names| names.join(",")).collect::<Vec<_>>().join(" | "));
}

/// Terrapin (CVE-2023-48795): messages cut off the beginning of a connection go unnoticed with ChaCha20-Poly1305 where
/// one side has no strict key exchange.
#[test]
fn chacha20_needs_strict_key_exchange() {
    for (strict, code) in [(false, 3), (true, 0)] {
        let mut exchange = vec![kex::CURVE25519];
        if strict {
            exchange.push(kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER);
        }
        let only = |cipher| Preferred {
            kex: Cow::Owned(exchange.clone()),
            cipher: Cow::Owned(vec![cipher]),
            ..Preferred::default()
        };
        let (env, server) = against(Manners { algorithms: only(cipher::CHACHA20_POLY1305), ..Manners::default() });
        let finished = run(&mut push(&env, &server.url("/base")));
        finished.assert_code(code);
        if !strict {
            assert!(finished.stderr.contains("CVE-2023-48795"), "{}", finished.stderr);
            assert!(server.seen(|seen| seen.passwords.is_empty()), "the password was sent all the same");
        }
        // Ciphers that depend on what went before need no strictness.
        for cipher in [cipher::AES_256_GCM, cipher::AES_256_CTR] {
            let (env, server) = against(Manners { algorithms: only(cipher), ..Manners::default() });
            run(&mut push(&env, &server.url("/base"))).assert_code(0);
        }
    }
}

#[test]
fn openssh_agrees_on_strict_key_exchange() {
    let server = OpenSsh::builder().option("Ciphers chacha20-poly1305@openssh.com").start();
    let env = TestEnv::new();
    write(&env.local(), "a", "a");
    let mut push = env.archiver(["push", "--to", &server.url(), "--ssh-config", "none"]);
    push.arg("-i").arg(server.client_key()).arg("--known-hosts").arg(server.known_hosts()).arg(env.local());
    let finished = run(push.env("ARCHIVER_LOG", "russh=debug"));
    finished.assert_code(0);
    assert!(finished.stderr.contains("strict kex enabled"), "{}", finished.stderr);
}

#[test]
fn a_server_opens_no_channel_towards_us() {
    let (env, server) = against(Manners { channels: 50, ..Manners::default() });
    // Slow enough that all are asked for while the connection lives.
    let finished = run(&mut push(&env, &server.url("/base")));
    finished.assert_code(0);
    let (opened, refused) = server.seen(|seen| (seen.channels.clone(), seen.refused));
    assert!(opened.is_empty(), "opened: {opened:?}");
    assert!(refused > 0);
    eprintln!("{refused} channels refused");
}

/// Whatever it says of names and places, every request stays below the base, and what was not archived stays.
#[test]
fn a_lying_server_leads_nowhere() {
    let names = ["..", "../../etc/passwd", "/etc/passwd", ".a.csv.0123456789ab-1.part", "a\0b", "", "x\x1b[2J"];
    let listed = Arc::new(AtomicUsize::new(0));
    let count = listed.clone();
    let lie = move |packet: &[u8]| match packet[0] {
        request::INIT => {
            // Some thousand extensions, none of them known, and one that has a number for a value.
            let mut version = [&[2][..], &3_u32.to_be_bytes()].concat();
            for number in 0..5_000 {
                version.extend(field(format!("x{number}@example.org\x1b").as_bytes()));
                version.extend(field(b"../../\0"));
            }
            Some(vec![version])
        }
        request::REALPATH => Some(vec![reply(
            104,
            packet,
            &[&1_u32.to_be_bytes(), &field(b"../../etc"), &field(b""), &attributes(0, 0)],
        )]),
        // `check` is shown what stands beside a base that takes nothing.
        request::MKDIR if packet[9..].starts_with(b"/.archiver-check-") => Some(vec![status(packet, 3, b"no")]),
        request::READDIR if count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) => {
            let entries: Vec<u8> = names
                .iter()
                .flat_map(|name| [field(name.as_bytes()), field(b"-rw"), attributes(u64::MAX, 0o40_755)].concat())
                .collect();
            Some(vec![reply(104, packet, &[&(names.len() as u32).to_be_bytes(), &entries])])
        }
        _ => None,
    };
    let (env, server) = against(Manners { reply: Box::new(lie), ..Manners::default() });
    write(&env.local(), "d/b.csv", "b");
    let finished = run(&mut push(&env, &server.url("/base")));
    finished.assert_code(0);
    for base in ["/base", "/"] {
        run(&mut archiver(&env, "check", &server.url(base)));
    }
    let paths = server.seen(|seen| seen.paths.clone());
    assert!(paths.len() > 4 && listed.load(Ordering::SeqCst) > 0);
    for (kind, path) in &paths {
        let below = path == "/base" || path.starts_with("/base/");
        // `check` also tries where else something could be made, by a name of its own.
        let harmless = matches!(*kind, request::LSTAT | request::REALPATH | request::STAT | request::OPENDIR)
            || path.rsplit('/').next().is_some_and(|name| name.starts_with(".archiver-check-"));
        assert!(below || harmless, "request {kind} for {path}");
        assert!(!path.split('/').any(|part| part == "..") && !path.contains('\0'), "request {kind} for {path}");
    }
    eprintln!("{} requests with paths, {} listings", paths.len(), listed.load(Ordering::SeqCst));
}

/// Sizes and times at the ends of their ranges, and beyond what is there.
#[test]
fn impossible_attributes_are_no_success() {
    for size in [0, u64::MAX, 8] {
        let lie = move |packet: &[u8]| match packet[0] {
            request::FSTAT => {
                let fields = [&0xd_u32.to_be_bytes()[..], &size.to_be_bytes(), &u32::MAX.to_be_bytes(), &[0xff; 8]];
                Some(vec![reply(105, packet, &fields)])
            }
            _ => None,
        };
        let (env, server) = against(Manners { reply: Box::new(lie), ..Manners::default() });
        let finished = run(&mut push(&env, &server.url("/base")));
        assert_ne!(finished.code(), Some(0), "{finished:?}");
        assert_eq!(files(&env.local()).len(), 1, "a file went that was not archived");
    }
}

/// The most memory that a process ever held, in KiB.
fn peak(pid: rustix::process::Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
}

/// Runs it to its end, and looks at its memory all the while.
#[track_caller]
fn run_bounded(command: &mut Command, limit_kib: u64) -> Finished {
    let running = Running::start(command);
    let (pid, done) = (running.pid(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let watcher = std::thread::spawn({
        let done = done.clone();
        move || {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = peak(pid).unwrap_or(most).max(most);
                std::thread::park_timeout(std::time::Duration::from_millis(2));
            }
            most
        }
    });
    let finished = running.finish();
    done.store(true, Ordering::Relaxed);
    let most = watcher.join().unwrap();
    eprintln!("at most {most} KiB");
    assert!(most < limit_kib, "{most} KiB");
    finished
}

const PLENTY_KIB: u64 = 96 << 10;

#[test]
fn a_server_that_talks_without_being_asked_is_left() {
    let (env, server) = against(Manners { babble: 512 << 20, ..Manners::default() });
    run_bounded(&mut push(&env, &server.url("/base")), PLENTY_KIB).assert_code(3);
}

#[test]
fn a_flood_of_debug_messages_does_no_harm() {
    let (env, server) = against(Manners { debug: (50_000, "\x1b[2J".repeat(10)), ..Manners::default() });
    let finished = run_bounded(&mut push(&env, &server.url("/base")), PLENTY_KIB);
    finished.assert_code(0);
}

#[test]
fn huge_lengths_cost_no_memory() {
    // A packet of 2 GiB, a string of 4 GiB within a small one, four thousand million names, none of them there.
    type Lie = fn(&[u8]) -> Vec<u8>;
    let lies: [Lie; 3] = [
        |packet| reply(101, packet, &[&4_u32.to_be_bytes(), &u32::MAX.to_be_bytes(), b"short"]),
        |packet| reply(104, packet, &[&u32::MAX.to_be_bytes()]),
        |packet| reply(105, packet, &[&0x8000_0000_u32.to_be_bytes(), &u32::MAX.to_be_bytes()]),
    ];
    for lie in lies {
        let reply = move |packet: &[u8]| (packet[0] == request::LSTAT).then(|| vec![lie(packet)]);
        let (env, server) = against(Manners { reply: Box::new(reply), ..Manners::default() });
        let finished = run_bounded(&mut push(&env, &server.url("/base")), PLENTY_KIB);
        assert_ne!(finished.code(), Some(130));
        assert!(finished.code().is_some(), "{finished:?}");
    }
}

/// Peers that are no SSH server at all, or stop being one before anything is encrypted.
#[test]
fn nonsense_before_the_key_exchange_ends_soon() {
    type Say = fn(&mut TcpStream) -> std::io::Result<()>;
    let peers: [(&str, Say); 5] = [
        ("a line without end", |stream| {
            let block = [b'x'; 1 << 16];
            (0..4096).try_for_each(|_| stream.write_all(&block))
        }),
        ("lines without end", |stream| (0..1 << 22).try_for_each(|_| stream.write_all(b"not yet\x1b[2J\r\n"))),
        ("a packet of 4 GiB", |stream| {
            stream.write_all(b"SSH-2.0-x\r\n\xff\xff\xff\xff")?;
            (0..4096).try_for_each(|_| stream.write_all(&[0; 1 << 16]))
        }),
        ("ignored messages", |stream| {
            stream.write_all(b"SSH-2.0-x\r\n")?;
            // SSH_MSG_IGNORE with an empty string, padded to 16 bytes.
            let ignore = [0, 0, 0, 12, 6, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let block = ignore.repeat(4096);
            (0..1024).try_for_each(|_| stream.write_all(&block))
        }),
        ("version 1", |stream| stream.write_all(b"SSH-1.5-old\r\n")),
    ];
    for (what, say) in peers {
        let env = TestEnv::new();
        write(&env.local(), "a", "a");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = format!("sftp://u@{}/x", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                // The client leaves in the middle of it.
                std::thread::spawn(move || say(&mut stream));
            }
        });
        let mut push = push(&env, &to);
        push.env("ARCHIVER_POOL__CONNECT_TIMEOUT", "1s");
        let finished = run_bounded(&mut push, PLENTY_KIB);
        assert_eq!(finished.code(), Some(3), "{what}: {finished:?}");
        assert_eq!(files(&env.local()).len(), 1);
    }
}

#[test]
fn a_question_for_the_password_in_odd_words_is_answered_once() {
    let manners =
        || Manners { method: MethodKind::KeyboardInteractive, prompt: "?\x1b[2J".into(), ..Manners::default() };
    let (env, server) = against(manners());
    run(&mut push(&env, &server.url("/base"))).assert_code(0);
    let (env, server) = against(manners());
    let finished = run(push(&env, &server.url("/base")).env("ARCHIVER_PASSWORD", "wrong"));
    finished.assert_code(3);
}

#[test]
fn a_server_that_refuses_everything_is_refused_in_turn() {
    let refuse = |packet: &[u8]| (packet[0] != request::INIT).then(|| vec![status(packet, 4, b"no")]);
    let (env, server) = against(Manners { reply: Box::new(refuse), ..Manners::default() });
    assert_ne!(run(&mut push(&env, &server.url("/base"))).code(), Some(0));
    assert_eq!(files(&env.local()).len(), 1);
}
