//! A slow link: a TCP relay on loopback that delays each direction by a given time and does not limit the bandwidth.
//!
//! It stands in for the kernel's netem, which needs rights and a module that a test cannot count on. Its timers are the
//! kernel's (timerfd), for Tokio's count in milliseconds, and half a round trip of one would be up to four times as long.
//! The handshake of TCP is not delayed, for the kernel answers it before the relay hears of it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fs::Timespec;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

const CHUNK: usize = 64 * 1024;
/// Chunks on their way in one direction of one connection: 256 MiB, more than 1 GB/s keeps in the air for 200 ms.
/// Where it is full, the relay reads no more, and TCP holds the sender back.
const IN_THE_AIR: usize = 4096;

/// Relays until it is dropped; then every connection is closed.
pub struct Relay {
    address: SocketAddr,
    counts: Arc<Counts>,
    acceptor: JoinHandle<()>,
}

#[derive(Debug)]
struct Counts {
    round_trips: AtomicU64,
    /// Bytes from clients that were passed on, of all connections.
    up: AtomicU64,
    /// Once so many were, every connection is cut, and the count is at its end: later ones live.
    cut_at: AtomicU64,
}

impl Relay {
    /// On a free port of 127.0.0.1. `one_way` is half of the round trip that clients see.
    pub async fn start(target: SocketAddr, one_way: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let counts = Counts { round_trips: 0.into(), up: 0.into(), cut_at: u64::MAX.into() };
        let counts = Arc::new(counts);
        let acceptor = tokio::spawn(accept(listener, target, one_way, counts.clone()));
        Ok(Self { address, counts, acceptor })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many round trips followed each other, each with something from the client that had seen the reply before:
    /// the longest such chain of all connections. It counts causes, not time, so that it says on a slow machine, too,
    /// how often a client waited.
    pub fn round_trips(&self) -> u64 {
        self.counts.round_trips.load(Ordering::Relaxed)
    }

    /// How many bytes of clients were passed on to the server, encrypted as they are.
    pub fn bytes_up(&self) -> u64 {
        self.counts.up.load(Ordering::SeqCst)
    }

    /// Whether the cut of [`Relay::cut_after`] is still to come.
    pub fn is_armed(&self) -> bool {
        self.counts.cut_at.load(Ordering::SeqCst) != u64::MAX
    }

    /// Cuts the connection that carries the byte which is so many away from now, once.
    pub fn cut_after(&self, bytes: u64) {
        self.counts.cut_at.store(self.bytes_up() + bytes, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The connections are owned by this task and go with it.
        self.acceptor.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, one_way: Duration, counts: Arc<Counts>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(connection(client, target, one_way, counts.clone()));
                }
                // A client that went away before it was accepted.
                Err(error) => eprintln!("relay: {error}"),
            },
            // A reset connection ends with an error; both of its sides have seen that for themselves.
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(client: TcpStream, target: SocketAddr, one_way: Duration, counts: Arc<Counts>) -> io::Result<()> {
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (client_saw, server_saw) = (AtomicU64::new(0), AtomicU64::new(0));
    let up = Direction { one_way, sender_saw: &client_saw, receiver_saw: &server_saw, step: 1, counts: &counts };
    let down = Direction { one_way, sender_saw: &server_saw, receiver_saw: &client_saw, step: 0, counts: &counts };
    // An error of one direction closes both.
    tokio::try_join!(up.carry(from_client, to_server), down.carry(from_server, to_client))?;
    Ok(())
}

/// One direction of one connection, with what is needed to count round trips: each side has seen a chain of some
/// length, and what it sends belongs to that chain, or to the next round trip where the client sends.
struct Direction<'a> {
    one_way: Duration,
    sender_saw: &'a AtomicU64,
    receiver_saw: &'a AtomicU64,
    /// 1 for what clients send, 0 for replies.
    step: u64,
    counts: &'a Counts,
}

/// What is in the air, until when, and the chain that it belongs to. No bytes: the sender has closed its direction.
struct Flying {
    due: Instant,
    chain: u64,
    bytes: Option<Bytes>,
}

impl Direction<'_> {
    async fn carry(self, from: OwnedReadHalf, to: OwnedWriteHalf) -> io::Result<()> {
        let (send, queue) = mpsc::channel(IN_THE_AIR);
        tokio::try_join!(self.depart(from, send), self.arrive(queue, to))?;
        Ok(())
    }

    async fn depart(&self, mut from: OwnedReadHalf, send: mpsc::Sender<Flying>) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = from.read(&mut buffer).await?;
            let bytes = (count > 0).then(|| Bytes::copy_from_slice(&buffer[..count]));
            let chain = self.sender_saw.load(Ordering::Relaxed) + self.step;
            let flying = Flying { due: Instant::now() + self.one_way, chain, bytes };
            // It is refused only where the other side failed, which ends this one too.
            if send.send(flying).await.is_err() || count == 0 {
                return Ok(());
            }
        }
    }

    async fn arrive(&self, mut queue: mpsc::Receiver<Flying>, mut to: OwnedWriteHalf) -> io::Result<()> {
        let alarm = Alarm::new()?;
        while let Some(Flying { due, chain, bytes }) = queue.recv().await {
            alarm.at(due).await?;
            self.receiver_saw.fetch_max(chain, Ordering::Relaxed);
            let Some(bytes) = bytes else { break };
            self.counts.round_trips.fetch_max(chain, Ordering::Relaxed);
            if self.step > 0 {
                let up = self.counts.up.fetch_add(bytes.len() as u64, Ordering::SeqCst) + bytes.len() as u64;
                let cut_at = self.counts.cut_at.load(Ordering::SeqCst);
                if up >= cut_at {
                    self.counts.cut_at.store(u64::MAX, Ordering::SeqCst);
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
            to.write_all(&bytes).await?;
        }
        to.shutdown().await
    }
}

/// A timer of the kernel.
struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for what may close or change its descriptor; this cannot"
        )]
        let timer = AsyncFd::new(timer);
        timer.map(Self)
    }

    /// Waits until then.
    async fn at(&self, due: Instant) -> io::Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        // Nothing left would turn the timer off.
        if left.is_zero() {
            return Ok(());
        }
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: never, it_value: value })?;
        loop {
            let mut ready = self.0.readable().await?;
            let rang = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0; 8])?));
            if let Ok(rang) = rang {
                return rang.map(drop);
            }
        }
    }
}
