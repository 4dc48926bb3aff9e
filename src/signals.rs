//! The signals that this process takes: held from its first moment on, until their handlers stand.
//!
//! What comes before there is a handler would end the process, or, as the first process of a container, be lost: the
//! kernel drops what an init process has no handler for (pid_namespaces(7)), and who sent it waits in vain. What is held
//! comes once it is let go, dropped by nobody.

use std::io;
use std::sync::OnceLock;

use rustix::process::Signal;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// All that any command has a handler for.
const TAKEN: [Signal; 6] = [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2];

/// Nothing is held any more: set once in the life of the process.
static LET_GO: OnceLock<()> = OnceLock::new();

/// The signals wait. Threads that start meanwhile hold them, too, until they call [`wait_in_thread`].
#[derive(Debug)]
#[must_use = "while this stands, the process can neither be stopped nor interrupted"]
pub struct Held(());

impl Held {
    /// To be called first of all, by the first thread.
    pub fn hold() -> Self {
        mask(libc::SIG_BLOCK);
        Self(())
    }

    /// What came meanwhile comes now. To be called by the thread that holds them.
    pub fn let_go(self) {
        // Another one may have done so before.
        let _ = LET_GO.set(());
        mask(libc::SIG_UNBLOCK);
    }
}

/// For each thread that a runtime starts, before anything else: waits until the signals are let go, for a thread that
/// does not hold them would take them, and one that holds them for ever would hand that down to processes that it starts.
pub fn wait_in_thread() {
    LET_GO.wait();
    mask(libc::SIG_UNBLOCK);
}

fn mask(how: libc::c_int) {
    // SAFETY: sigemptyset(3) initializes the set that it is given, before anybody reads it; the other calls take a set
    // that is initialized, and a null pointer for what nobody wants to know. They fail only for numbers that are no
    // signals (sigaddset) or no `how` (pthread_sigmask), and these are.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        for signal in TAKEN {
            libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
        }
        libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut());
    }
}

/// The signals that a command listens to, as they come.
#[derive(Debug)]
pub struct Signals {
    streams: Vec<(Signal, Stream)>,
}

impl Signals {
    /// Installs the handlers for the rest of the process. To be called within a runtime.
    pub fn listen(wanted: &[Signal]) -> io::Result<Self> {
        let streams = wanted
            .iter()
            .map(|wanted| Ok((*wanted, signal(SignalKind::from_raw(wanted.as_raw()))?)))
            .collect::<io::Result<_>>()?;
        Ok(Self { streams })
    }

    /// The next one; the same one several times in a row may count as one. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            for (signal, stream) in &mut self.streams {
                if let std::task::Poll::Ready(Some(())) = stream.poll_recv(context) {
                    return std::task::Poll::Ready(*signal);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
