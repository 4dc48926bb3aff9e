//! Names that break programs, and things in a tree that are no files.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::{Bench, Pushed};
use crate::support::env::{files, write};
use crate::support::openssh::is_root;

fn name(bytes: &[u8]) -> PathBuf {
    OsStr::from_bytes(bytes).into()
}

#[test]
fn names_that_are_utf_8_arrive_as_they_are() {
    let (bench, _server) = Bench::plain();
    let long = "é".repeat(127) + "x";
    let odd = [
        "with space",
        " leading and trailing ",
        "new\nline",
        "carriage\rreturn",
        "tab\there",
        "quote\"'`",
        "-leading-dash",
        "--to",
        "back\\slash",
        "emoji 🌲",
        "café",
        "cafe\u{301}",
        "per%cent",
        "caf%E9",
        "%25",
        "100%",
        "a;b|c&d",
        "$HOME",
        "*",
        "[x]",
        "{name}",
        "~",
        "#hash",
        "?",
        "bell\x07",
        "\x1b[31mred",
        "del\x7f",
        "\u{202e}override",
        "con",
        &long,
        "a=b,c",
        "..dots",
        "...",
        "dir with space/and\nnewline/f",
    ];
    for name in odd {
        write(&bench.env.local(), name, format!("bytes of {name:?}"));
    }
    assert_eq!(long.len(), 255);
    // A leading dot is hidden and `~` at the end is a backup: asked for by name.
    let includes = ["--include", "**", "--summary", "json"];
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(includes)).expect(0);
    pushed.assert_counts([odd.len() as u64, 0, 0, 0]);
    // The two that read as escapes are told apart from those that are; all others are the same.
    let remote = bench.archived();
    let mut wanted = files(&bench.env.local());
    for (local, escaped) in [("caf%E9", "caf%25E9"), ("%25", "%2525")] {
        let entry = wanted.remove(&PathBuf::from(local)).unwrap();
        wanted.insert(escaped.into(), entry);
    }
    assert_eq!(remote, wanted);
    bench.assert_no_part();
    // No control character reaches the terminal.
    let table = Pushed::run(bench.push([bench.env.local()]).args(["--include", "**", "--summary", "table"])).expect(0);
    let shown = &table.finished.stdout;
    assert!(!shown.contains(|c: char| c.is_control() && c != '\n') && !shown.contains('\u{202e}'), "{shown}");
}

#[test]
fn names_that_are_not_utf_8_never_collide_and_have_a_way_back() {
    let (bench, _server) = Bench::plain();
    let odd: [&[u8]; 8] =
        [b"caf\xe9", b"caf%E9", b"caf%25E9", b"caf%", b"caf%e9", b"\xff\xfe", b"d\xff/x", b"half \xc3"];
    for bytes in odd {
        write(&bench.env.local(), name(bytes), bytes);
    }
    let pushed = Pushed::run(&mut bench.push([bench.env.local()])).expect(0);
    pushed.assert_counts([8, 0, 0, 0]);
    let found: Vec<_> = bench.archived().into_keys().collect();
    assert_eq!(found.len(), 8, "{found:?}");
    for remote in found {
        let content = std::fs::read(bench.base.join("in").join(&remote)).unwrap();
        let parts = remote.to_str().unwrap().split('/').map(archiver::domain::name::unescape).collect::<Vec<_>>();
        assert_eq!(parts.join(&b'/'), content, "{remote:?} does not lead back to its local name");
    }
    // The summary has the exact bytes of those paths that JSON cannot hold.
    let odd = pushed.rows().iter().filter(|row| row["path_bytes"].is_string()).count();
    assert_eq!(odd, 4, "{}", pushed.finished.stdout);
    bench.push_local().assert_counts([0, 8, 0, 0]);
}

#[test]
fn a_name_that_is_too_long_once_escaped_fails_alone() {
    let (bench, _server) = Bench::plain();
    let mut long = vec![b'a'; 254];
    long.push(0xff);
    write(&bench.env.local(), name(&long), "too long");
    write(&bench.env.local(), "fine", "fine");
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(["--after", "delete"])).expect(1);
    pushed.assert_counts([1, 0, 0, 1]);
    let failed = pushed.rows().iter().find(|row| row["status"] == "failed").unwrap();
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains("257 bytes") && reason.contains("255"), "{reason}");
    assert!(bench.env.local().join(name(&long)).exists());
    assert_eq!(bench.archived().len(), 1);
}

#[test]
fn links_are_never_followed() {
    let (bench, _server) = Bench::plain();
    let local = bench.env.local();
    write(&local, "real", "real");
    write(bench.env.path(), "outside/secret", "secret");
    symlink("real", local.join("to a file")).unwrap();
    symlink(".", local.join("loop")).unwrap();
    symlink("b", local.join("a")).unwrap();
    symlink("a", local.join("b")).unwrap();
    symlink("nowhere", local.join("dangling")).unwrap();
    symlink("../outside", local.join("escaping")).unwrap();
    symlink("../outside/secret", local.join("escaping file")).unwrap();
    symlink("/etc/passwd", local.join("passwd")).unwrap();
    bench.push_local().assert_counts([1, 0, 0, 0]);
    assert_eq!(bench.archived().into_keys().collect::<Vec<_>>(), [PathBuf::from("real")]);
    assert!(local.join("loop").is_symlink());
}

#[test]
fn a_link_given_as_the_path_of_a_file_is_refused_and_one_to_a_directory_is_the_directory() {
    let (bench, _server) = Bench::plain();
    write(bench.env.path(), "outside/a", "a");
    symlink("../outside", bench.env.local().join("dir")).unwrap();
    symlink("../outside/a", bench.env.local().join("file")).unwrap();
    Pushed::run(&mut bench.push([bench.env.local().join("dir")])).expect(0).assert_counts([1, 0, 0, 0]);
    let pushed = Pushed::run(&mut bench.push([bench.env.local().join("file")]));
    assert_eq!(pushed.counts()[0], 0, "{}", pushed.finished.stdout);
    assert!(
        pushed.reason("/file").contains("link") || pushed.reason("/file").contains("regular"),
        "{}",
        pushed.finished.stdout
    );
    assert_eq!(bench.archived().len(), 1);
}

#[test]
fn pipes_sockets_and_devices_are_no_candidates_and_never_block() {
    let (bench, _server) = Bench::plain();
    let local = bench.env.local();
    write(&local, "real", "real");
    mknodat(CWD, local.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(local.join("socket")).unwrap();
    if is_root() {
        // /dev/zero: whoever reads it never ends.
        let device = rustix::fs::makedev(1, 5);
        if mknodat(CWD, local.join("zero"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), device).is_err() {
            eprintln!("SKIPPED: this machine lets nobody make devices");
        }
    } else {
        eprintln!("SKIPPED: making a device needs root");
    }
    bench.push_local().assert_counts([1, 0, 0, 0]);
    // Named one by one they are said to be what they are.
    let pushed = Pushed::run(&mut bench.push(["pipe", "socket"].map(|name| local.join(name))));
    assert_eq!(pushed.rows().len(), 2, "{}", pushed.finished.stdout);
    for name in ["/pipe", "/socket"] {
        assert!(pushed.reason(name).contains("regular file"), "{}", pushed.finished.stdout);
    }
    assert_eq!(bench.archived().len(), 1);
}
