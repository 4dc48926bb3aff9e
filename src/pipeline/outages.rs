//! Tells whoever watches the progress which destinations are out. Sleeps while nothing changes.

use super::engine::Engine;

/// Runs until it is dropped, or all pools are gone.
pub async fn tell(engine: &Engine) {
    let tellers = engine.archives.iter().zip(&engine.destinations).map(|(archive, destination)| async move {
        let mut outage = archive.pool().outage();
        loop {
            let reason = outage.borrow_and_update().clone();
            match reason {
                Some(reason) => engine.reporter.destination_down(destination, &reason),
                None => engine.reporter.destination_up(destination),
            }
            if outage.changed().await.is_err() {
                return;
            }
        }
    });
    futures::future::join_all(tellers).await;
}
