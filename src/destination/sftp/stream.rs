//! The bytes below SSH: a stream that can be cut from outside, and that remembers how the server introduced itself.
//!
//! russh runs each connection in a task of its own that cannot be aborted, and which can hang in a write to a peer
//! that is gone. When the stream is cut, that write fails and the task ends.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Longest text looked through for the server's identification (RFC 4253, section 4.2 lets other lines come first).
const MAX_HEAD: usize = 8 * 1024;

/// What a transport is made of: TCP, a channel through another host, or a command.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// The first bytes a server sent.
#[derive(Debug, Default, Clone)]
pub struct Head(Arc<Mutex<Vec<u8>>>);

impl Head {
    /// `SSH-2.0-…`, once it has come whole.
    pub fn identification(&self) -> Option<String> {
        let head = self.0.lock().expect("no panic while held");
        let line =
            head.split_inclusive(|b| *b == b'\n').find(|line| line.starts_with(b"SSH-") && line.ends_with(b"\n"))?;
        Some(String::from_utf8_lossy(line).trim_end().to_owned())
    }

    /// What it said instead, on one line.
    pub fn other_text(&self) -> String {
        let head = self.0.lock().expect("no panic while held");
        String::from_utf8_lossy(&head[..head.len().min(200)]).trim().to_owned()
    }

    fn extend(&self, bytes: &[u8]) -> Complete {
        let mut head = self.0.lock().expect("no panic while held");
        head.extend_from_slice(bytes);
        let complete = head.len() > MAX_HEAD
            || head.split_inclusive(|b| *b == b'\n').any(|l| l.starts_with(b"SSH-") && l.ends_with(b"\n"));
        if complete { Complete::Yes } else { Complete::No }
    }
}

#[derive(PartialEq, Clone, Copy)]
enum Complete {
    Yes,
    No,
}

pub struct Severable<S> {
    inner: S,
    // One for each direction, for each may be polled by another task.
    cut_read: Pin<Box<WaitForCancellationFutureOwned>>,
    cut_write: Pin<Box<WaitForCancellationFutureOwned>>,
    head: Head,
    complete: Complete,
}

impl<S> Severable<S> {
    pub fn new(inner: S, cut: &CancellationToken, head: Head) -> Self {
        Self {
            inner,
            cut_read: Box::pin(cut.clone().cancelled_owned()),
            cut_write: Box::pin(cut.clone().cancelled_owned()),
            head,
            complete: Complete::No,
        }
    }
}

fn severed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "given up by this side")
}

impl<S: Transport> AsyncRead for Severable<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.cut_read.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(severed()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if self.complete == Complete::No {
            self.complete = self.head.extend(&buf.filled()[before..]);
        }
        read
    }
}

impl<S: Transport> AsyncWrite for Severable<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.cut_write.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(severed()));
        }
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.cut_write.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(severed()));
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
