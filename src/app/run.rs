//! `run`: the application's command and the watch beside it. The watch drains when the command has ended; the command
//! may be told to stop when archiving has failed for good.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::pin::pin;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::archive::{AT_ONCE, Mode, Ready, as_typed};
use super::failed;
use super::wishes::Wishes;
use crate::command::{Running, StartError, is_to_be_forwarded};
use crate::config::Typed;
use crate::config::settings::OnFailure;
use crate::exit::Exit;
use crate::report::Console;
use crate::shutdown::Shutdown;
use crate::signals::Signals;

/// Starts the command once the watch is ready, and ends with both.
pub async fn run(typed: Typed, command: Vec<OsString>, mut signals: Signals) -> Exit {
    let (shutdown, wishes) = (Shutdown::new(), Wishes::default());
    let (ready, mut is_ready) = oneshot::channel();
    // On the heap, so that it can be left where it stands.
    let mut archiving = Box::pin(as_typed(&typed, Mode::Watch(Some(ready)), &wishes, &shutdown));
    let Ready { console, on_failure, grace } = tokio::select! {
        biased;
        // What is wrong was said; the command is not started.
        exit = &mut archiving => return exit,
        Ok(ready) = &mut is_ready => ready,
        () = asked_to_stop(&mut signals, &wishes) => {
            shutdown.drain();
            return tokio::select! {
                exit = &mut archiving => exit,
                () = interrupted(&mut signals) => {
                    // It has not come far: a ledger that is locked, a file that cannot be read.
                    std::mem::forget(archiving);
                    Exit::Interrupted
                }
            };
        }
    };
    let mut supervisor = Supervisor {
        signals,
        shutdown: &shutdown,
        wishes: &wishes,
        on_failure,
        grace,
        interrupted: Interrupted::No,
        from_terminal: std::io::stdin().is_terminal(),
    };
    let mut archived = None;
    let code = match Running::start(&command, typed.environment.secrets()) {
        Ok(mut running) => supervisor.accompany(&mut running, pin!(&mut archiving), &mut archived).await,
        Err(error) => cannot_start(&error, &console),
    };
    shutdown.drain();
    let exit = match archived {
        Some(exit) => exit,
        None => match supervisor.drain(pin!(&mut archiving)).await {
            Some(exit) => exit,
            None => {
                // Its end would wait for the ledger's thread. The process ends right after this.
                std::mem::forget(archiving);
                Exit::Interrupted
            }
        },
    };
    match code {
        0 => exit,
        code => Exit::Command(code),
    }
}

/// Until a signal comes that would end the command, were there one.
async fn asked_to_stop(signals: &mut Signals, wishes: &Wishes) {
    loop {
        match signals.next().await {
            Signal::TERM | Signal::INT | Signal::QUIT => return,
            other => wishes.note(other),
        }
    }
}

async fn interrupted(signals: &mut Signals) {
    while signals.next().await != Signal::INT {}
}

fn cannot_start(error: &StartError, console: &Console) -> u8 {
    let hint = "check the words after `--`: the first one is looked for in PATH";
    failed(console, "the command cannot be started", &error.to_string(), Some(hint), Exit::Command(error.code()));
    error.code()
}

struct Supervisor<'a> {
    signals: Signals,
    shutdown: &'a Shutdown,
    wishes: &'a Wishes,
    on_failure: OnFailure,
    grace: Duration,
    interrupted: Interrupted,
    from_terminal: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interrupted {
    No,
    Once,
}

impl Supervisor<'_> {
    /// Until the command ends; gives its exit code. `archived` is what archiving came to, where it ended before.
    async fn accompany(
        &mut self,
        running: &mut Running,
        mut archiving: std::pin::Pin<&mut impl Future<Output = Exit>>,
        archived: &mut Option<Exit>,
    ) -> u8 {
        let mut patience = None;
        loop {
            tokio::select! {
                code = running.ended() => {
                    tracing::info!(code, "the command ended: finishing what is under way");
                    return code;
                }
                signal = self.signals.next() => {
                    if signal == Signal::INT && self.interrupt() == Interrupted::Once {
                        tracing::warn!("interrupted again: stopping at once");
                        running.signal(Signal::KILL);
                        self.shutdown.stop_now();
                    } else if is_for_us(signal) {
                        self.wishes.note(signal);
                    } else if is_to_be_forwarded(signal, self.from_terminal) {
                        tracing::info!(?signal, "passed on to the command");
                        running.signal(signal);
                    }
                }
                exit = &mut archiving, if archived.is_none() => {
                    *archived = Some(exit);
                    patience = self.tell_of_the_end(exit, running);
                }
                () = sleep_until(patience) => {
                    tracing::warn!("the command did not stop within the grace: killing it");
                    running.signal(Signal::KILL);
                    patience = None;
                }
            }
        }
    }

    /// Archiving ended before the command did. Gives the time at which the command is killed.
    fn tell_of_the_end(&self, exit: Exit, running: &Running) -> Option<Instant> {
        // It may have been asked to stop, by a file or idleness.
        if matches!(exit, Exit::Done | Exit::WorkLeft | Exit::SomeFailed | Exit::Interrupted) {
            return None;
        }
        match self.on_failure {
            OnFailure::Ignore => {
                tracing::error!("archiving has failed for good; the command goes on without it");
                None
            }
            OnFailure::Signal => {
                tracing::error!("archiving has failed for good; the command is asked to stop");
                running.signal(Signal::TERM);
                None
            }
            OnFailure::Exit => {
                tracing::error!("archiving has failed for good; the command is stopped");
                running.signal(Signal::TERM);
                Some(Instant::now() + self.grace)
            }
        }
    }

    /// Until archiving ends; `None` where a second interrupt does not wait for it any longer.
    async fn drain(&mut self, mut archiving: std::pin::Pin<&mut impl Future<Output = Exit>>) -> Option<Exit> {
        let mut late = self.shutdown.now().is_cancelled().then(|| Instant::now() + AT_ONCE);
        loop {
            tokio::select! {
                exit = &mut archiving => return Some(exit),
                signal = self.signals.next() => {
                    if signal == Signal::INT && self.interrupt() == Interrupted::Once {
                        self.shutdown.stop_now();
                        late = Some(Instant::now() + AT_ONCE);
                    } else if is_for_us(signal) {
                        self.wishes.note(signal);
                    } else {
                        tracing::info!("still draining");
                    }
                }
                () = sleep_until(late) => return None,
            }
        }
    }

    /// Notes an interrupt, and says whether there was one before.
    fn interrupt(&mut self) -> Interrupted {
        std::mem::replace(&mut self.interrupted, Interrupted::Once)
    }
}

/// Whether a signal asks this program, and not its command.
fn is_for_us(signal: Signal) -> bool {
    signal == Signal::USR1
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
