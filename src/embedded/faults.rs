//! Faults on purpose: a hook that sees each request before it is carried out and decides what goes wrong.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use russh_sftp::protocol::{Packet, StatusCode};
use tokio::sync::Notify;

use super::extended;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Init,
    Open,
    Close,
    Read,
    Write,
    Lstat,
    Fstat,
    Setstat,
    Fsetstat,
    Opendir,
    Readdir,
    Remove,
    Mkdir,
    Rmdir,
    Realpath,
    Stat,
    Rename,
    Readlink,
    Symlink,
    PosixRename,
    Hardlink,
    Fsync,
    Statvfs,
    Limits,
    /// An extended request that this server does not know, or no request at all.
    Unknown,
}

/// One request, as the hook sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The number that its reply has to have; the version where INIT has one.
    pub id: u32,
    /// SSH connections are counted from 0 in the order in which they came.
    pub connection: u64,
    pub operation: Operation,
    /// As the client wrote it; for requests on a handle, the path it was opened by. Empty where there is none.
    pub path: String,
    /// The new name of RENAME, `posix-rename` and `hardlink`; the target of SYMLINK. Empty for all others.
    pub target: String,
    /// Of READ and WRITE, in bytes; 0 for all others.
    pub offset: u64,
    /// Of READ (asked for) and WRITE (sent), in bytes; 0 for all others.
    pub length: u64,
}

/// What goes wrong with one request.
#[derive(Debug, Clone)]
pub enum Fault {
    None,
    /// Not carried out; answered with this status.
    Status(StatusCode),
    /// Not carried out, yet answered with `SSH_FX_OK`: a server that lies. Only for requests that a status answers.
    Pretend,
    /// Not carried out; the TCP connection closes without a word.
    DropConnection,
    /// Carried out, then the TCP connection closes without a word.
    DropAfter,
    /// Carried out, and never answered; the session goes on.
    ReplyLost,
    /// Carried out and answered so much later, with all that follows behind it.
    Delay(Duration),
    /// Carried out and answered so much later; what follows is answered meanwhile, so that replies change places.
    Late(Duration),
    /// Not carried out; these bytes are sent instead of a reply, whatever they are.
    Raw(Bytes),
    /// Carried out, and then answered with these bytes.
    RawAfter(Bytes),
    /// Not carried out; these bytes are sent without end, as fast as the client takes them.
    Flood(Bytes),
    /// Carried out once someone calls `notify_one`, or when the server shuts down.
    Hold(Arc<Notify>),
    /// As `Hold`, also where the connection has ended by then: a server that is slow, and carries out what it was sent.
    Outlast(Arc<Notify>),
}

/// The hook. Any `Fn(&Request) -> Fault` is one. It is called in the order of each session's requests, from several
/// sessions at once, and must not block.
pub trait Faults: Send + Sync {
    fn fault(&self, request: &Request) -> Fault;
}

impl<F: Fn(&Request) -> Fault + Send + Sync> Faults for F {
    fn fault(&self, request: &Request) -> Fault {
        self(request)
    }
}

impl Request {
    /// A whole packet of this type under this request's number, with these bytes behind it.
    pub fn reply(&self, kind: u8, body: &[u8]) -> Bytes {
        let mut packet = BytesMut::with_capacity(9 + body.len());
        packet.put_u32(5 + body.len() as u32);
        packet.put_u8(kind);
        packet.put_u32(self.id);
        packet.put_slice(body);
        packet.freeze()
    }

    /// A STATUS with any code, those of later drafts and of no draft included.
    pub fn status(&self, code: u32) -> Bytes {
        const STATUS: u8 = 101;
        // Two empty strings behind it: the message and its language.
        self.reply(STATUS, &[code.to_be_bytes(), [0; 4], [0; 4]].concat())
    }

    /// `path_of` gives the path that an open handle stands for.
    pub(super) fn of(packet: &Packet, connection: u64, path_of: impl Fn(&str) -> String) -> Self {
        use Operation::*;
        let (operation, path, target) = match packet {
            Packet::Init(_) => (Init, String::new(), ""),
            Packet::Open(p) => (Open, p.filename.clone(), ""),
            Packet::Close(p) => (Close, path_of(&p.handle), ""),
            Packet::Read(p) => (Read, path_of(&p.handle), ""),
            Packet::Write(p) => (Write, path_of(&p.handle), ""),
            Packet::Lstat(p) => (Lstat, p.path.clone(), ""),
            Packet::Fstat(p) => (Fstat, path_of(&p.handle), ""),
            Packet::SetStat(p) => (Setstat, p.path.clone(), ""),
            Packet::FSetStat(p) => (Fsetstat, path_of(&p.handle), ""),
            Packet::OpenDir(p) => (Opendir, p.path.clone(), ""),
            Packet::ReadDir(p) => (Readdir, path_of(&p.handle), ""),
            Packet::Remove(p) => (Remove, p.filename.clone(), ""),
            Packet::MkDir(p) => (Mkdir, p.path.clone(), ""),
            Packet::RmDir(p) => (Rmdir, p.path.clone(), ""),
            Packet::RealPath(p) => (Realpath, p.path.clone(), ""),
            Packet::Stat(p) => (Stat, p.path.clone(), ""),
            Packet::Rename(p) => (Rename, p.oldpath.clone(), p.newpath.as_str()),
            Packet::ReadLink(p) => (Readlink, p.path.clone(), ""),
            // OpenSSH swapped the two fields of SYMLINK long ago, and everyone follows it: see `disk`.
            Packet::Symlink(p) => (Symlink, p.targetpath.clone(), p.linkpath.as_str()),
            Packet::Extended(p) => return Self::of_extended(p, connection, path_of),
            _ => (Unknown, String::new(), ""),
        };
        let (offset, length) = match packet {
            Packet::Read(p) => (p.offset, p.len.into()),
            Packet::Write(p) => (p.offset, p.data.len() as u64),
            _ => (0, 0),
        };
        Self { id: packet.get_request_id(), connection, operation, path, target: target.to_owned(), offset, length }
    }

    fn of_extended(packet: &russh_sftp::protocol::Extended, connection: u64, path_of: impl Fn(&str) -> String) -> Self {
        use extended::Call;
        let (operation, path, target) = match extended::Call::decode(&packet.request, &packet.data) {
            Some(Call::PosixRename { old, new }) => (Operation::PosixRename, old, new),
            Some(Call::Hardlink { old, new }) => (Operation::Hardlink, old, new),
            Some(Call::Fsync { handle }) => (Operation::Fsync, path_of(&handle), String::new()),
            Some(Call::Statvfs { path }) => (Operation::Statvfs, path, String::new()),
            Some(Call::Limits) => (Operation::Limits, String::new(), String::new()),
            None => (Operation::Unknown, String::new(), String::new()),
        };
        Self { id: packet.id, connection, operation, path, target, offset: 0, length: 0 }
    }
}
