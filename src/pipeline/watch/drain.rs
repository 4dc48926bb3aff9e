//! The end of a watch: what is there is taken in, what is unfinished has its time, and the rest is named.
//!
//! What is there is known without a last scan: a scan that was completed, the events since, and the walks that are still
//! asked for find what a scan would. So the watch is asked for all events up to now, walks that are needed go on, and only
//! roots whose events are not complete are scanned again.

use std::time::Duration;

use tracing::debug;

use super::{Came, Inflow, Missed, Run, Stage, watched};
use crate::ledger::LedgerError;
use crate::pipeline::intake::{Told, sleep_until};
use crate::report::Phase;
use crate::source::watch::SourceEvent;

/// How long nothing may be heard of the watch that was asked for all its events, before all is scanned.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

impl Run<'_> {
    /// Takes in what is there; then what waits has until the grace is over to become finished. The rest is named.
    pub(super) async fn drain(mut self, mut inflow: Inflow, over: tokio::time::Instant) -> Result<(), LedgerError> {
        self.engine.reporter.phase(Phase::Draining);
        self.stage = Stage::Flushing;
        inflow.watch.flush();
        let mut patience = tokio::time::Instant::now() + FLUSH_PATIENCE;
        self.scans.only_needed();
        for root in watched(self.engine, self.intake.destination()).into_iter().map(|watched| watched.root) {
            // What waits for an event has had it, or has none to come.
            self.unmet.push_back((root, self.intake.waiting().mark()));
        }
        if self.missed == Missed::Some || self.intake.waiting().forgot_any() {
            self.missed = Missed::Nothing;
            self.scan_all_roots();
        }
        while self.is_at_work() {
            // The grace may be long.
            self.intake.pulse().rest();
            let due = self.intake.waiting().next_due().map(tokio::time::Instant::from_std);
            let put_off = self.intake.next_put_off();
            tokio::select! {
                biased;
                () = self.engine.stop.cancelled() => break,
                () = tokio::time::sleep_until(over) => break,
                () = sleep_until(due), if due.is_some() => self.examine_due().await?,
                () = std::future::ready(()), if !self.unmet.is_empty() => self.examine_unmet().await?,
                came = inflow.next(&mut self) => match came {
                    Came::Events if self.stage == Stage::Draining => self.handle_last(&mut inflow.events).await?,
                    Came::End if self.stage == Stage::Flushing => self.scan_unheard(),
                    came => {
                        if came == Came::Events {
                            patience = tokio::time::Instant::now() + FLUSH_PATIENCE;
                        }
                        self.take(came, &mut inflow).await?;
                    }
                },
                () = std::future::ready(()), if put_off.is_some() => self.examine_put_off().await?,
                () = tokio::time::sleep_until(patience), if self.stage == Stage::Flushing => self.scan_unheard(),
            }
            self.look_for_missed();
            self.intake.tell_waiting();
        }
        if self.scans.busy() || self.stage == Stage::Flushing || self.missed == Missed::Some {
            self.engine.cut_short();
        }
        self.intake.leave_all().await?;
        // What the workers still have to do is not the intake's.
        self.intake.pulse().rest();
        Ok(())
    }

    fn is_at_work(&self) -> bool {
        self.stage == Stage::Flushing
            || self.scans.busy()
            || !self.unmet.is_empty()
            || !self.intake.waiting().is_empty()
    }

    fn scan_unheard(&mut self) {
        debug!("the watch does not answer: scanning everything");
        self.stage = Stage::Draining;
        self.scan_all_roots();
    }

    /// Nothing new is taken in any more.
    async fn handle_last(&mut self, events: &mut Vec<SourceEvent>) -> Result<(), LedgerError> {
        for event in events.drain(..) {
            match event {
                SourceEvent::Changed(candidate) | SourceEvent::Closed(candidate)
                    if self.intake.waiting().contains(&candidate) =>
                {
                    self.examine(vec![candidate], Told::Quietly).await?;
                }
                SourceEvent::Removed(candidate) => self.intake.waiting().forget(&candidate),
                SourceEvent::Marker { root, path } => self.marked(root, &path).await?,
                _ => {}
            }
        }
        Ok(())
    }
}
