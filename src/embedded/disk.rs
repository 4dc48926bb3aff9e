//! The requests of one SFTP session as system calls. Everything here blocks; `session` calls it on a thread made for
//! that.
//!
//! Status codes are those of OpenSSH's `sftp-server.c` (`errno_to_portable`), so that a client cannot tell the two
//! apart.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use russh_sftp::protocol::*;
use rustix::fs::{
    AtFlags, Dir, FileType as Kind, Mode, OFlags, RenameFlags, fstat, fstatvfs, fsync, linkat, mkdirat, readlinkat,
    renameat, renameat_with, statat, symlinkat, unlinkat,
};
use rustix::io::{Errno, pread, pwrite};

use super::attributes;
use super::confined::Root;
use super::extended::{self, Call, MAX_DATA_BYTES, MAX_HANDLES};
use super::quirks::{AnnouncedExtensions, HardlinkPolicy, Quirks, RenamePolicy, SetstatPolicy};
use super::quota::Quota;
use super::walk::Last;

/// What all sessions of a server share.
pub(super) struct Store {
    pub(super) root: Root,
    pub(super) quirks: Quirks,
    pub(super) quota: Option<Quota>,
}

/// One session: the store and the handles it has open.
pub(super) struct Disk {
    store: Arc<Store>,
    open: HashMap<String, Open>,
    /// Handles are numbered and never used again.
    next_handle: u64,
}

struct Open {
    /// As the client wrote it, for the faults and the log.
    path: String,
    what: Opened,
}

enum Opened {
    File(OwnedFd),
    Directory(Dir),
}

/// Entries in one NAME packet at most: with names of 255 bytes, twice each, it stays below the largest packet.
const ENTRIES_PER_REPLY: usize = 128;

/// A status other than OK.
#[derive(Debug)]
pub(super) struct Refusal(StatusCode, String);

impl From<StatusCode> for Refusal {
    fn from(code: StatusCode) -> Self {
        Self(code, code.to_string())
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        let code = match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::BADF | Errno::LOOP => StatusCode::NoSuchFile,
            Errno::PERM | Errno::ACCESS | Errno::FAULT => StatusCode::PermissionDenied,
            Errno::NAMETOOLONG | Errno::INVAL => StatusCode::BadMessage,
            Errno::NOSYS => StatusCode::OpUnsupported,
            _ => StatusCode::Failure,
        };
        Self(code, std::io::Error::from(errno).to_string())
    }
}

fn refused(code: StatusCode, why: &str) -> Refusal {
    Refusal(code, why.to_owned())
}

type Outcome<T = ()> = Result<T, Refusal>;

impl Disk {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store, open: HashMap::new(), next_handle: 0 }
    }

    /// The path a handle was opened by; empty for no handle of ours.
    pub(super) fn path_of(&self, handle: &str) -> String {
        self.open.get(handle).map(|open| open.path.clone()).unwrap_or_default()
    }

    /// Carries a request out and gives the one packet that answers it.
    pub(super) fn answer(&mut self, packet: Packet) -> Packet {
        let id = packet.get_request_id();
        self.carry_out(packet).unwrap_or_else(|Refusal(code, why)| Packet::status(id, code, &why, "en"))
    }

    fn carry_out(&mut self, packet: Packet) -> Outcome<Packet> {
        let id = packet.get_request_id();
        match packet {
            Packet::Init(_) => {
                let extensions = extended::announced(&self.store.quirks);
                return Ok(Version { extensions, ..Version::new() }.into());
            }
            Packet::Open(p) => {
                let file = self.open_file(&p)?;
                return self.keep(id, p.filename, Opened::File(file));
            }
            Packet::OpenDir(p) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let directory = Dir::new(self.store.root.open_file(&p.path, flags, Mode::empty())?)?;
                return self.keep(id, p.path, Opened::Directory(directory));
            }
            Packet::Read(p) => return Ok(Data { id, data: self.read(&p)? }.into()),
            Packet::ReadDir(p) => return Ok(Name { id, files: self.read_directory(&p.handle)? }.into()),
            Packet::Stat(p) => return self.stat(id, &p.path, Last::Follow),
            Packet::Lstat(p) => return self.stat(id, &p.path, Last::Keep),
            Packet::Fstat(p) => return Ok(Attrs { id, attrs: attributes::of(&self.fstat(&p.handle)?) }.into()),
            Packet::RealPath(p) => return Ok(name_only(id, self.store.root.canonical(&p.path)?)),
            Packet::ReadLink(p) => {
                let (parent, name) = self.store.root.entry(&p.path)?;
                let target = readlinkat(parent, name, Vec::new())?;
                return Ok(name_only(id, target.to_string_lossy().into_owned()));
            }
            Packet::Extended(p) => return self.extended(id, &p),
            Packet::Close(p) => {
                self.open.remove(&p.handle).ok_or_else(no_handle)?;
            }
            Packet::Write(p) => self.write(&p)?,
            Packet::SetStat(p) => {
                self.may_set_attributes()?;
                let flags = if p.attrs.size.is_some() { OFlags::WRONLY | OFlags::NONBLOCK } else { OFlags::PATH };
                attributes::apply(self.store.root.open_file(&p.path, flags, Mode::empty())?, &p.attrs)?;
            }
            Packet::FSetStat(p) => {
                self.may_set_attributes()?;
                match &self.opened(&p.handle)?.what {
                    Opened::File(file) => attributes::apply(file, &p.attrs)?,
                    Opened::Directory(directory) => attributes::apply(directory.fd()?, &p.attrs)?,
                }
            }
            Packet::Remove(p) => {
                let (parent, name) = self.store.root.entry(&p.filename)?;
                unlinkat(parent, name, AtFlags::empty())?;
            }
            Packet::MkDir(p) => {
                let (parent, name) = self.store.root.entry(&p.path)?;
                mkdirat(parent, name, attributes::creation_mode(&p.attrs, 0o777))?;
            }
            Packet::RmDir(p) => {
                let (parent, name) = self.store.root.entry(&p.path)?;
                unlinkat(parent, name, AtFlags::REMOVEDIR)?;
            }
            Packet::Rename(p) => match self.store.quirks.rename {
                RenamePolicy::RefusesExisting => self.rename_to_free(&p.oldpath, &p.newpath)?,
                RenamePolicy::Overwrites => self.rename_over(&p.oldpath, &p.newpath)?,
                RenamePolicy::Unsupported => return Err(StatusCode::OpUnsupported.into()),
            },
            // The draft has the link first. OpenSSH has always sent and taken the target first (its PROTOCOL file,
            // section 4.1), and so does everyone who talks to it.
            Packet::Symlink(p) => self.symlink(&p.linkpath, &p.targetpath)?,
            _ => return Err(StatusCode::BadMessage.into()),
        }
        Ok(Packet::error(id, StatusCode::Ok))
    }

    fn keep(&mut self, id: u32, path: String, what: Opened) -> Outcome<Packet> {
        if self.open.len() >= MAX_HANDLES {
            return Err(refused(StatusCode::Failure, "too many open handles"));
        }
        let handle = self.next_handle.to_string();
        self.next_handle += 1;
        self.open.insert(handle.clone(), Open { path, what });
        Ok(Handle { id, handle }.into())
    }

    fn opened(&self, handle: &str) -> Outcome<&Open> {
        self.open.get(handle).ok_or_else(no_handle)
    }

    fn file(&self, handle: &str) -> Outcome<&OwnedFd> {
        match &self.opened(handle)?.what {
            Opened::File(file) => Ok(file),
            Opened::Directory(_) => Err(no_handle()),
        }
    }

    fn open_file(&self, request: &russh_sftp::protocol::Open) -> Outcome<OwnedFd> {
        let wants = |flag| request.pflags.contains(flag);
        let access = match (wants(OpenFlags::READ), wants(OpenFlags::WRITE)) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            (_, false) => OFlags::RDONLY,
        };
        let mut flags = access;
        flags.set(OFlags::CREATE, wants(OpenFlags::CREATE));
        flags.set(OFlags::EXCL, wants(OpenFlags::CREATE) && wants(OpenFlags::EXCLUDE));
        flags.set(OFlags::TRUNC, wants(OpenFlags::TRUNCATE));
        flags.set(OFlags::APPEND, wants(OpenFlags::APPEND));
        // A FIFO without a reader must not hold the session up.
        flags |= OFlags::NONBLOCK;
        let mode = attributes::creation_mode(&request.attrs, 0o666);
        let file = self.store.root.open_file(&request.filename, flags, mode)?;
        if Kind::from_raw_mode(fstat(&file)?.st_mode) != Kind::RegularFile {
            return Err(refused(StatusCode::Failure, "not a regular file"));
        }
        Ok(file)
    }

    fn read(&self, request: &Read) -> Outcome<Vec<u8>> {
        let mut data = vec![0; request.len.min(MAX_DATA_BYTES) as usize];
        let read = pread(self.file(&request.handle)?, data.as_mut_slice(), request.offset)?;
        if read == 0 {
            return Err(StatusCode::Eof.into());
        }
        data.truncate(read);
        Ok(data)
    }

    fn write(&self, request: &Write) -> Outcome {
        let file = self.file(&request.handle)?;
        let end = request.offset.saturating_add(request.data.len() as u64);
        if let Some(quota) = &self.store.quota
            && !quota.admits(end.saturating_sub(fstat(file)?.st_size as u64))
        {
            return Err(Errno::DQUOT.into());
        }
        let mut rest = request.data.as_slice();
        while !rest.is_empty() {
            let written = pwrite(file, rest, end - rest.len() as u64)?;
            rest = &rest[written..];
        }
        Ok(())
    }

    fn fstat(&self, handle: &str) -> Outcome<rustix::fs::Stat> {
        Ok(match &self.opened(handle)?.what {
            Opened::File(file) => fstat(file)?,
            Opened::Directory(directory) => directory.stat()?,
        })
    }

    fn stat(&self, id: u32, path: &str, last: Last) -> Outcome<Packet> {
        let stat = fstat(self.store.root.look(path, last)?)?;
        Ok(Attrs { id, attrs: attributes::of(&stat) }.into())
    }

    /// The next entries, `.` and `..` among them, as OpenSSH lists them. Names that are not UTF-8 show U+FFFD.
    fn read_directory(&mut self, handle: &str) -> Outcome<Vec<File>> {
        let Some(Open { what: Opened::Directory(directory), .. }) = self.open.get_mut(handle) else {
            return Err(no_handle());
        };
        let mut entries = Vec::new();
        while entries.len() < ENTRIES_PER_REPLY
            && let Some(entry) = directory.read()
        {
            let entry = entry?;
            // An entry that vanished since is none.
            if let Ok(stat) = statat(directory.fd()?, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                entries.push(attributes::entry(entry.file_name().to_string_lossy().into_owned(), &stat));
            }
        }
        if entries.is_empty() { Err(StatusCode::Eof.into()) } else { Ok(entries) }
    }

    fn may_set_attributes(&self) -> Outcome {
        match self.store.quirks.setstat {
            SetstatPolicy::Honoured => Ok(()),
            SetstatPolicy::Refused => Err(StatusCode::PermissionDenied.into()),
        }
    }

    /// Atomic: of two that rename to the same name, one fails.
    fn rename_to_free(&self, old: &str, new: &str) -> Outcome {
        let (old_parent, old_name) = self.store.root.entry(old)?;
        let (new_parent, new_name) = self.store.root.entry(new)?;
        match renameat_with(&old_parent, old_name, &new_parent, new_name, RenameFlags::NOREPLACE) {
            // A filesystem without RENAME_NOREPLACE: a hard link refuses an existing name as well.
            Err(Errno::INVAL | Errno::NOSYS) => {
                linkat(&old_parent, old_name, new_parent, new_name, AtFlags::empty())?;
                unlinkat(old_parent, old_name, AtFlags::empty())?;
            }
            outcome => outcome?,
        }
        Ok(())
    }

    fn rename_over(&self, old: &str, new: &str) -> Outcome {
        let (old_parent, old_name) = self.store.root.entry(old)?;
        let (new_parent, new_name) = self.store.root.entry(new)?;
        Ok(renameat(old_parent, old_name, new_parent, new_name)?)
    }

    /// A link is made only where its text, read by anyone on this machine, stays below the root: so it has to be
    /// relative, and climb no higher than the root.
    fn symlink(&self, target: &str, link: &str) -> Outcome {
        let (parent, name) = self.store.root.entry(link)?;
        let link =
            self.store.root.canonical(link.trim_end_matches('/').rsplit_once('/').map_or(".", |(dir, _)| dir))?;
        let mut depth = link.split('/').filter(|part| !part.is_empty()).count();
        for part in target.split('/').filter(|part| !matches!(*part, "" | ".")) {
            depth = match part {
                ".." => depth.checked_sub(1).ok_or_else(leads_out)?,
                _ => depth + 1,
            };
        }
        if target.starts_with('/') {
            return Err(leads_out());
        }
        Ok(symlinkat(target, parent, name)?)
    }

    fn extended(&self, id: u32, request: &Extended) -> Outcome<Packet> {
        let quirks = &self.store.quirks;
        let announced = extended::announced(quirks);
        if quirks.extensions != AnnouncedExtensions::All && !announced.contains_key(&request.request) {
            return Err(StatusCode::OpUnsupported.into());
        }
        match Call::decode(&request.request, &request.data).ok_or(StatusCode::OpUnsupported)? {
            Call::PosixRename { .. } if quirks.rename == RenamePolicy::Unsupported => {
                return Err(StatusCode::OpUnsupported.into());
            }
            Call::PosixRename { old, new } => self.rename_over(&old, &new)?,
            Call::Hardlink { .. } if self.store.quirks.hardlink == HardlinkPolicy::Pretended => {}
            Call::Hardlink { old, new } => {
                let (old_parent, old_name) = self.store.root.entry(&old)?;
                let (new_parent, new_name) = self.store.root.entry(&new)?;
                linkat(old_parent, old_name, new_parent, new_name, AtFlags::empty())?;
            }
            Call::Fsync { handle } => fsync(self.file(&handle)?)?,
            Call::Statvfs { path } => {
                let found = fstatvfs(self.store.root.look(&path, Last::Follow)?)?;
                let left = self.store.quota.as_ref().map(Quota::left);
                return reply(id, &extended::statvfs(&found, left));
            }
            Call::Limits => return reply(id, &extended::limits()),
        }
        Ok(Packet::error(id, StatusCode::Ok))
    }
}

fn no_handle() -> Refusal {
    refused(StatusCode::Failure, "no such handle")
}

fn leads_out() -> Refusal {
    refused(StatusCode::PermissionDenied, "the link would lead out of the served directory")
}

fn name_only(id: u32, name: String) -> Packet {
    Name { id, files: vec![File::dummy(name)] }.into()
}

fn reply(id: u32, body: &impl serde::Serialize) -> Outcome<Packet> {
    let body = russh_sftp::ser::to_bytes(body).map_err(|_| StatusCode::Failure)?;
    Ok(ExtendedReply { id, data: body.to_vec() }.into())
}
