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
use super::ending::{Ended, TerminationLog};
use super::wishes::Wishes;
use crate::command::{Running, StartError, ending, is_to_be_forwarded, name_of};
use crate::config::Typed;
use crate::config::settings::OnFailure;
use crate::exit::Exit;
use crate::report::Console;
use crate::shutdown::Shutdown;
use crate::signals::Signals;

/// Starts the command once the watch is ready, and ends with both.
pub async fn run(typed: Typed, command: Vec<OsString>, signals: Signals) -> Exit {
    let log = TerminationLog::default();
    let ended = together(&typed, command, signals, &log).await;
    log.tell(&ended)
}

async fn together(typed: &Typed, command: Vec<OsString>, mut signals: Signals, log: &TerminationLog) -> Ended {
    let (shutdown, wishes) = (Shutdown::new(), Wishes::default());
    let (ready, mut is_ready) = oneshot::channel();
    // On the heap, so that it can be left where it stands.
    let mut archiving = Box::pin(as_typed(typed, Mode::Watch(Some(ready)), &wishes, &shutdown, log));
    let Ready { console, on_failure, grace } = tokio::select! {
        biased;
        // What is wrong was said; the command is not started.
        ended = &mut archiving => return ended,
        Ok(ready) = &mut is_ready => ready,
        () = asked_to_stop(&mut signals, &wishes) => {
            shutdown.drain();
            return tokio::select! {
                ended = &mut archiving => ended,
                () = interrupted(&mut signals) => {
                    // It has not come far: a ledger that is locked, a file that cannot be read.
                    std::mem::forget(archiving);
                    Exit::Interrupted.into()
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
    let complaint = match Running::start(&command, typed.environment.secrets()) {
        Ok(mut running) => match supervisor.accompany(&mut running, pin!(&mut archiving), &mut archived).await {
            0 => None,
            code => Some((code, ending(code))),
        },
        Err(error) => cannot_start(&error, &console),
    };
    shutdown.drain();
    let ended = match archived {
        Some(ended) => ended,
        None => match supervisor.drain(pin!(&mut archiving)).await {
            Some(ended) => ended,
            None => {
                // Its end would wait for the ledger's thread. The process ends right after this.
                std::mem::forget(archiving);
                Exit::Interrupted.into()
            }
        },
    };
    match complaint {
        None => ended,
        Some((code, complaint)) => {
            let archived = ended.reason.as_deref().unwrap_or(ended.exit.meaning());
            let reason = format!("{complaint}; archiving: {archived}");
            Ended { exit: Exit::Command(code), reason: Some(reason), ..ended }
        }
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

fn cannot_start(error: &StartError, console: &Console) -> Option<(u8, String)> {
    let exit = Exit::Command(error.code());
    let ended = Ended::failed(console, "the command cannot be started", &error.to_string(), Some(error.hint()), exit);
    Some((error.code(), ended.reason.unwrap_or_default()))
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
        mut archiving: std::pin::Pin<&mut impl Future<Output = Ended>>,
        archived: &mut Option<Ended>,
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
                    } else if is_to_be_forwarded(signal, self.from_terminal) {
                        tracing::info!(signal = name_of(signal), "passed on to the command");
                        running.signal(signal);
                    }
                    self.wishes.note(signal);
                }
                ended = &mut archiving, if archived.is_none() => {
                    patience = self.tell_of_the_end(ended.exit, running);
                    *archived = Some(ended);
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
            tracing::warn!(
                "archiving has ended (`--idle-exit`, `--until`), and the command goes on: files that come from now on \
                 are left for the next run"
            );
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
    async fn drain(&mut self, mut archiving: std::pin::Pin<&mut impl Future<Output = Ended>>) -> Option<Ended> {
        let mut late = self.shutdown.now().is_cancelled().then(|| Instant::now() + AT_ONCE);
        loop {
            tokio::select! {
                ended = &mut archiving => return Some(ended),
                signal = self.signals.next() => {
                    if signal == Signal::INT && self.interrupt() == Interrupted::Once {
                        self.shutdown.stop_now();
                        late = Some(Instant::now() + AT_ONCE);
                    } else if is_a_wish(signal) {
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

/// Whether a signal asks for something else than an end.
fn is_a_wish(signal: Signal) -> bool {
    [Signal::USR1, Signal::HUP].contains(&signal)
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
