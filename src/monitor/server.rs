//! A small HTTP server: a few fixed paths, GET and HEAD, one request a connection. It runs on the program's own threads,
//! and gives nobody more than a little time and memory.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tracing::debug;

use super::metrics::Form;
use super::{Subject, health, metrics, page};
use crate::domain::ListenAddress;

/// Connections at a time. Each further one takes the place of the oldest that has not asked for anything yet.
const CONNECTIONS: usize = 256;
/// For the head of a request.
const HEAD: Duration = Duration::from_secs(1);
/// For a whole connection, its reply included.
const CONNECTION: Duration = Duration::from_secs(15);
/// Bytes of a request's head, at most.
const HEAD_BYTES: usize = 16 << 10;
/// After an accept that failed, for want of descriptors perhaps.
const PAUSE: Duration = Duration::from_millis(100);

/// A socket that listens already.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl Server {
    /// Where no address is given, on all of them, IPv4 alone where there is no IPv6.
    pub async fn bind(listen: ListenAddress) -> io::Result<Self> {
        let at = |ip| SocketAddr::new(ip, listen.port);
        let listener = match listen.ip {
            Some(ip) => TcpListener::bind(at(ip)).await?,
            None => match TcpListener::bind(at(Ipv6Addr::UNSPECIFIED.into())).await {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    debug!(%error, "no IPv6; listening on IPv4 alone");
                    TcpListener::bind(at(Ipv4Addr::UNSPECIFIED.into())).await?
                }
                bound => bound?,
            },
        };
        Ok(Self { address: listener.local_addr()?, listener })
    }

    /// Serves until it is dropped.
    pub async fn serve(self, subject: Arc<Subject>) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        let mut silent = Silent::default();
        loop {
            while let Some(ended) = connections.try_join_next() {
                if let Err(error) = ended
                    && !error.is_cancelled()
                {
                    debug!(%error, "a connection to the metrics ended badly");
                }
            }
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    if permits.available_permits() == 0 {
                        silent.drop_oldest();
                    }
                    let Ok(permit) = permits.clone().acquire_owned().await else { return };
                    let (subject, heard) = (subject.clone(), Arc::new(AtomicBool::new(false)));
                    let talking = talk(stream, subject, heard.clone());
                    let handle = connections.spawn(async move {
                        talking.await;
                        drop(permit);
                    });
                    silent.add(heard, handle);
                }
                Err(error) => {
                    debug!(%error, "a connection to the metrics was not accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Connections that may not have sent the head of their request, oldest first.
#[derive(Debug, Default)]
struct Silent(VecDeque<(Arc<AtomicBool>, AbortHandle)>);

impl Silent {
    fn add(&mut self, heard: Arc<AtomicBool>, handle: AbortHandle) {
        if self.0.len() >= 2 * CONNECTIONS {
            self.0.retain(|(heard, handle)| !heard.load(Ordering::Relaxed) && !handle.is_finished());
        }
        self.0.push_back((heard, handle));
    }

    fn drop_oldest(&mut self) {
        while let Some((heard, handle)) = self.0.pop_front() {
            if !heard.load(Ordering::Relaxed) && !handle.is_finished() {
                return handle.abort();
            }
        }
    }
}

async fn talk(stream: TcpStream, subject: Arc<Subject>, heard: Arc<AtomicBool>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        heard.store(true, Ordering::Relaxed);
        let subject = subject.clone();
        async move { Ok::<_, Infallible>(answer(&request, &subject).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    match tokio::time::timeout(CONNECTION, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a request for the metrics failed"),
        Err(_) => debug!("a request for the metrics took too long"),
    }
}

/// A body and its kind.
struct Content {
    status: StatusCode,
    kind: &'static str,
    body: Bytes,
}

impl Content {
    fn new(kind: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, kind, body: body.into() }
    }

    fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", body: body.into() }
    }
}

async fn answer<B>(request: &Request<B>, subject: &Subject) -> Response<Full<Bytes>> {
    let content = if matches!(*request.method(), Method::GET | Method::HEAD) {
        content(request, subject).await
    } else {
        Content::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed\n")
    };
    // hyper leaves the body of a HEAD out.
    let mut response = Response::new(Full::new(content.body));
    *response.status_mut() = content.status;
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| headers.insert(name, HeaderValue::from_static(value));
    set(header::CONTENT_TYPE, content.kind);
    set(header::CACHE_CONTROL, "no-store");
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::REFERRER_POLICY, "no-referrer");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    if content.status == StatusCode::METHOD_NOT_ALLOWED {
        set(header::ALLOW, "GET, HEAD");
    }
    if let Ok(policy) = HeaderValue::from_str(&page::POLICY) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

async fn content<B>(request: &Request<B>, subject: &Subject) -> Content {
    match request.uri().path() {
        "/" => Content::new("text/html; charset=utf-8", page::PAGE),
        "/state.json" => match serde_json::to_vec(&subject.state().with_history(&subject.history())) {
            Ok(body) => Content::new("application/json", body),
            Err(error) => Content::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        "/healthz" => verdict(health::stuck(subject.look().vitals.as_ref())),
        "/readyz" => {
            let look = subject.look();
            verdict(health::unready(&look.snapshot, look.vitals.as_ref()))
        }
        "/metrics" => metrics(request, subject).await,
        _ => Content::text(StatusCode::NOT_FOUND, "there are /metrics, /healthz, /readyz, /state.json and /\n"),
    }
}

fn verdict(reasons: Vec<String>) -> Content {
    if reasons.is_empty() {
        return Content::text(StatusCode::OK, "ok\n");
    }
    Content::text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
}

async fn metrics<B>(request: &Request<B>, subject: &Subject) -> Content {
    let free = match subject.questions() {
        Some(questions) => subject.free.now(&questions).await,
        None => Vec::new(),
    };
    let accepted = request.headers().get_all(header::ACCEPT).iter();
    let form = match accepted
        .filter_map(|kinds| kinds.to_str().ok())
        .any(|kinds| kinds.contains("application/openmetrics-text"))
    {
        true => Form::OpenMetrics,
        false => Form::Text,
    };
    match metrics::render(subject.look(), free, form) {
        Ok(text) => Content::new(form.content_type(), text),
        Err(error) => Content::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}
