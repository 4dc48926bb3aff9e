//! The ledger that replicas share: a Redis server of one run's own, empty at its start.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::link::Link;
use crate::port::Port;
use crate::redis::Redis;
use crate::statistics;

/// How often a round trip is measured.
const PINGS: u32 = 100;

pub struct SharedLedger {
    // Dropped in this order.
    link: Option<Link>,
    port: Port,
    _server: Redis,
}

impl SharedLedger {
    /// On loopback, or so far away. Each change is on its disk, which is memory here, before it answers.
    pub fn start(away: Option<Duration>) -> Result<Self> {
        let port = Port::reserve();
        let server = Redis::start_with(&["--bind", "127.0.0.1", "--port", &port.number().to_string()]);
        let link = away.map(|round_trip| Link::start(port.number(), round_trip)).transpose()?;
        Ok(Self { link, port, _server: server })
    }

    fn port(&self) -> u16 {
        self.link.as_ref().map_or(self.port.number(), Link::port)
    }

    /// As `--ledger` takes it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port())
    }

    /// What a client sees between a command and its reply: the median of many.
    pub fn round_trip(&self) -> Result<Duration> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port()))?;
        stream.set_nodelay(true)?;
        let mut replies = BufReader::new(stream.try_clone()?);
        let mut seconds = Vec::new();
        for _ in 0..PINGS {
            let (begin, mut reply) = (Instant::now(), String::new());
            stream.write_all(b"PING\r\n")?;
            replies.read_line(&mut reply)?;
            ensure!(reply == "+PONG\r\n", "Redis answers PING with {reply:?}");
            seconds.push(begin.elapsed().as_secs_f64());
        }
        Ok(Duration::from_secs_f64(statistics::median(&seconds)))
    }
}
