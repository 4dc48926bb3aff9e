//! Ctrl-C and SIGTERM: what is under way ends with an error, so that everything is cleaned up on the way out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

static ASKED: AtomicBool = AtomicBool::new(false);

/// From now on, signals are only noted.
pub fn listen() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let wait = async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        ASKED.store(true, Ordering::Relaxed);
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || runtime.block_on(wait)).context("a thread")?;
    Ok(())
}

/// Fails once somebody asked to stop. To be called in every long loop.
pub fn check() -> Result<()> {
    if ASKED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Lets time pass where time is what is measured.
pub fn pause(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        #[expect(clippy::disallowed_methods, reason = "nothing happens meanwhile, and that is the point")]
        std::thread::sleep(left.min(Duration::from_millis(200)));
    }
}
