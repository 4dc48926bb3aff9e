//! Requests out, replies in: many outstanding at a time on one channel, each reply brought to whoever asked, and a
//! watchdog that ends the session when the server owes a reply and nothing moves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::wire::{self, Packet, Reply, Request, kind};
use crate::destination::DestinationError;
use crate::domain::display;

/// How many times the patience a request is waited for that others overtake: it may be a slow one (FSYNC).
const OVERTAKEN: u32 = 2;
/// One SSH packet (RFC 4253, section 6.1: at least this much is always taken).
const CHUNK: usize = 32 * 1024;

struct Table {
    waiting: HashMap<u32, (oneshot::Sender<Reply>, Instant)>,
    /// The shortest time between a request and its reply.
    fastest: Option<Duration>,
    /// Why there will be no more replies.
    ended: Option<String>,
    /// When the server last answered a request, or last took in bytes we owe it. What nobody asked for is no progress.
    progress: Instant,
    /// The highest number that was answered: requests with a lower one that wait were overtaken.
    answered: u32,
}

impl Table {
    /// The oldest request that waits, where a later one was answered already.
    fn overtaken(&self) -> Option<u32> {
        self.waiting.keys().min().copied().filter(|oldest| *oldest < self.answered)
    }
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Sent {
    Taken,
    Lost,
}

struct Shared {
    table: Mutex<Table>,
    next: AtomicU32,
    /// Told when the first request after a pause is queued.
    busy: Notify,
    cut: CancellationToken,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no panic while held")
    }

    fn progressed(&self) {
        self.table().progress = Instant::now();
    }

    /// Fails all that is outstanding and all that follows.
    fn fail_all(&self, why: String) {
        let mut table = self.table();
        table.ended.get_or_insert(why);
        table.waiting.clear();
    }

    /// Notes that the server's window took bytes in, or that there is no server any more.
    fn sent(&self, taken: Result<(), russh::Error>) -> Sent {
        match taken {
            Ok(()) => {
                self.progressed();
                Sent::Taken
            }
            Err(_) => {
                self.end("the connection was lost");
                Sent::Lost
            }
        }
    }

    /// The same, and cuts the connection, which is of no more use.
    fn end(&self, why: impl Into<String>) {
        self.fail_all(why.into());
        self.cut.cancel();
    }
}

/// One SFTP channel after INIT and VERSION. Dropping it ends its tasks.
pub struct Exchange {
    shared: Arc<Shared>,
    outgoing: mpsc::UnboundedSender<Packet>,
    _tasks: JoinSet<()>,
}

impl Exchange {
    /// `rest` is what was read behind VERSION. `patience` is the longest time without progress while a reply is due;
    /// then `cut` is cancelled, as it is when the channel ends in any other way.
    pub fn start(
        read: ChannelReadHalf,
        write: ChannelWriteHalf<Msg>,
        rest: BytesMut,
        patience: Duration,
        cut: CancellationToken,
    ) -> Self {
        let table =
            Table { waiting: HashMap::new(), fastest: None, ended: None, progress: Instant::now(), answered: 0 };
        let shared = Arc::new(Shared { table: Mutex::new(table), next: AtomicU32::new(1), busy: Notify::new(), cut });
        // Unbounded, because requests are queued in the order of their first poll, without waiting. What is in
        // flight is bounded by the callers, who hold a slot for each file and a fixed number of writes for each slot.
        #[expect(clippy::disallowed_methods, reason = "bounded by the callers, see above")]
        let (outgoing, queue) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let span = tracing::Span::current();
        tasks.spawn(receive(read, rest, shared.clone(), outgoing.downgrade()).instrument(span.clone()));
        tasks.spawn(send(write, queue, shared.clone()).instrument(span.clone()));
        tasks.spawn(watch(shared.clone(), patience).instrument(span));
        Self { shared, outgoing, _tasks: tasks }
    }

    /// Queues the request, now; the future is for the reply. Dropping the future does not recall the request.
    /// `what` names it for errors.
    pub fn request(
        &self,
        request: Request,
        what: impl Fn() -> String,
    ) -> impl Future<Output = Result<Reply, DestinationError>> {
        let (sender, receiver) = oneshot::channel();
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut table = self.shared.table();
            if table.ended.is_none() {
                let now = Instant::now();
                if table.waiting.is_empty() {
                    table.progress = now;
                    self.shared.busy.notify_one();
                }
                table.waiting.insert(id, (sender, now));
                // Under the lock, so that numbers go out in the order of the queue. Fails only when the sending
                // task has ended, which also drops the other half of `receiver`.
                let _ = self.outgoing.send(request.numbered(id));
            }
        }
        async move {
            receiver.await.map_err(|_| {
                let why = self.shared.table().ended.clone().unwrap_or_else(|| "the session has ended".into());
                DestinationError::session(what(), why)
            })
        }
    }

    /// The shortest time in which anything was answered so far.
    pub fn round_trip(&self) -> Option<Duration> {
        self.shared.table().fastest
    }

    pub fn is_ended(&self) -> bool {
        self.shared.table().ended.is_some() || self.shared.cut.is_cancelled()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.shared.fail_all("the session was closed by this side".into());
    }
}

async fn receive(
    mut read: ChannelReadHalf,
    mut buffer: BytesMut,
    shared: Arc<Shared>,
    outgoing: mpsc::WeakUnboundedSender<Packet>,
) {
    let mut said = String::new();
    loop {
        loop {
            match wire::take_packet(&mut buffer).and_then(|packet| packet.map(wire::reply).transpose()) {
                Ok(Some((id, reply))) => {
                    let mut table = shared.table();
                    let waiting = table.waiting.remove(&id);
                    if let Some((_, asked)) = &waiting {
                        table.progress = Instant::now();
                        table.answered = table.answered.max(id);
                        let took = table.progress - *asked;
                        table.fastest = Some(table.fastest.map_or(took, |fastest| fastest.min(took)));
                    }
                    drop(table);
                    if let Some(Err(Reply::Handle(handle))) = waiting.map(|(waiting, _)| waiting.send(reply)) {
                        // Whoever opened the file has gone: nobody else will close it.
                        close_unwanted(&shared, &outgoing, &handle);
                    }
                }
                Ok(None) => break,
                Err(malformed) => return shared.end(malformed.to_string()),
            }
        }
        match read.wait().await {
            Some(ChannelMsg::Data { data }) => buffer.extend_from_slice(&data),
            Some(ChannelMsg::ExtendedData { data, .. }) => {
                said = String::from_utf8_lossy(&data[..data.len().min(200)]).trim().to_owned();
                tracing::debug!("the server says: {}", display::escaped(&said));
            }
            Some(ChannelMsg::Eof | ChannelMsg::Close) | None => {
                let text = match said.is_empty() {
                    true => "the connection was lost or closed by the server".to_owned(),
                    false => format!("the server closed the session and said `{}`", display::escaped(&said)),
                };
                return shared.end(text);
            }
            Some(_) => {}
        }
    }
}

fn close_unwanted(shared: &Shared, outgoing: &mpsc::WeakUnboundedSender<Packet>, handle: &[u8]) {
    let id = shared.next.fetch_add(1, Ordering::Relaxed);
    if let Some(outgoing) = outgoing.upgrade() {
        let _ = outgoing.send(Request::new(kind::CLOSE).string(handle).numbered(id));
    }
}

async fn send(write: ChannelWriteHalf<Msg>, mut queue: mpsc::UnboundedReceiver<Packet>, shared: Arc<Shared>) {
    let mut chunk = BytesMut::new();
    while let Some(first) = queue.recv().await {
        // Whoever was woken by the same replies has its turn first: requests that go together cost both sides one
        // packet, and the server one awakening.
        tokio::task::yield_now().await;
        let mut next = Some(first);
        while let Some(packet) = next {
            for mut bytes in [packet.head, packet.body] {
                while !bytes.is_empty() {
                    // Whole chunks of file content go as they are; what is less shares an SSH packet with its
                    // neighbours.
                    let full = if chunk.is_empty() && bytes.len() >= CHUNK {
                        bytes.split_to(CHUNK)
                    } else {
                        if chunk.capacity() == 0 {
                            chunk.reserve(CHUNK);
                        }
                        chunk.extend_from_slice(&bytes.split_to(bytes.len().min(CHUNK - chunk.len())));
                        if chunk.len() < CHUNK {
                            continue;
                        }
                        std::mem::take(&mut chunk).freeze()
                    };
                    if shared.sent(write.data_bytes(full).await) == Sent::Lost {
                        return;
                    }
                }
            }
            next = queue.try_recv().ok();
        }
        let rest = std::mem::take(&mut chunk).freeze();
        if !rest.is_empty() && shared.sent(write.data_bytes(rest).await) == Sent::Lost {
            return;
        }
    }
    // Nobody is left who could ask for anything; the channel is closed with the connection.
    let _ = write.eof().await;
}

async fn watch(shared: Arc<Shared>, patience: Duration) {
    // A request that others overtake again and again, and since when it was seen to be. Its reply is lost, however busy
    // the session is: a server may change the order of replies, but not for so long.
    let mut stuck: Option<(u32, Instant)> = None;
    loop {
        let (idle, progress, overtaken) = {
            let table = shared.table();
            (table.waiting.is_empty(), table.progress, table.overtaken())
        };
        stuck = overtaken.map(|id| stuck.filter(|(before, _)| *before == id).unwrap_or((id, Instant::now())));
        if stuck.is_some_and(|(_, since)| since.elapsed() >= OVERTAKEN * patience) {
            let waited = humantime::format_duration(OVERTAKEN * patience);
            return shared.end(format!("the server left a request without an answer for {waited}"));
        }
        if idle {
            shared.busy.notified().await;
        } else if progress.elapsed() >= patience {
            let waited = humantime::format_duration(patience);
            return shared.end(format!("no answer from the server for {waited}"));
        } else {
            tokio::time::sleep_until(progress + patience).await;
        }
    }
}
