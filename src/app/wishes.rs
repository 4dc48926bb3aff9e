//! What signals ask of a command that lives for a while: to stop, and what it does without stopping.

use std::sync::Arc;

use rustix::process::Signal;
use tokio::sync::Notify;

use crate::shutdown::{Shutdown, StopSignal};
use crate::signals::Signals;

/// What may be asked for beside a stop. Asked again before it was done, it is done once. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// SIGUSR1: to say how far the run is.
    pub progress: Arc<Notify>,
    /// SIGHUP: to read the configuration again.
    pub reload: Arc<Notify>,
}

impl Wishes {
    /// Follows the signals for as long as the process lives.
    pub async fn follow(self, signals: Signals, shutdown: Shutdown) {
        let stops = futures::stream::unfold((self, signals), |(wishes, mut signals)| async move {
            loop {
                let stop = match signals.next().await {
                    Signal::TERM => StopSignal::Terminate,
                    Signal::INT => StopSignal::Interrupt,
                    other => {
                        wishes.note(other);
                        continue;
                    }
                };
                break Some((stop, (wishes, signals)));
            }
        });
        shutdown.obey(stops).await;
    }

    /// Notes what a signal asks for, where it asks for anything but a stop.
    pub fn note(&self, signal: Signal) {
        match signal {
            Signal::USR1 => self.progress.notify_one(),
            Signal::HUP => self.reload.notify_one(),
            _ => {}
        }
    }
}
