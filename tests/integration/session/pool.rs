//! Growth, throttling, and outages that end by themselves.

use std::time::Duration;

use archiver::destination::sftp::pool::BreakerState;
use archiver::destination::sftp::{Connector, Load, OutagePolicy, Pool, PoolConfig, Slot, Timeouts};
use archiver::destination::{Consequence, DestinationError};
use archiver::domain::Backoff;

use super::settings;
use crate::support::openssh::OpenSsh;

fn pool(server: &OpenSsh, config: PoolConfig) -> Pool {
    let backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(100)).unwrap();
    Pool::new(Connector::new(&settings(server), Timeouts::default()).unwrap(), PoolConfig { backoff, ..config })
}

async fn works(slot: &Slot) {
    slot.realpath(".").await.unwrap();
}

/// Every slot of one connection, so that the next one needs another.
async fn all_of(pool: &Pool, count: usize) -> Vec<Slot> {
    futures::future::try_join_all((0..count).map(|_| pool.acquire(Load::Light))).await.unwrap()
}

#[tokio::test]
async fn connections_are_added_only_while_somebody_waits() {
    let server = OpenSsh::plain();
    let pool = pool(&server, PoolConfig { files_per_connection: Some(2), connections: Some(3), ..Default::default() });
    assert_eq!(pool.state().connections, 0);
    let one = pool.acquire(Load::Light).await.unwrap();
    drop(one);
    let two = all_of(&pool, 2).await;
    assert_eq!((pool.state().connections, pool.state().slots_in_use), (1, 2));
    let all = all_of(&pool, 4).await;
    assert_eq!((pool.state().connections, pool.state().slots_in_use), (3, 6));
    for slot in two.iter().chain(&all) {
        works(slot).await;
    }
    // The seventh waits for a slot, not for a connection.
    let seventh = pool.acquire(Load::Light);
    futures::pin_mut!(seventh);
    assert!(futures::poll!(&mut seventh).is_pending());
    assert_eq!(pool.state().waiting, 1);
    drop(two);
    works(&seventh.await.unwrap()).await;
    assert_eq!((pool.state().connections, pool.state().waiting), (3, 0));
    drop(all);
    pool.close().await;
    assert_eq!(pool.acquire(Load::Light).await.unwrap_err().consequence, Consequence::Session);
}

#[tokio::test]
async fn a_dropped_acquire_takes_nothing_along() {
    let server = OpenSsh::plain();
    let pool = pool(&server, PoolConfig { files_per_connection: Some(1), connections: Some(1), ..Default::default() });
    {
        let first = pool.acquire(Load::Light);
        futures::pin_mut!(first);
        assert!(futures::poll!(&mut first).is_pending());
    }
    let slot = pool.acquire(Load::Light).await.unwrap();
    {
        let second = pool.acquire(Load::Light);
        futures::pin_mut!(second);
        assert!(futures::poll!(&mut second).is_pending());
        drop(slot);
    }
    works(&pool.acquire(Load::Light).await.unwrap()).await;
    assert_eq!((pool.state().slots_in_use, pool.state().waiting), (0, 0));
}

#[tokio::test]
async fn an_outage_ends_by_itself() {
    let mut server = OpenSsh::plain();
    let pool = pool(&server, PoolConfig { files_per_connection: Some(4), ..Default::default() });
    let slot = pool.acquire(Load::Light).await.unwrap();
    works(&slot).await;
    pool.succeeded();
    server.kill();
    assert_eq!(slot.realpath(".").await.unwrap_err().consequence, Consequence::Session);
    slot.broken();
    drop(slot);
    // Many wait; the outage shows, and nobody gets an error.
    let mut outage = pool.outage();
    assert_eq!(*outage.borrow_and_update(), None);
    let waiting = all_of(&pool, 4);
    let recovered = async {
        assert!(outage.wait_for(Option::is_some).await.unwrap().as_ref().unwrap().contains("refused"));
        assert!(pool.state().last_error.unwrap().contains("refused"));
        server.restart();
    };
    let (slots, ()) = tokio::join!(waiting, recovered);
    for slot in &slots {
        works(slot).await;
    }
    assert_eq!((pool.state().breaker, pool.state().last_error), (BreakerState::Closed, None));
    assert_eq!(*pool.outage().borrow(), None);
}

#[tokio::test]
async fn a_session_that_is_lost_while_idle_is_replaced() {
    let mut server = OpenSsh::plain();
    let pool = pool(&server, PoolConfig::default());
    drop(pool.acquire(Load::Light).await.unwrap());
    pool.succeeded();
    server.restart();
    // It may look alive for a moment longer.
    let slot = loop {
        let slot = pool.acquire(Load::Light).await.unwrap();
        match slot.realpath(".").await {
            Ok(_) => break slot,
            Err(error) => assert_eq!(error.consequence, Consequence::Session),
        }
        slot.broken();
    };
    works(&slot).await;
}

#[tokio::test]
async fn push_gives_up_after_so_many_failures() {
    let mut server = OpenSsh::plain();
    let pool = pool(&server, PoolConfig { outage: OutagePolicy::GiveUpAfter(3), ..Default::default() });
    server.kill();
    for _ in 0..2 {
        let error = pool.acquire(Load::Light).await.unwrap_err();
        assert_eq!(error.consequence, Consequence::Outage);
        assert!(error.to_string().contains("(3 attempts)"), "{error}");
    }
}

#[tokio::test]
async fn a_refusal_fails_everybody_at_once() {
    let server = OpenSsh::plain();
    std::fs::write(server.known_hosts(), "").unwrap();
    let pool = pool(&server, PoolConfig::default());
    let results = futures::future::join_all((0..8).map(|_| pool.acquire(Load::Light))).await;
    for result in results {
        assert_eq!(result.unwrap_err().consequence, Consequence::Refusal);
    }
    assert_eq!(server.log().matches("Connection from").count(), 1);
}

#[tokio::test]
async fn a_server_that_throttles_connections_is_given_time() {
    // The first connection that is not logged in yet is taken, a second one turned away; held open here by hand.
    let server = OpenSsh::builder().option("MaxStartups 1:100:1").start();
    let pool = pool(&server, PoolConfig { files_per_connection: Some(1), connections: Some(2), ..Default::default() });
    let first = pool.acquire(Load::Light).await.unwrap();
    let hold = tokio::net::TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    hold.readable().await.unwrap();
    let second = pool.acquire(Load::Light);
    let release = async {
        server.wait_for_log_async("past MaxStartups").await;
        // The one that works goes on, and this is no outage.
        works(&first).await;
        assert_eq!(pool.state().breaker, BreakerState::Closed);
        drop(hold);
    };
    let (second, ()) = tokio::join!(second, release);
    works(&second.unwrap()).await;
    assert_eq!(pool.state().connections, 2);
}

#[tokio::test]
async fn a_server_without_room_for_sessions_is_an_outage_that_says_so() {
    let server = OpenSsh::builder().option("MaxSessions 0").start();
    let pool = pool(&server, PoolConfig { outage: OutagePolicy::GiveUpAfter(2), ..Default::default() });
    let error = pool.acquire(Load::Light).await.unwrap_err();
    assert!(error.hint.as_deref().unwrap().contains("MaxSessions"), "{error}");
}

#[tokio::test]
async fn an_outage_that_a_job_met_is_probed_by_one_job() {
    let server = OpenSsh::plain();
    let pool = pool(&server, PoolConfig::default());
    let slot = pool.acquire(Load::Light).await.unwrap();
    pool.report(&DestinationError::from_status("WRITE /x", 14, ""));
    drop(slot);
    assert!(matches!(pool.state().breaker, BreakerState::Open { .. }));
    let probe = pool.acquire(Load::Light).await.unwrap();
    assert_eq!(pool.state().breaker, BreakerState::HalfOpen);
    let other = pool.acquire(Load::Light);
    futures::pin_mut!(other);
    assert!(futures::poll!(&mut other).is_pending());
    // No verdict: the next one probes.
    drop(probe);
    let probe = other.await.unwrap();
    assert_eq!(pool.state().breaker, BreakerState::HalfOpen);
    pool.succeeded();
    drop(probe);
    assert_eq!(pool.state().breaker, BreakerState::Closed);
    // A file's own trouble is nobody else's.
    pool.report(&DestinationError::from_status("WRITE /x", 3, ""));
    assert_eq!(pool.state().breaker, BreakerState::Closed);
}
