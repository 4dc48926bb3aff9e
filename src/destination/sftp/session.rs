//! One SFTP session: a channel, its features, and a method for each operation that the archiver needs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::exchange::Exchange;
use super::features::{Features, Links};
use super::wire::{self, RawAttributes, Reply, Request, attr_flag, kind, open_flag};
use crate::destination::DestinationError;
use crate::domain::{RemotePath, display};

/// One SFTP channel, shared by many jobs through `&` or `Arc`.
///
/// **Order.** Every method queues its request when its future is first polled, before it waits for anything, and the
/// queue is sent in order. `futures::join!(write, fsetstat, fstat, close)` therefore puts the four requests on the
/// wire one behind the other in that order, and costs one round trip. Whether the server also *carries them out* in
/// that order is [`Features::order`]'s to say.
///
/// **Cancelling.** Dropping a future does not take its request back: it may still be carried out. A handle that
/// arrives for a dropped `open` is closed.
///
/// **Errors** carry [`Consequence::Session`](crate::destination::Consequence) once the session is of no more use; all
/// later calls then fail the same way, at once.
pub struct Session {
    exchange: Exchange,
    features: Features,
    /// Found out when it is first needed.
    links: OnceCell<Links>,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenHow {
    /// For writing, and only if the name is free: `WRITE | CREAT | EXCL`.
    CreateNew,
    /// The same, for reading too.
    CreateNewReadable,
    /// For reading and writing, and only if it exists: `READ | WRITE`.
    Existing,
    Read,
}

/// An open file on the server. Dropping it does not close it; [`Session::close`] does, or the end of the session.
#[derive(Debug, Clone)]
pub struct RemoteFile {
    handle: Bytes,
    path: Arc<RemotePath>,
}

impl RemoteFile {
    pub fn path(&self) -> &RemotePath {
        &self.path
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Other,
    /// The server does not tell.
    Unknown,
}

/// What the server says of a file; whatever it leaves out is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    pub kind: Kind,
    /// Bytes.
    pub size: Option<u64>,
    /// Permission bits, `0o7777` at most.
    pub mode: Option<u32>,
    /// Seconds since 1970, unsigned: from 1970 to 2106.
    pub mtime: Option<u32>,
}

impl From<RawAttributes> for Attributes {
    fn from(raw: RawAttributes) -> Self {
        let kind = match raw.permissions.map(|mode| mode & 0o170_000) {
            None | Some(0) => Kind::Unknown,
            Some(0o100_000) => Kind::File,
            Some(0o040_000) => Kind::Directory,
            Some(0o120_000) => Kind::Symlink,
            Some(_) => Kind::Other,
        };
        Self { kind, size: raw.size, mode: raw.permissions.map(|mode| mode & 0o7777), mtime: raw.mtime }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Bytes that are no UTF-8 are replaced; such a name cannot be one of ours.
    pub name: String,
    pub attributes: Attributes,
}

/// What an unprivileged user may still use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeSpace {
    pub bytes: u64,
    /// Zero on filesystems that do not count them.
    pub inodes: u64,
}

impl Session {
    /// Starts SFTP on a channel whose `sftp` subsystem was granted and to which the [`greeting`] was sent. `buffer` holds
    /// what the server said so far, and `server` is its SSH identification.
    pub(super) async fn start(
        channel: Channel<Msg>,
        mut buffer: BytesMut,
        server: &str,
        patience: Duration,
        cut: CancellationToken,
    ) -> Result<Self, DestinationError> {
        let (mut read, write) = channel.split();
        let packet = next_packet(&mut read, &mut buffer).await?;
        let (version, extensions) =
            wire::version(packet).map_err(|error| DestinationError::refusal(STARTING, error.to_string()))?;
        let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
        let extensions: BTreeMap<_, _> =
            extensions.into_iter().map(|(name, value)| (text(name), text(value))).collect();
        let features = Features::new(server, version.min(wire::VERSION), extensions);
        let mut limits = None;
        if features.has_limits() && is_openssh(server) {
            let reply = wire::reply(next_packet(&mut read, &mut buffer).await?);
            let (_, reply) = reply.map_err(|error| DestinationError::session(STARTING, error.to_string()))?;
            limits = Some(reply);
        }
        let exchange = Exchange::start(read, write, buffer, patience, cut);
        if features.has_limits() && limits.is_none() {
            let what = || "asking for the server's limits".to_owned();
            limits = Some(exchange.request(Request::extended(LIMITS), what).await?);
        }
        let features = limits.map_or(features.clone(), |reply| limited(features, reply));
        Ok(Self { exchange, features, links: OnceCell::new() })
    }

    /// The shortest time in which the server answered anything so far.
    pub fn round_trip(&self) -> Option<Duration> {
        self.exchange.round_trip()
    }

    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Whether the session has ended. `false` promises nothing about the next request.
    pub fn is_closed(&self) -> bool {
        self.exchange.is_ended()
    }

    pub async fn open(&self, path: &RemotePath, how: OpenHow) -> Result<RemoteFile, DestinationError> {
        let flags = match how {
            OpenHow::CreateNew => open_flag::WRITE | open_flag::CREAT | open_flag::EXCL,
            OpenHow::CreateNewReadable => open_flag::READ | open_flag::WRITE | open_flag::CREAT | open_flag::EXCL,
            OpenHow::Existing => open_flag::READ | open_flag::WRITE,
            OpenHow::Read => open_flag::READ,
        };
        let what = || format!("OPEN {}", display::escaped(path.as_str()));
        let request = Request::new(kind::OPEN).string(path.as_str().as_bytes()).u32(flags).u32(0);
        match self.exchange.request(request, what).await? {
            Reply::Handle(handle) => Ok(RemoteFile { handle, path: Arc::new(path.clone()) }),
            other => Err(failed(what(), other)),
        }
    }

    /// One WRITE of at most [`Features::write_len`] bytes. `Ok` is the server's acknowledgement of all of them.
    pub async fn write(&self, file: &RemoteFile, offset: u64, data: impl Into<Bytes>) -> Result<(), DestinationError> {
        let request = Request::new(kind::WRITE).string(&file.handle).u64(offset).content(data.into());
        self.done(request, || on_file("WRITE", file)).await
    }

    /// One READ of at most [`Features::read_len`] bytes. May be short; empty only at the end of the file.
    pub async fn read(&self, file: &RemoteFile, offset: u64, len: u32) -> Result<Vec<u8>, DestinationError> {
        let what = || on_file("READ", file);
        let request = Request::new(kind::READ).string(&file.handle).u64(offset).u32(len);
        match self.exchange.request(request, what).await? {
            Reply::Data(data) if !data.is_empty() && data.len() <= len as usize => Ok(data.into()),
            Reply::Data(_) => Err(DestinationError::session(what(), "the server sent more or less than was asked for")),
            Reply::Status { code: EOF, .. } => Ok(Vec::new()),
            other => Err(failed(what(), other)),
        }
    }

    pub async fn fstat(&self, file: &RemoteFile) -> Result<Attributes, DestinationError> {
        let what = || on_file("FSTAT", file);
        match self.exchange.request(Request::new(kind::FSTAT).string(&file.handle), what).await? {
            Reply::Attributes(raw) => Ok(raw.into()),
            other => Err(failed(what(), other)),
        }
    }

    /// Sets the times (access time = `mtime`, in seconds since 1970) and the permission bits (`mode & 0o7777`);
    /// never the owner or the size. Servers may refuse it, or take it and do nothing.
    pub async fn fsetstat(&self, file: &RemoteFile, mtime: u32, mode: u32) -> Result<(), DestinationError> {
        let request = Request::new(kind::FSETSTAT)
            .string(&file.handle)
            .u32(attr_flag::PERMISSIONS | attr_flag::ACMODTIME)
            .u32(mode & 0o7777)
            .u32(mtime)
            .u32(mtime);
        self.done(request, || on_file("FSETSTAT", file)).await
    }

    /// `fsync@openssh.com`: what was acknowledged is on the server's disk. See [`Features::fsync`].
    pub async fn fsync(&self, file: &RemoteFile) -> Result<(), DestinationError> {
        self.done(Request::extended("fsync@openssh.com").string(&file.handle), || on_file("FSYNC", file)).await
    }

    /// The handle is gone in any case, also when the server reports that writing back failed.
    pub async fn close(&self, file: &RemoteFile) -> Result<(), DestinationError> {
        self.done(Request::new(kind::CLOSE).string(&file.handle), || on_file("CLOSE", file)).await
    }

    /// Without following a symbolic link. `None` where there is nothing (NO_SUCH_FILE).
    pub async fn lstat(&self, path: &RemotePath) -> Result<Option<Attributes>, DestinationError> {
        let what = || format!("LSTAT {}", display::escaped(path.as_str()));
        match self.exchange.request(Request::new(kind::LSTAT).string(path.as_str().as_bytes()), what).await? {
            Reply::Attributes(raw) => Ok(Some(raw.into())),
            Reply::Status { code: NO_SUCH_FILE, .. } => Ok(None),
            other => Err(failed(what(), other)),
        }
    }

    /// Removes a file, never a directory.
    pub async fn remove(&self, path: &RemotePath) -> Result<(), DestinationError> {
        let request = Request::new(kind::REMOVE).string(path.as_str().as_bytes());
        self.done(request, || format!("REMOVE {}", display::escaped(path.as_str()))).await
    }

    /// SSH_FXP_RENAME. Where `to` exists, see [`Features::rename`].
    pub async fn rename(&self, from: &RemotePath, to: &RemotePath) -> Result<(), DestinationError> {
        self.done(two_paths(Request::new(kind::RENAME), from, to), || between("RENAME", from, to)).await
    }

    /// `posix-rename@openssh.com`: atomic, replaces what `to` was. See [`Features::posix_rename`].
    pub async fn posix_rename(&self, from: &RemotePath, to: &RemotePath) -> Result<(), DestinationError> {
        let request = two_paths(Request::extended("posix-rename@openssh.com"), from, to);
        self.done(request, || between("POSIX-RENAME", from, to)).await
    }

    /// `hardlink@openssh.com`: `to` becomes a second name of `from`; fails where `to` exists. See
    /// [`Features::hardlink`].
    pub async fn hardlink(&self, from: &RemotePath, to: &RemotePath) -> Result<(), DestinationError> {
        let request = two_paths(Request::extended("hardlink@openssh.com"), from, to);
        self.done(request, || between("HARDLINK", from, to)).await
    }

    /// What an OK to [`Session::hardlink`] is worth here. Asked once a session, by a link that cannot be: from `directory`
    /// to itself. A server that makes links refuses it, and one that says OK to it would say OK to anything.
    pub async fn links(&self, directory: &str) -> Result<Links, DestinationError> {
        let ask = async {
            let path = RemotePath::new(or_here(directory));
            match self.hardlink(&path, &path).await {
                Ok(()) => Ok(Links::Pretended),
                Err(error) if error.status.is_some() => Ok(Links::Honest),
                Err(error) => Err(error),
            }
        };
        self.links.get_or_try_init(|| ask).await.copied()
    }

    /// One directory, with the mode the server chooses. Fails (FAILURE, as a rule) where the name is taken.
    pub async fn mkdir(&self, path: &str) -> Result<(), DestinationError> {
        let request = Request::new(kind::MKDIR).string(path.as_bytes()).u32(0);
        self.done(request, || format!("MKDIR {}", display::escaped(path))).await
    }

    pub async fn rmdir(&self, path: &str) -> Result<(), DestinationError> {
        let request = Request::new(kind::RMDIR).string(path.as_bytes());
        self.done(request, || format!("RMDIR {}", display::escaped(path))).await
    }

    /// The entries of a directory but `.` and `..`, in the server's order, `at_most` of them: a server could go on
    /// without end. An empty path is the login directory.
    pub async fn list(&self, path: &str, at_most: usize) -> Result<Vec<DirectoryEntry>, DestinationError> {
        let what = || format!("READDIR {}", display::escaped(path));
        let opened = Request::new(kind::OPENDIR).string(or_here(path).as_bytes());
        let handle = match self.exchange.request(opened, what).await? {
            Reply::Handle(handle) => handle,
            other => return Err(failed(what(), other)),
        };
        let (mut entries, mut replies) = (Vec::new(), 0);
        let listed = loop {
            // A server that lists `.` without end is asked no more often, either.
            if entries.len() >= at_most || replies > at_most {
                break Ok(());
            }
            replies += 1;
            match self.exchange.request(Request::new(kind::READDIR).string(&handle), what).await {
                Ok(Reply::Names(names)) if names.is_empty() => break Ok(()),
                Ok(Reply::Names(names)) => entries.extend(
                    names.into_iter().filter(|(name, _)| !matches!(&name[..], b"." | b"..")).map(|(name, raw)| {
                        DirectoryEntry { name: String::from_utf8_lossy(&name).into_owned(), attributes: raw.into() }
                    }),
                ),
                Ok(Reply::Status { code: EOF, .. }) => break Ok(()),
                Ok(other) => break Err(failed(what(), other)),
                Err(error) => break Err(error),
            }
        };
        // A listing that came whole is good whatever CLOSE says.
        let closed = self.exchange.request(Request::new(kind::CLOSE).string(&handle), what).await;
        listed?;
        closed?;
        entries.truncate(at_most);
        Ok(entries)
    }

    /// The absolute path, links resolved as far as the server does. An empty path is the login directory.
    pub async fn realpath(&self, path: &str) -> Result<String, DestinationError> {
        let what = || format!("REALPATH {}", display::escaped(path));
        let request = Request::new(kind::REALPATH).string(or_here(path).as_bytes());
        match self.exchange.request(request, what).await? {
            Reply::Names(names) if names.len() == 1 => String::from_utf8(names[0].0.to_vec())
                .map_err(|_| DestinationError::from_status(what(), FAILURE, "the path is not UTF-8")),
            other => Err(failed(what(), other)),
        }
    }

    /// `statvfs@openssh.com` (OpenSSH PROTOCOL, section 4.4). `None` where the server does not have it.
    pub async fn free_space(&self, path: &str) -> Result<Option<FreeSpace>, DestinationError> {
        if !self.features.statvfs {
            return Ok(None);
        }
        let what = || format!("STATVFS {}", display::escaped(path));
        let request = Request::extended("statvfs@openssh.com").string(or_here(path).as_bytes());
        match self.exchange.request(request, what).await? {
            Reply::Extended(mut body) => {
                // bsize, frsize, blocks, bfree, bavail, files, ffree, favail, …
                let mut fields = [0; 8];
                for field in &mut fields {
                    *field =
                        wire::u64(&mut body).map_err(|error| DestinationError::session(what(), error.to_string()))?;
                }
                Ok(Some(FreeSpace { bytes: fields[1].saturating_mul(fields[4]), inodes: fields[7] }))
            }
            Reply::Status { code: UNSUPPORTED, .. } => Ok(None),
            other => Err(failed(what(), other)),
        }
    }

    /// A request that is answered with a status.
    async fn done(&self, request: Request, what: impl Fn() -> String) -> Result<(), DestinationError> {
        match self.exchange.request(request, &what).await? {
            Reply::Status { code: OK, .. } => Ok(()),
            other => Err(failed(what(), other)),
        }
    }
}

const STARTING: &str = "starting SFTP";
/// OpenSSH PROTOCOL, section 4.8.
const LIMITS: &str = "limits@openssh.com";

/// What is sent before the server said anything: INIT, and to OpenSSH, which knows or refuses it, the question for its
/// limits, which saves a round trip. Its number is 0, which no later request has.
pub(super) fn greeting(server: &str) -> Bytes {
    let mut greeting = BytesMut::from(&wire::init()[..]);
    if is_openssh(server) {
        greeting.extend_from_slice(&Request::extended(LIMITS).numbered(0).head);
    }
    greeting.freeze()
}

fn is_openssh(server: &str) -> bool {
    server.starts_with("SSH-2.0-OpenSSH_")
}

/// The next packet of a session that is being started.
async fn next_packet(read: &mut ChannelReadHalf, buffer: &mut BytesMut) -> Result<Bytes, DestinationError> {
    loop {
        // A shell that prints at login is met here: its text is no packet.
        let packet = wire::take_packet(buffer).map_err(|error| {
            DestinationError::refusal(STARTING, error.to_string())
                .hint("look for a start-up file on the server that prints something at every login")
        })?;
        if let Some(packet) = packet {
            return Ok(packet);
        }
        match read.wait().await {
            Some(ChannelMsg::Data { data }) => buffer.extend_from_slice(&data),
            Some(ChannelMsg::Eof | ChannelMsg::Close) | None => {
                return Err(DestinationError::session(STARTING, "the connection was lost"));
            }
            Some(_) => {}
        }
    }
}

/// A server that announces its limits and does not tell them keeps the safe lengths.
fn limited(features: Features, reply: Reply) -> Features {
    let Reply::Extended(mut body) = reply else { return features };
    let mut next = || wire::u64(&mut body);
    match (next(), next(), next(), next()) {
        (Ok(packet), Ok(read), Ok(write), Ok(handles)) => features.limited(packet, read, write, handles),
        _ => features,
    }
}

const OK: u32 = 0;
const EOF: u32 = 1;
const NO_SUCH_FILE: u32 = 2;
const FAILURE: u32 = 4;
const UNSUPPORTED: u32 = 8;

/// The error that a reply of the wrong kind, or a status, stands for.
fn failed(what: String, reply: Reply) -> DestinationError {
    match reply {
        Reply::Status { code, message } => DestinationError::from_status(what, code, &message),
        _ => DestinationError::session(what, "the server answered with a packet of the wrong type"),
    }
}

fn on_file(operation: &str, file: &RemoteFile) -> String {
    format!("{operation} {}", display::escaped(file.path.as_str()))
}

fn between(operation: &str, from: &RemotePath, to: &RemotePath) -> String {
    format!("{operation} {} to {}", display::escaped(from.as_str()), display::escaped(to.as_str()))
}

fn two_paths(request: Request, from: &RemotePath, to: &RemotePath) -> Request {
    request.string(from.as_str().as_bytes()).string(to.as_str().as_bytes())
}

fn or_here(path: &str) -> &str {
    if path.is_empty() { "." } else { path }
}
