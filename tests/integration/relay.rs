//! The slow link itself: it delays, it counts round trips, and it changes nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::support::env::{DEADLINE, noise};
use crate::support::relay::Relay;

const ONE_WAY: Duration = Duration::from_millis(20);

/// A listener, and a relay to it.
async fn link() -> (TcpListener, Relay) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let relay = Relay::start(listener.local_addr().unwrap(), ONE_WAY).await.unwrap();
    (listener, relay)
}

/// Both ends of one connection through the relay.
async fn connected(listener: &TcpListener, address: SocketAddr) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(address).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    (client, server)
}

/// Sends back every byte as soon as it is there.
async fn echo(mut server: TcpStream) {
    let (mut from, mut to) = server.split();
    tokio::io::copy(&mut from, &mut to).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_direction_is_late_and_not_a_byte_is_lost() {
    let (listener, relay) = link().await;
    let (mut client, mut server) = connected(&listener, relay.address()).await;
    let (there, back) = (noise(3_000_000, 1), noise(3_000_000, 2));
    let begin = Instant::now();

    let (up, down) = (there.clone(), back.clone());
    let far = tokio::spawn(async move {
        let mut first = [0];
        server.read_exact(&mut first).await.unwrap();
        let late = begin.elapsed();
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert!([&first[..], &rest].concat() == up, "the way there");
        // The client has closed its own direction; this one is still open.
        server.write_all(&down).await.unwrap();
        late
    });
    client.write_all(&there).await.unwrap();
    client.shutdown().await.unwrap();
    let mut got = Vec::new();
    timeout(DEADLINE, client.read_to_end(&mut got)).await.unwrap().unwrap();
    assert!(got == back, "the way back");
    assert!(begin.elapsed() >= 2 * ONE_WAY);
    assert!(far.await.unwrap() >= ONE_WAY);
    assert_eq!(relay.round_trips(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_each_answer_is_seen_to_wait() {
    const MESSAGES: u64 = 10;
    let (listener, relay) = link().await;
    let (mut client, server) = connected(&listener, relay.address()).await;
    let far = tokio::spawn(echo(server));
    for _ in 0..MESSAGES {
        client.write_all(b"request").await.unwrap();
        client.read_exact(&mut [0; 7]).await.unwrap();
    }
    assert_eq!(relay.round_trips(), MESSAGES);
    drop(client);
    timeout(DEADLINE, far).await.expect("the end arrives, too").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_the_air_does_not_hold_up_what_follows() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let relay = Relay::start(listener.local_addr().unwrap(), Duration::from_millis(200)).await.unwrap();
    let (mut client, server) = connected(&listener, relay.address()).await;
    let far = tokio::spawn(echo(server));
    let (mut from, mut to) = client.split();
    let sent = noise(64 * 1024, 3).repeat(256);
    let mut got = vec![0; sent.len()];
    // A read at a time, each waiting for its time, would take almost a minute each way.
    let (written, read) = tokio::join!(to.write_all(&sent), timeout(DEADLINE, from.read_exact(&mut got)));
    written.unwrap();
    read.expect("it is much faster than that").unwrap();
    assert!(got == sent);
    drop(client);
    timeout(DEADLINE, far).await.expect("the end arrives, too").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_cut_ends_both_sides() {
    let (listener, relay) = link().await;
    let (mut client, mut server) = connected(&listener, relay.address()).await;
    drop(relay);
    for side in [&mut client, &mut server] {
        let read = timeout(DEADLINE, side.read(&mut [0])).await.expect("it does not hang");
        assert!(read.is_err() || read.is_ok_and(|count| count == 0));
    }
}
