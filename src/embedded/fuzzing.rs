//! The body of a fuzz target (`crate::fuzzing`): a client that sends whatever it likes.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::Quirks;
use super::confined::Root;
use super::disk::Store;
use super::session::Sftp;
use crate::fuzzing::Input;

pub(crate) const WORDS: &[&str] =
    &["../secret", "posix-rename@openssh.com", "hardlink@openssh.com", "statvfs@openssh.com"];

const SECRET: &[u8] = b"nobody's business";

/// Names that lead somewhere, or try to lead out.
const PATHS: [&str; 16] = [
    "",
    "/",
    "..",
    "a",
    "a/b",
    "a/file",
    "../secret",
    "/../secret",
    "out/secret",
    "absolute",
    "a/up/../secret",
    "new",
    "a/new",
    "loop",
    "0",
    "1",
];

/// How long a session may take: far more than it needs, so that a hang fails.
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn run(data: &[u8]) {
    let place = tempfile::tempdir().unwrap();
    let served = place.path().join("served");
    std::fs::create_dir_all(served.join("a/b")).unwrap();
    std::fs::write(served.join("a/file"), "inside").unwrap();
    std::fs::write(place.path().join("secret"), SECRET).unwrap();
    symlink("..", served.join("out")).unwrap();
    symlink("..", served.join("a/up")).unwrap();
    symlink(place.path().join("secret"), served.join("absolute")).unwrap();
    symlink("loop", served.join("loop")).unwrap();
    let before = outside(place.path());

    let requests = requests(data);
    let replies = answers(&served, &requests.bytes);
    // Each whole request got one answer, and none of them holds what lies outside.
    if let Some(whole) = requests.whole {
        assert_eq!(count(&replies), whole, "{:?}", requests.bytes);
    }
    assert!(!replies.windows(SECRET.len()).any(|window| window == SECRET), "it was read");
    assert_eq!(outside(place.path()), before, "it left its root");
}

/// Everything beside the served directory: names, sizes, contents and modes.
fn outside(place: &Path) -> Vec<(std::ffi::OsString, u32, Vec<u8>)> {
    use std::os::unix::fs::PermissionsExt;
    let entries = std::fs::read_dir(place).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != "served");
    let mut found: Vec<_> = entries
        .map(|entry| {
            let mode = entry.metadata().unwrap().permissions().mode();
            (entry.file_name(), mode, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    found.sort();
    found
}

struct Requests {
    bytes: Vec<u8>,
    /// How many, where all of them can be answered.
    whole: Option<usize>,
}

/// INIT, and then either anything or requests whose fields are anything.
fn requests(data: &[u8]) -> Requests {
    let mut input = Input::new(data);
    let mut bytes = vec![0, 0, 0, 5, 1, 0, 0, 0, 3];
    if input.below(4) == 0 {
        bytes.extend_from_slice(input.rest());
        return Requests { bytes, whole: None };
    }
    let mut whole = 1;
    while !input.is_empty() && whole < 64 {
        let mut packet =
            vec![input.one_of(&[3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 200, 99])];
        packet.put_u32(whole as u32);
        for _ in 0..input.below(5) {
            field(&mut input, &mut packet);
        }
        bytes.put_u32(packet.len() as u32);
        bytes.extend(packet);
        whole += 1;
    }
    Requests { bytes, whole: Some(whole) }
}

fn field(input: &mut Input<'_>, packet: &mut Vec<u8>) {
    let mut string = |bytes: &[u8]| {
        packet.put_u32(bytes.len() as u32);
        packet.put_slice(bytes);
    };
    match input.byte() % 8 {
        0..4 => string(input.one_of(&PATHS).as_bytes()),
        4 => {
            let length = input.below(32);
            string(input.bytes(length));
        }
        5 => {
            string(input.one_of(&["posix-rename@openssh.com", "hardlink@openssh.com", "fsync@openssh.com"]).as_bytes())
        }
        6 => packet.put_u32(u32::from(input.byte())),
        // Not so large that a disk would notice.
        _ => packet.put_u64(u64::from(input.byte()) << 4),
    }
}

/// What a session answers until its client says no more.
fn answers(served: &Path, requests: &[u8]) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = Store { root: Root::open(served).unwrap(), quirks: Quirks::default(), quota: None };
    let cut = CancellationToken::new();
    let session = Sftp { store: Arc::new(store), faults: None, connection: 0, cut: cut.clone(), closing: cut.clone() };
    runtime.block_on(async {
        let (client, server) = tokio::io::duplex(1 << 16);
        let (mut from, mut to) = tokio::io::split(client);
        let serving = async {
            session.run(server).await;
        };
        let asking = async {
            // It hangs up on whoever breaks the protocol.
            let _ = to.write_all(requests).await;
            let _ = to.shutdown().await;
        };
        let mut replies = Vec::new();
        let listening = from.read_to_end(&mut replies);
        let all = async { futures::join!(serving, asking, listening) };
        tokio::time::timeout(DEADLINE, all).await.expect("a session ends with its client").2.unwrap();
        replies
    })
}

fn count(mut replies: &[u8]) -> usize {
    let mut packets = 0;
    while let Some((length, rest)) = replies.split_first_chunk::<4>() {
        replies = &rest[u32::from_be_bytes(*length) as usize..];
        packets += 1;
    }
    packets
}
