//! The one request of `archiver health`. No runtime and no client crate: a container's engine asks every few seconds.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::domain::display;

/// For each step.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of the reply.
const MOST_BYTES: u64 = 64 << 10;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    Alive,
    Ready,
}

impl Question {
    fn path(self) -> &'static str {
        match self {
            Self::Alive => "/healthz",
            Self::Ready => "/readyz",
        }
    }

    pub fn what_failed(self) -> &'static str {
        match self {
            Self::Alive => "the archiver is not alive",
            Self::Ready => "the archiver is not ready",
        }
    }
}

/// An error says what was answered, or why nothing was.
pub fn ask(address: SocketAddr, question: Question) -> Result<(), String> {
    let reply = exchange(address, question.path()).map_err(|error| format!("{address}: {error}"))?;
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(()),
        Some("503") => Err(body.trim_end().to_owned()),
        _ => {
            let line = head.lines().next().unwrap_or_default();
            Err(format!("{address}: this is no answer of an archiver: {}", display::escaped(line)))
        }
    }
}

fn exchange(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut reply = Vec::new();
    stream.take(MOST_BYTES).read_to_end(&mut reply)?;
    Ok(String::from_utf8_lossy(&reply).into_owned())
}
