//! A server that lies: SSH by russh, so that it gets as far as a real one, and SFTP replies as bytes from the test.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use russh::keys::{Algorithm, PrivateKey};
use russh::server::{self, Auth, ChannelOpenHandle, Handler, Msg, Response, Session};
use russh::{Channel, ChannelId, Disconnect, MethodKind, MethodSet, Preferred, SshId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::embedded::{PASSWORD, USER};
use super::env::{TestEnv, write};

/// How it misbehaves. The default is a server that lets in and answers every request with what the client hopes for.
pub struct Manners {
    /// `SSH-2.0-…`
    pub identification: String,
    pub algorithms: Preferred,
    pub method: MethodKind,
    pub banner: Option<String>,
    /// Text of the question of keyboard-interactive, and of its name and instructions.
    pub prompt: String,
    /// Instead of an answer to the password.
    pub farewell: Option<String>,
    /// SSH_MSG_DEBUG, so many times, once logged in.
    pub debug: (usize, String),
    /// On the channel of SFTP, so many bytes without an end, before its request is granted.
    pub babble: usize,
    /// As many channels of each kind are opened towards the client.
    pub channels: usize,
    /// Packets (without their lengths) in reply to one (without its length); `None` for the usual ones.
    pub reply: Box<Reply>,
}

pub type Reply = dyn Fn(&[u8]) -> Option<Vec<Vec<u8>>> + Send + Sync;

impl Default for Manners {
    fn default() -> Self {
        Self {
            identification: "SSH-2.0-hostile".into(),
            algorithms: Preferred::default(),
            method: MethodKind::Password,
            banner: None,
            prompt: "Password: ".into(),
            farewell: None,
            debug: (0, String::new()),
            babble: 0,
            channels: 0,
            reply: Box::new(|_| None),
        }
    }
}

/// What it saw of its clients.
#[derive(Debug, Default)]
pub struct Seen {
    /// Types and paths of all SFTP requests that have paths.
    pub paths: Vec<(u8, String)>,
    /// Channels that the client let it open.
    pub channels: Vec<&'static str>,
    pub refused: usize,
    pub passwords: Vec<String>,
}

/// Listens until it is dropped. Its host key is in `home/.ssh/known_hosts`; the password is [`PASSWORD`].
pub struct Hostile {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    _runtime: Runtime,
}

impl Hostile {
    pub fn start(env: &TestEnv, manners: Manners) -> Self {
        let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let line = format!("[127.0.0.1]:{} {}\n", address.port(), key.public_key().to_openssh().unwrap());
        write(&env.home(), ".ssh/known_hosts", line);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let manners = Arc::new(manners);
        let config = Arc::new(server::Config {
            server_id: SshId::Standard(manners.identification.clone().into()),
            keys: vec![key],
            methods: MethodSet::from(&[manners.method][..]),
            preferred: manners.algorithms.clone(),
            auth_rejection_time: std::time::Duration::ZERO,
            ..server::Config::default()
        });
        let shared = seen.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let peer = Peer { manners: manners.clone(), seen: shared.clone(), channel: None };
                let config = config.clone();
                tokio::spawn(async move {
                    // How a connection of this server ends is the client's matter.
                    if let Ok(session) = server::run_stream(config, stream, peer).await {
                        let _ = session.await;
                    }
                });
            }
        });
        Self { address, seen, _runtime: runtime }
    }

    /// What `--to` takes; `path` begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("sftp://{USER}@{}{path}", self.address)
    }

    pub fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }
}

struct Peer {
    manners: Arc<Manners>,
    seen: Arc<Mutex<Seen>>,
    channel: Option<Channel<Msg>>,
}

impl Handler for Peer {
    type Error = russh::Error;

    async fn authentication_banner(&mut self) -> Result<Option<String>, Self::Error> {
        Ok(self.manners.banner.clone())
    }

    async fn auth_password(&mut self, _: &str, password: &str) -> Result<Auth, Self::Error> {
        self.seen.lock().unwrap().passwords.push(password.to_owned());
        Ok(if password == PASSWORD { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _: &str,
        _: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        let Some(mut answers) = response else {
            let text = self.manners.prompt.clone();
            let prompts = vec![(text.clone().into(), false)].into();
            return Ok(Auth::Partial { name: text.clone().into(), instructions: text.into(), prompts });
        };
        Ok(if answers.next().is_some_and(|answer| &answer[..] == PASSWORD.as_bytes()) {
            Auth::Accept
        } else {
            Auth::reject()
        })
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), Self::Error> {
        if let Some(text) = &self.manners.farewell {
            return session.disconnect(Disconnect::ByApplication, text, "");
        }
        for _ in 0..self.manners.debug.0 {
            session.debug(true, &self.manners.debug.1, "")?;
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channel = Some(channel);
        reply.accept().await;
        let (handle, seen, times) = (session.handle(), self.seen.clone(), self.manners.channels);
        tokio::spawn(async move {
            for _ in 0..times {
                let attempts = [
                    ("session", handle.channel_open_session().await),
                    ("agent", handle.channel_open_agent().await),
                    ("x11", handle.channel_open_x11("127.0.0.1", 6000).await),
                    ("forwarded", handle.channel_open_forwarded_tcpip("localhost", 1, "127.0.0.1", 2).await),
                    ("direct", handle.channel_open_direct_tcpip("localhost", 22, "127.0.0.1", 2).await),
                    ("socket", handle.channel_open_direct_streamlocal("/run/x").await),
                    ("forwarded socket", handle.channel_open_forwarded_streamlocal("/run/x").await),
                ];
                let mut seen = seen.lock().unwrap();
                for (kind, attempt) in attempts {
                    match attempt {
                        Ok(_) => seen.channels.push(kind),
                        Err(_) => seen.refused += 1,
                    }
                }
            }
        });
        Ok(())
    }

    async fn subsystem_request(&mut self, id: ChannelId, _: &str, session: &mut Session) -> Result<(), Self::Error> {
        let Some(channel) = self.channel.take() else { return session.channel_failure(id) };
        if self.manners.babble == 0 {
            session.channel_success(id)?;
        }
        let (manners, seen, handle) = (self.manners.clone(), self.seen.clone(), session.handle());
        tokio::spawn(async move {
            let mut left = manners.babble;
            while left > 0 && handle.data(id, vec![0; 32 << 10]).await.is_ok() {
                left = left.saturating_sub(32 << 10);
            }
            let (mut read, mut write) = tokio::io::split(channel.into_stream());
            let mut size = 0_u64;
            while let Ok(length) = read.read_u32().await {
                let mut packet = vec![0; length as usize];
                if read.read_exact(&mut packet).await.is_err() {
                    return;
                }
                note(&seen, &packet);
                let replies = (manners.reply)(&packet).unwrap_or_else(|| vec![usual(&packet, &mut size)]);
                for reply in replies {
                    let frame = [&(reply.len() as u32).to_be_bytes()[..], &reply].concat();
                    if write.write_all(&frame).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(())
    }
}

/// Types of requests (draft-ietf-secsh-filexfer-02, section 3).
pub mod request {
    pub const INIT: u8 = 1;
    pub const OPEN: u8 = 3;
    pub const WRITE: u8 = 6;
    pub const LSTAT: u8 = 7;
    pub const FSTAT: u8 = 8;
    pub const OPENDIR: u8 = 11;
    pub const READDIR: u8 = 12;
    pub const REMOVE: u8 = 13;
    pub const MKDIR: u8 = 14;
    pub const REALPATH: u8 = 16;
    pub const STAT: u8 = 17;
    pub const RENAME: u8 = 18;
    pub const EXTENDED: u8 = 200;
}

/// The string at the beginning of `bytes`, and what follows it.
pub fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

fn note(seen: &Mutex<Seen>, packet: &[u8]) {
    use request::*;
    let fields = packet.get(5..).unwrap_or_default();
    let (kind, fields) = match packet[0] {
        kind @ (OPEN | LSTAT | OPENDIR | REMOVE | MKDIR | 15 | REALPATH | STAT | RENAME) => (kind, fields),
        EXTENDED => match string(fields) {
            Some((b"posix-rename@openssh.com" | b"hardlink@openssh.com", rest)) => (RENAME, rest),
            _ => return,
        },
        _ => return,
    };
    let mut seen = seen.lock().unwrap();
    let mut note = |path: &[u8]| seen.paths.push((kind, String::from_utf8_lossy(path).into_owned()));
    if let Some((path, rest)) = string(fields) {
        note(path);
        if let Some((target, _)) = string(rest).filter(|_| kind == RENAME) {
            note(target);
        }
    }
}

/// A reply: type, the request's number, and fields.
pub fn reply(kind: u8, packet: &[u8], fields: &[&[u8]]) -> Vec<u8> {
    [&[kind], &packet[1..5], &fields.concat()].concat()
}

pub fn status(packet: &[u8], code: u32, text: &[u8]) -> Vec<u8> {
    reply(101, packet, &[&code.to_be_bytes(), &field(text), &field(b"")])
}

/// A string as a field.
pub fn field(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text].concat()
}

/// Attributes with a size and a mode.
pub fn attributes(size: u64, mode: u32) -> Vec<u8> {
    [&5_u32.to_be_bytes()[..], &size.to_be_bytes(), &mode.to_be_bytes()].concat()
}

/// As if all went well: files are taken in whole, directories stand, other names are free.
fn usual(packet: &[u8], size: &mut u64) -> Vec<u8> {
    use request::*;
    match packet[0] {
        INIT => [&[2][..], &3_u32.to_be_bytes()].concat(),
        OPEN | OPENDIR => {
            *size = 0;
            reply(102, packet, &[&field(b"handle")])
        }
        WRITE => {
            let data = string(&packet[5..]).and_then(|(_, rest)| string(&rest[8..])).unwrap().0;
            *size += data.len() as u64;
            status(packet, 0, b"")
        }
        FSTAT => reply(105, packet, &[&attributes(*size, 0o100_644)]),
        READDIR => status(packet, 1, b""),
        LSTAT | STAT => status(packet, 2, b""),
        REALPATH => {
            reply(104, packet, &[&1_u32.to_be_bytes(), &field(b"/base"), &field(b""), &attributes(0, 0o40_755)])
        }
        EXTENDED => status(packet, 8, b""),
        _ => status(packet, 0, b""),
    }
}
