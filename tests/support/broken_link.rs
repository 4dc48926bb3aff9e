//! A link that fails on purpose: a TCP relay on loopback that breaks each connection in a way of the test's choice,
//! after so many bytes from the client.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What becomes of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    Never,
    /// Both sides get a RST once the client has sent so many bytes; the server may not have seen the last of them.
    Reset {
        after: u64,
    },
    /// The server gets exactly so many bytes, and its end; the client gets a RST, and no reply to the last of them.
    ResetBehind {
        after: u64,
    },
    /// Half-open: from then on nothing arrives on either side, and nobody is told.
    Vanish {
        after: u64,
    },
    /// The same for the way back only: the server sees all, and its replies are lost.
    RepliesVanish {
        after: u64,
    },
    /// Nothing arrives for so long, then all of it.
    Stall {
        after: u64,
        pause: Duration,
    },
    /// Each byte in a packet of its own, both ways.
    Dribble,
}

/// Relays until it is dropped; then every connection is closed.
pub struct BrokenLink {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// The most that any connection's client has sent.
    longest: Arc<AtomicU64>,
    _runtime: Runtime,
}

impl BrokenLink {
    /// `plan` says what becomes of each connection; they are counted from 0.
    pub fn start(target: SocketAddr, plan: impl Fn(usize) -> Break + Send + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, longest) = (Arc::<AtomicUsize>::default(), Arc::<AtomicU64>::default());
        let (counted, measured) = (connections.clone(), longest.clone());
        runtime.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        // A client that went away before it was accepted is none.
                        let Ok((client, _)) = accepted else { continue };
                        let breaks = plan(counted.fetch_add(1, Ordering::SeqCst));
                        open.spawn(relay(client, target, breaks, measured.clone()));
                    }
                    Some(_) = open.join_next() => {}
                }
            }
        });
        Self { address, connections, longest, _runtime: runtime }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that were made through it so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The most bytes that any client sent on one connection.
    pub fn longest(&self) -> u64 {
        self.longest.load(Ordering::SeqCst)
    }
}

async fn relay(mut client: TcpStream, target: SocketAddr, breaks: Break, longest: Arc<AtomicU64>) -> io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mute = CancellationToken::new();
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = up(from_client, to_server, breaks, &mute, &longest);
        tokio::select! {
            ended = up => ended?,
            // Where the server ends, the client hears of it; an upload that goes on is of no more use.
            downed = down(from_server, to_client, breaks, &mute) => { downed?; Ended::ByThem }
        }
    };
    match (ended, breaks) {
        (Ended::ByUs, Break::Reset { .. }) => {
            client.set_zero_linger()?;
            server.set_zero_linger()?;
        }
        (Ended::ByUs, _) => {
            server.shutdown().await?;
            // The server has taken in what it was sent once it closes its side.
            let _ = tokio::time::timeout(Duration::from_secs(1), drain(&mut server)).await;
            client.set_zero_linger()?;
        }
        (Ended::ByThem, _) => {}
    }
    Ok(())
}

enum Ended {
    ByUs,
    ByThem,
}

async fn drain(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

async fn up(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    breaks: Break,
    mute: &CancellationToken,
    longest: &AtomicU64,
) -> io::Result<Ended> {
    let mut buffer = vec![0; 16 * 1024];
    let mut passed = 0;
    let after = match breaks {
        Break::Reset { after } | Break::ResetBehind { after } | Break::Vanish { after } => after,
        Break::RepliesVanish { after } | Break::Stall { after, .. } => after,
        Break::Never | Break::Dribble => u64::MAX,
    };
    loop {
        if passed == after {
            match breaks {
                Break::Reset { .. } | Break::ResetBehind { .. } => return Ok(Ended::ByUs),
                Break::Vanish { .. } | Break::RepliesVanish { .. } => mute.cancel(),
                Break::Stall { pause, .. } => tokio::time::sleep(pause).await,
                Break::Never | Break::Dribble => {}
            }
        }
        let room = if passed < after { buffer.len().min((after - passed) as usize) } else { buffer.len() };
        let count = from.read(&mut buffer[..room]).await?;
        if count == 0 {
            to.shutdown().await?;
            // The way back ends it.
            return std::future::pending().await;
        }
        passed += count as u64;
        longest.fetch_max(passed, Ordering::SeqCst);
        if mute.is_cancelled() && matches!(breaks, Break::Vanish { .. }) {
            continue;
        }
        send(&mut to, &buffer[..count], breaks).await?;
    }
}

async fn down(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    breaks: Break,
    mute: &CancellationToken,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        match count {
            // Not even the end arrives.
            _ if mute.is_cancelled() && count == 0 => return std::future::pending().await,
            _ if mute.is_cancelled() => {}
            0 => return to.shutdown().await,
            _ => send(&mut to, &buffer[..count], breaks).await?,
        }
    }
}

async fn send(to: &mut WriteHalf<'_>, bytes: &[u8], breaks: Break) -> io::Result<()> {
    match breaks {
        Break::Dribble => {
            for byte in bytes {
                to.write_all(&[*byte]).await?;
            }
            Ok(())
        }
        _ => to.write_all(bytes).await,
    }
}
