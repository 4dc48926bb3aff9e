//! Whether the process is alive, and whether it could archive a file now. Rules alone.

use std::time::Duration;

use crate::report::{Phase, Snapshot, Vitals};

/// What is at one thing for so long is stuck: no look at a file, and no call of the ledger that works, takes as long.
const STUCK: Duration = Duration::from_secs(120);

/// Why a new process would do better than this one; empty where it is alive. What it waits for outside of it is no reason.
pub fn stuck(vitals: Option<&Vitals>) -> Vec<String> {
    let Some(vitals) = vitals else { return Vec::new() };
    if vitals.ledger_out.is_some() {
        return Vec::new();
    }
    let stuck = vitals.at_work.iter().filter(|(_, time)| *time >= STUCK);
    stuck.map(|(name, time)| format!("{name} has been stuck for {} seconds", time.as_secs())).collect()
}

/// Why no file could be archived now, one sentence each; empty where it could.
pub fn unready(snapshot: &Snapshot, vitals: Option<&Vitals>) -> Vec<String> {
    let mut reasons = Vec::new();
    if snapshot.phase == Phase::Draining {
        reasons.push("draining: it was told to stop".to_owned());
    }
    let Some(vitals) = vitals else {
        reasons.push("starting: the ledger and the sources are not open yet".to_owned());
        return reasons;
    };
    reasons.extend(vitals.ledger_out.as_ref().map(|reason| format!("the ledger does not work: {reason}")));
    let down =
        vitals.destinations.iter().filter_map(|destination| Some((&destination.url, destination.down.as_ref()?)));
    reasons.extend(down.map(|(url, reason)| format!("{url}: {reason}")));
    // One line each.
    reasons.iter().map(|reason| reason.replace(['\r', '\n'], " ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::DestinationVitals;

    #[test]
    fn each_reason_is_a_line() {
        let mut snapshot = Snapshot::default();
        assert_eq!(unready(&snapshot, None), ["starting: the ledger and the sources are not open yet"]);
        let mut vitals = Vitals::default();
        assert!(unready(&snapshot, Some(&vitals)).is_empty());
        vitals.ledger_out = Some("disk full".to_owned());
        for down in [None, Some("refused\nfor good".to_owned())] {
            vitals.destinations.push(DestinationVitals { url: "sftp://h/".into(), down, sessions: Default::default() });
        }
        snapshot.phase = Phase::Draining;
        let expected =
            ["draining: it was told to stop", "the ledger does not work: disk full", "sftp://h/: refused for good"];
        assert_eq!(unready(&snapshot, Some(&vitals)), expected);
    }

    #[test]
    fn only_what_does_not_go_on_is_stuck() {
        let at_work = vec![("the watch", STUCK), ("the intake", STUCK - Duration::from_millis(1))];
        let mut vitals = Vitals { at_work, ..Vitals::default() };
        assert_eq!(stuck(Some(&vitals)), ["the watch has been stuck for 120 seconds"]);
        vitals.ledger_out = Some("disk full".to_owned());
        assert!(stuck(Some(&vitals)).is_empty() && stuck(None).is_empty());
    }
}
