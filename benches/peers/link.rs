//! The slow link as a process of its own, so that what is in the air does not count as this program's memory.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::relay::Relay;

/// A relay that runs until this is dropped, or this program is gone: then its standard input ends.
pub struct Link {
    process: Child,
    port: u16,
}

impl Link {
    pub fn start(to: u16, round_trip: Duration) -> Result<Self> {
        let one_way = (round_trip / 2).as_micros().to_string();
        let mut process = Command::new(std::env::current_exe()?)
            .args(["--relay", &to.to_string(), "--one-way-us", &one_way])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("it is piped")).read_line(&mut line)?;
        Ok(Self { process, port: line.trim().parse().context("the relay did not start")? })
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// What the relay's process does: says its port and relays until standard input ends.
pub fn be(to: u16, one_way: Duration) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let relay = runtime.block_on(Relay::start(SocketAddr::from((Ipv4Addr::LOCALHOST, to)), one_way))?;
    println!("{}", relay.address().port());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
