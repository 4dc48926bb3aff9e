//! Packets of SFTP version 3 (draft-ietf-secsh-filexfer-02), as bytes.
//!
//! russh-sftp's own client decodes strings as UTF-8 with replacements, which mangles handles (opaque bytes; OpenSSH's
//! 129th open file has one that is no UTF-8), and ends the session at a status code above 8, which servers do send for
//! a full disk. It also copies each WRITE twice. So requests and replies are put together and taken apart here.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The protocol version that everybody speaks.
pub const VERSION: u32 = 3;
/// The longest packet accepted from a server; READ replies are at most `read_len` and a header.
pub const MAX_PACKET: usize = 1 << 20;

/// The longest handle (section 6.2).
const MAX_HANDLE: usize = 256;

/// Packet types (section 3).
pub mod kind {
    pub const INIT: u8 = 1;
    pub const VERSION: u8 = 2;
    pub const OPEN: u8 = 3;
    pub const CLOSE: u8 = 4;
    pub const READ: u8 = 5;
    pub const WRITE: u8 = 6;
    pub const LSTAT: u8 = 7;
    pub const FSTAT: u8 = 8;
    pub const FSETSTAT: u8 = 10;
    pub const OPENDIR: u8 = 11;
    pub const READDIR: u8 = 12;
    pub const REMOVE: u8 = 13;
    pub const MKDIR: u8 = 14;
    pub const RMDIR: u8 = 15;
    pub const REALPATH: u8 = 16;
    pub const RENAME: u8 = 18;
    pub const STATUS: u8 = 101;
    pub const HANDLE: u8 = 102;
    pub const DATA: u8 = 103;
    pub const NAME: u8 = 104;
    pub const ATTRS: u8 = 105;
    pub const EXTENDED: u8 = 200;
    pub const EXTENDED_REPLY: u8 = 201;
}

/// Flags of OPEN (section 6.3).
pub mod open_flag {
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const CREAT: u32 = 8;
    pub const EXCL: u32 = 0x20;
}

/// Flags of ATTRS (section 5).
pub mod attr_flag {
    pub const SIZE: u32 = 1;
    pub const UIDGID: u32 = 2;
    pub const PERMISSIONS: u32 = 4;
    pub const ACMODTIME: u32 = 8;
    pub const EXTENDED: u32 = 0x8000_0000;
}

/// A packet that does not follow the protocol. After one, nothing else that this server sends can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server sent an SFTP packet that does not follow the protocol")]
pub struct Malformed;

/// A request being put together. The length and the request's number are filled in when it is sent.
#[derive(Debug)]
pub struct Request {
    head: BytesMut,
    body: Bytes,
}

/// A request as it goes out: `head`, then `body`, which is the file content of a WRITE and not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub head: Bytes,
    pub body: Bytes,
}

impl Request {
    pub fn new(kind: u8) -> Self {
        let mut head = BytesMut::with_capacity(96);
        head.put_u32(0);
        head.put_u8(kind);
        head.put_u32(0);
        Self { head, body: Bytes::new() }
    }

    pub fn extended(name: &str) -> Self {
        Self::new(kind::EXTENDED).string(name.as_bytes())
    }

    /// A string that is the last field.
    pub fn content(mut self, bytes: Bytes) -> Self {
        self.head.put_u32(bytes.len() as u32);
        self.body = bytes;
        self
    }

    pub fn string(mut self, bytes: &[u8]) -> Self {
        self.head.put_u32(bytes.len() as u32);
        self.head.put_slice(bytes);
        self
    }

    pub fn u32(mut self, value: u32) -> Self {
        self.head.put_u32(value);
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.head.put_u64(value);
        self
    }

    pub fn numbered(mut self, id: u32) -> Packet {
        let length = (self.head.len() + self.body.len()) as u32 - 4;
        self.head[..4].copy_from_slice(&length.to_be_bytes());
        self.head[5..9].copy_from_slice(&id.to_be_bytes());
        Packet { head: self.head.freeze(), body: self.body }
    }
}

/// The first packet, which has a version where others have a number.
pub fn init() -> Bytes {
    Request::new(kind::INIT).numbered(VERSION).head
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawAttributes {
    pub size: Option<u64>,
    pub permissions: Option<u32>,
    pub mtime: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Status {
        code: u32,
        message: String,
    },
    Handle(Bytes),
    Data(Bytes),
    /// File names and what they have; the long names are left out.
    Names(Vec<(Bytes, RawAttributes)>),
    Attributes(RawAttributes),
    Extended(Bytes),
}

fn u8(from: &mut Bytes) -> Result<u8, Malformed> {
    from.try_get_u8().map_err(|_| Malformed)
}

pub fn u32(from: &mut Bytes) -> Result<u32, Malformed> {
    from.try_get_u32().map_err(|_| Malformed)
}

pub fn u64(from: &mut Bytes) -> Result<u64, Malformed> {
    from.try_get_u64().map_err(|_| Malformed)
}

pub fn string(from: &mut Bytes) -> Result<Bytes, Malformed> {
    let length = u32(from)? as usize;
    if from.len() < length {
        return Err(Malformed);
    }
    Ok(from.split_to(length))
}

fn attributes(from: &mut Bytes) -> Result<RawAttributes, Malformed> {
    let flags = u32(from)?;
    let mut found = RawAttributes::default();
    if flags & attr_flag::SIZE != 0 {
        found.size = Some(u64(from)?);
    }
    if flags & attr_flag::UIDGID != 0 {
        u64(from)?;
    }
    if flags & attr_flag::PERMISSIONS != 0 {
        found.permissions = Some(u32(from)?);
    }
    if flags & attr_flag::ACMODTIME != 0 {
        u32(from)?;
        found.mtime = Some(u32(from)?);
    }
    if flags & attr_flag::EXTENDED != 0 {
        for _ in 0..u32(from)? {
            string(from)?;
            string(from)?;
        }
    }
    Ok(found)
}

/// Takes one whole packet (without its length) off the front of `buffer`, once it is there.
pub fn take_packet(buffer: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
    let Some(length) = buffer.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize) else {
        return Ok(None);
    };
    if length == 0 || length > MAX_PACKET {
        return Err(Malformed);
    }
    if buffer.len() < 4 + length {
        buffer.reserve(4 + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// The number of the request, and the reply to it.
pub fn reply(mut packet: Bytes) -> Result<(u32, Reply), Malformed> {
    let kind = u8(&mut packet)?;
    let id = u32(&mut packet)?;
    let reply = match kind {
        kind::STATUS => {
            let code = u32(&mut packet)?;
            // Some servers leave the text out, as the first drafts did.
            let message = string(&mut packet).unwrap_or_default();
            Reply::Status { code, message: String::from_utf8_lossy(&message).into_owned() }
        }
        // It comes back with every request on the file, so a long one would be a burden (section 6.2).
        kind::HANDLE => Reply::Handle(string(&mut packet).and_then(|handle| match handle.len() {
            ..=MAX_HANDLE => Ok(handle),
            _ => Err(Malformed),
        })?),
        kind::DATA => Reply::Data(string(&mut packet)?),
        kind::NAME => {
            let count = u32(&mut packet)?;
            let mut names = Vec::new();
            for _ in 0..count {
                let name = string(&mut packet)?;
                string(&mut packet)?;
                names.push((name, attributes(&mut packet)?));
            }
            Reply::Names(names)
        }
        kind::ATTRS => Reply::Attributes(attributes(&mut packet)?),
        kind::EXTENDED_REPLY => Reply::Extended(packet),
        _ => return Err(Malformed),
    };
    Ok((id, reply))
}

/// The server's version and its extensions, name and value.
pub fn version(mut packet: Bytes) -> Result<(u32, Vec<(Bytes, Bytes)>), Malformed> {
    if u8(&mut packet)? != kind::VERSION {
        return Err(Malformed);
    }
    let version = u32(&mut packet)?;
    let mut extensions = Vec::new();
    while !packet.is_empty() {
        extensions.push((string(&mut packet)?, string(&mut packet)?));
    }
    Ok((version, extensions))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_write_is_laid_out_as_the_draft_says() {
        let packet = Request::new(kind::WRITE).string(b"\x80").u64(5).content(Bytes::from_static(b"ab")).numbered(7);
        assert_eq!(
            [packet.head, packet.body].concat(),
            [0, 0, 0, 24, 6, 0, 0, 0, 7, 0, 0, 0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2, b'a', b'b']
        );
        assert_eq!(init()[..], [0, 0, 0, 5, 1, 0, 0, 0, 3]);
    }

    #[test]
    fn packets_come_whole_or_not_at_all() {
        let mut buffer = BytesMut::new();
        let packet = Request::new(kind::STATUS).u32(14).string(b"full").numbered(9).head;
        for byte in &packet[..packet.len() - 1] {
            buffer.put_u8(*byte);
            assert_eq!(take_packet(&mut buffer), Ok(None));
        }
        buffer.put_u8(packet[packet.len() - 1]);
        let whole = take_packet(&mut buffer).unwrap().unwrap();
        assert_eq!(reply(whole), Ok((9, Reply::Status { code: 14, message: "full".into() })));
        assert!(buffer.is_empty());
        assert_eq!(take_packet(&mut BytesMut::from(&[0xff; 8][..])), Err(Malformed));
        assert_eq!(take_packet(&mut BytesMut::from(&[0; 8][..])), Err(Malformed));
    }

    #[test]
    fn a_handle_is_no_longer_than_the_draft_lets_it_be() {
        let handle = |length| reply(Request::new(kind::HANDLE).string(&vec![7; length]).numbered(1).head.slice(4..));
        assert_eq!(handle(256), Ok((1, Reply::Handle(vec![7; 256].into()))));
        assert_eq!(handle(257), Err(Malformed));
    }

    #[test]
    fn a_status_without_text_is_understood() {
        let packet = Request::new(kind::STATUS).u32(2).numbered(1).head.slice(4..);
        assert_eq!(reply(packet), Ok((1, Reply::Status { code: 2, message: String::new() })));
    }

    proptest! {
        #[test]
        fn nothing_a_server_sends_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 100u8..106) {
            let mut packet = vec![kind];
            packet.extend(&bytes);
            let _ = reply(Bytes::from(packet.clone()));
            packet[0] = super::kind::VERSION;
            let _ = version(Bytes::from(packet));
            let _ = take_packet(&mut BytesMut::from(&bytes[..]));
        }
    }
}
