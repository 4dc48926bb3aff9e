//! One SFTP session: frames in, frames out, in the order in which they came (draft-ietf-secsh-filexfer-02, section 3
//! lets a server reorder; this one never does), with the faults in between.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh_sftp::protocol::{Packet, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::disk::{Disk, Store};
use super::extended::{MAX_PACKET_BYTES, take_string};
use super::faults::{Fault, Faults, Request};

/// Between two pieces of a flood: whoever sends it has no bound of its own.
const FLOOD_PAUSE: Duration = Duration::from_millis(1);

pub(super) struct Sftp {
    pub(super) store: Arc<Store>,
    pub(super) faults: Option<Arc<dyn Faults>>,
    /// Number of the SSH connection.
    pub(super) connection: u64,
    /// Cuts the SSH connection, and is cancelled when it ends.
    pub(super) cut: CancellationToken,
    /// The server ends.
    pub(super) closing: CancellationToken,
}

impl Sftp {
    /// Serves until the client ends the stream, breaks the protocol or is cut off.
    ///
    /// Replies are written beside the work, never in its way. The task that carries the SSH connection both hands us
    /// the requests and takes our replies; were we to wait for it to take a reply while it waits for us to take a
    /// request, both would wait for ever. What is not taken yet is bounded by the requests that a client has open.
    pub(super) async fn run(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let (mut requests, replies) = tokio::io::split(stream);
        #[expect(clippy::disallowed_methods, reason = "a bound would be the wait that this is to avoid")]
        let (answered, to_send) = mpsc::unbounded_channel::<Bytes>();
        let serving = self.serve(&mut requests, answered);
        match futures::future::try_join(serving, self.deliver(to_send, replies)).await.map(|((), ())| ()) {
            Ok(()) => debug!("session ended"),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                warn!(%error, "session ended: the client broke the protocol");
            }
            Err(error) => debug!(%error, "session ended"),
        }
    }

    /// Writes replies until there will be no more.
    async fn deliver(
        &self,
        mut replies: mpsc::UnboundedReceiver<Bytes>,
        mut stream: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        while let Some(reply) = replies.recv().await {
            self.or_cut(write(&mut stream, reply)).await??;
        }
        Ok(())
    }

    async fn serve(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        replies: mpsc::UnboundedSender<Bytes>,
    ) -> io::Result<()> {
        let send = |bytes: Bytes| replies.send(bytes).map_err(|_| cut_off());
        let answer = |reply| send(encoded(reply)?);
        let mut disk = Disk::new(Arc::clone(&self.store));
        let mut greeted = false;
        while let Some(frame) = self.or_cut(read_frame(stream)).await?? {
            let packet = match decode(frame) {
                Ok(packet) if matches!(packet, Packet::Init(_)) != greeted => packet,
                Err(NoRequest { id, code, why }) if greeted => {
                    answer(Packet::status(id, code, why, "en"))?;
                    continue;
                }
                _ => return Err(broken("INIT has to come first, and once")),
            };
            greeted = true;

            let fault = match &self.faults {
                Some(faults) => faults.fault(&Request::of(&packet, self.connection, |handle| disk.path_of(handle))),
                None => Fault::None,
            };
            let id = packet.get_request_id();
            match &fault {
                Fault::Status(code) => {
                    answer(Packet::error(id, *code))?;
                    continue;
                }
                Fault::Pretend => {
                    answer(Packet::error(id, StatusCode::Ok))?;
                    continue;
                }
                Fault::Raw(bytes) => {
                    send(bytes.clone())?;
                    continue;
                }
                Fault::Flood(bytes) => return self.flood(bytes, &replies).await,
                Fault::DropConnection => return self.drop_connection(),
                Fault::Hold(released) => self.or_cut(released.notified()).await?,
                Fault::Outlast(released) => {
                    self.closing.run_until_cancelled(released.notified()).await;
                }
                Fault::None
                | Fault::DropAfter
                | Fault::ReplyLost
                | Fault::Delay(_)
                | Fault::Late(_)
                | Fault::RawAfter(_) => {}
            }

            // Not abandoned when the connection is cut: a request is carried out as a whole or not at all.
            let carried_out = tokio::task::spawn_blocking(move || {
                let reply = disk.answer(packet);
                (disk, reply)
            });
            let reply;
            (disk, reply) = carried_out.await.map_err(io::Error::other)?;

            match fault {
                Fault::ReplyLost => continue,
                Fault::DropAfter => return self.drop_connection(),
                Fault::RawAfter(bytes) => {
                    send(bytes)?;
                    continue;
                }
                Fault::Late(time) => {
                    let (reply, replies, cut) = (encoded(reply)?, replies.clone(), self.cut.clone());
                    tokio::spawn(async move {
                        if cut.run_until_cancelled(tokio::time::sleep(time)).await.is_some() {
                            // The session may have ended.
                            let _ = replies.send(reply);
                        }
                    });
                    continue;
                }
                Fault::Delay(time) => self.or_cut(tokio::time::sleep(time)).await?,
                _ => {}
            }
            answer(reply)?;
        }
        Ok(())
    }

    /// Sends the same bytes until the connection ends, no faster than the client takes them.
    async fn flood(&self, bytes: &Bytes, replies: &mpsc::UnboundedSender<Bytes>) -> io::Result<()> {
        loop {
            replies.send(bytes.clone()).map_err(|_| cut_off())?;
            self.or_cut(tokio::time::sleep(FLOOD_PAUSE)).await?;
        }
    }

    fn drop_connection(&self) -> io::Result<()> {
        self.cut.cancel();
        Err(cut_off())
    }

    async fn or_cut<T>(&self, future: impl Future<Output = T>) -> io::Result<T> {
        self.cut.run_until_cancelled(future).await.ok_or_else(cut_off)
    }
}

fn cut_off() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

/// The next frame without its length; `None` where the stream ends between two.
async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Bytes>> {
    let length = match stream.read_u32().await {
        Ok(length) if (1..=MAX_PACKET_BYTES).contains(&length) => length,
        Ok(length) => return Err(broken(&format!("a packet of {length} bytes; 1 to {MAX_PACKET_BYTES} are allowed"))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut frame = vec![0; length as usize];
    stream.read_exact(&mut frame).await?;
    Ok(Some(frame.into()))
}

fn encoded(reply: Packet) -> io::Result<Bytes> {
    Bytes::try_from(reply).map_err(io::Error::other)
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), reply: Bytes) -> io::Result<()> {
    stream.write_all(&reply).await?;
    stream.flush().await
}

/// Why a frame is no request of ours, as a status can say it.
#[derive(Debug, PartialEq)]
struct NoRequest {
    id: u32,
    code: StatusCode,
    why: &'static str,
}

fn decode(mut frame: Bytes) -> Result<Packet, NoRequest> {
    let kind = frame[0];
    let id = frame.get(1..5).map_or(0, |id| u32::from_be_bytes([id[0], id[1], id[2], id[3]]));
    if !matches!(kind, 1 | 3..=20 | 200) {
        return Err(NoRequest { id, code: StatusCode::OpUnsupported, why: "unknown request" });
    }
    if !names_are_utf8(kind, frame.get(5..).unwrap_or_default()) {
        return Err(NoRequest { id, code: StatusCode::Failure, why: "this server takes names in UTF-8 only" });
    }
    Packet::try_from(&mut frame).map_err(|_| NoRequest { id, code: StatusCode::BadMessage, why: "malformed request" })
}

/// The crate's decoder would put U+FFFD for bytes that are not UTF-8, and so give a file another name without a word.
fn names_are_utf8(kind: u8, mut fields: &[u8]) -> bool {
    let names = match kind {
        // OPEN, LSTAT, SETSTAT, OPENDIR, REMOVE, MKDIR, RMDIR, REALPATH, STAT, READLINK
        3 | 7 | 9 | 11 | 13..=17 | 19 => 1,
        // RENAME, SYMLINK; names in EXTENDED are decoded by `extended`.
        18 | 20 => 2,
        _ => 0,
    };
    (0..names).all(|_| take_string(&mut fields).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_request_is_answered_under_its_own_number() {
        let frame = |bytes: &[u8]| decode(Bytes::copy_from_slice(bytes)).map(|_| ()).map_err(|no| (no.id, no.code));
        assert_eq!(frame(&[17, 0, 0, 0, 7, 0, 0, 0, 1, b'a']), Ok(()));
        assert_eq!(frame(&[17, 0, 0, 0, 7, 0, 0, 0, 1, 0xff]), Err((7, StatusCode::Failure)));
        assert_eq!(frame(&[6, 0, 0, 0, 8, 0, 0, 0, 9]), Err((8, StatusCode::BadMessage)), "a WRITE cut short");
        assert_eq!(frame(&[99, 0, 0, 0, 9]), Err((9, StatusCode::OpUnsupported)));
        assert_eq!(frame(&[99]), Err((0, StatusCode::OpUnsupported)));
    }

    #[tokio::test]
    async fn a_frame_beyond_the_limit_is_refused_before_it_is_read() {
        let mut huge: &[u8] = &[0xff; 8];
        assert_eq!(read_frame(&mut huge).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut empty: &[u8] = &[0; 4];
        assert_eq!(read_frame(&mut empty).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(read_frame(&mut [].as_slice()).await.unwrap().is_none());
    }
}
