//! What earlier runs left behind: temporary names on the server whose owners died, and disposals that a crash cut short.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::content::still_ours;
use super::disposal::Stays;
use super::engine::{Engine, Resting, Source};
use super::names::Entry;
use super::read::Version;
use crate::destination::DestinationError;
use crate::destination::sftp::Load;
use crate::destination::sftp::stage::Left;
use crate::dispose;
use crate::domain::{After, AfterFailure, Fingerprint, KeyId, Repeat, display};
use crate::failpoint::{Point, reach};
use crate::ledger::{
    Claim, ClaimReply, ClaimRequest, Cursor, Intention, LedgerError, Orphan, OrphanState, Record, Release, Staged,
    Undisposed,
};
use crate::localfs::{OpenError, RootDir};
use crate::source::{BelowRoot, Candidate, Root};

/// How often a watch looks after what is left behind, and what is too old.
const HOUSEKEEPING: Duration = Duration::from_secs(3600);
/// Entries asked for at a time.
const PAGE: usize = 256;

/// Finishes disposals that were begun and not confirmed. To be run before anything is taken in, so that a file that
/// was set aside to be removed is not taken for something new.
pub async fn finish_disposals(engine: &Arc<Engine>) -> Result<(), LedgerError> {
    for destination in &engine.destinations {
        let mut cursor = Cursor::default();
        loop {
            let (page, next) = engine.hold(|| engine.ledger.undisposed(destination, cursor, PAGE)).await?;
            if page.is_empty() {
                break;
            }
            let due = |undisposed: &Undisposed| !engine.is_resting(&Resting::Version(undisposed.key.id()));
            for undisposed in page.into_iter().filter(due) {
                finish_disposal(engine, undisposed).await?;
            }
            cursor = next;
        }
    }
    Ok(())
}

async fn finish_disposal(engine: &Arc<Engine>, undisposed: Undisposed) -> Result<(), LedgerError> {
    reach(Point::UndisposedFound);
    let Undisposed { key, local_path, record, is_failed } = undisposed;
    if let Some(record) = &record {
        // Before it may get another name.
        engine.note_beside(&key, &local_path, record).await?;
    }
    // Several settings may lead to one destination.
    let of_source =
        |source: &&Source| engine.destinations[source.destination] == key.destination && *source.name == *key.source;
    let source = engine.sources.iter().find(of_source);
    let found = source.map(|source| (source, candidate_of(source, &local_path)));
    if matches!(found, Some((_, None))) {
        // Some other run's paths.
        return Ok(());
    }
    // Another process may have found it, too.
    match engine.hold(|| engine.ledger.disposing(&key)).await {
        Ok(()) => {}
        Err(LedgerError::LeaseLost) => return Ok(()),
        Err(error) => return Err(error),
    }
    let disposal = match found {
        Some((source, Some(candidate))) if record.is_some() && source.after != After::Keep => {
            let marker = source.marker_of(&candidate.path);
            let version = Version { candidate, fingerprint: key.fingerprint };
            engine.dispose_version(&version, marker.as_ref(), key.id(), source.after.clone()).await
        }
        // On its way into quarantine, where a part of it, or all, may stand already.
        Some((Source { after_failure: AfterFailure::Move(directory), .. }, Some(candidate)))
            if record.is_none() && is_failed =>
        {
            let version = Version { candidate, fingerprint: key.fingerprint };
            engine.dispose_version(&version, None, key.id(), After::Move(directory.clone())).await
        }
        // The source is gone from the settings, asks for no disposal any more, or the file is to be tried again.
        _ => put_back(engine, &local_path, key.id()).await,
    };
    if let Err(stays) = &disposal {
        engine.rest_hidden(key.id(), stays);
        warn!(path = %display::path(&local_path), remark = stays.why, "a disposal that was cut short");
    }
    engine.disposed(&key, &disposal).await?;
    reach(Point::UndisposedDone);
    Ok(())
}

/// Gives a file that was set aside its name back.
async fn put_back(engine: &Engine, path: &Path, key: KeyId) -> Result<(), Stays> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(BelowRoot::new)) else { return Ok(()) };
    let (parent, shown) = (parent.to_owned(), path.to_owned());
    let turn = engine.shared.disposals.take(key).await;
    let restored = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let root = match RootDir::open(&parent) {
            Ok(root) => root,
            // It went away, and all in it.
            Err(OpenError::Vanished { .. }) => return Ok(()),
            Err(error) => return Err(Stays::unknown(error)),
        };
        match dispose::restore(&root, &name, key) {
            Ok(Some(at)) => {
                let remark = format!("the local file stays, as {}", display::path(&at));
                warn!(path = %display::path(&shown), remark, "a disposal that was cut short");
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => Err(Stays::hidden(error, dispose::set_aside(&root, &name, key))),
        }
    });
    restored.await.unwrap_or_else(|panic| Err(Stays::unknown(panic)))
}

/// The file as a candidate of its source; `None` where no root of the source holds it.
fn candidate_of(source: &Source, path: &Path) -> Option<Candidate> {
    let holding = |root: &Arc<Root>| {
        Some(Candidate { root: root.clone(), path: BelowRoot::new(path.strip_prefix(&root.path).ok()?)? })
    };
    source.entries.iter().map(Entry::root).find_map(holding)
}

/// Removes temporary names whose local file went away, became another version, or is archived. Those of files that are still
/// to be archived are taken up by whoever claims the file again. What is seen to be gone is looked for once more another
/// time: a server may be slow to carry out what an owner asked for before it died.
pub async fn remove_orphans(engine: &Arc<Engine>) -> Result<(), LedgerError> {
    // Side by side, for one of them may be out.
    let destinations = (0..engine.destinations.len()).map(|destination| remove_orphans_at(engine, destination));
    futures::future::try_join_all(destinations).await.map(|_| ())
}

async fn remove_orphans_at(engine: &Arc<Engine>, destination: usize) -> Result<(), LedgerError> {
    let mut cursor = Cursor::default();
    loop {
        let name = &engine.destinations[destination];
        let (page, next) = engine.hold(|| engine.ledger.orphans(name, cursor, PAGE)).await?;
        if page.is_empty() {
            return Ok(());
        }
        for orphan in page {
            if engine.stop.is_cancelled() {
                return Ok(());
            }
            remove_orphan(engine, destination, orphan).await?;
        }
        cursor = next;
    }
}

/// What a watch of months does once in a while.
pub async fn keep_house(engine: &Arc<Engine>) {
    let lease = engine.ledger.lease();
    // One that died just before this start is known to be dead when its lease is over.
    let mut pauses = std::iter::once(lease).chain(std::iter::repeat(HOUSEKEEPING));
    let mut due = Instant::now();
    loop {
        // Another watch of the same tree may have died in the middle of one.
        if let Some(Err(error)) = engine.stop.run_until_cancelled(finish_disposals(engine)).await {
            warn!(%error, "disposals that were cut short could not be finished; trying again later");
        }
        if Instant::now() < due {
            if engine.stop.run_until_cancelled(tokio::time::sleep(lease)).await.is_none() {
                return;
            }
            continue;
        }
        due = Instant::now() + pauses.next().unwrap_or(HOUSEKEEPING);
        if let Err(error) = engine.ledger.tidy().await {
            warn!(%error, "the ledger could not be tidied; trying again later");
        }
        // Last, for it waits for each destination that is out. It ends by itself when all stops, with no claim left.
        if let Err(error) = remove_orphans(engine).await {
            warn!(%error, "temporary names of earlier runs could not be looked after; trying again later");
        }
        if engine.stop.run_until_cancelled(tokio::time::sleep(lease)).await.is_none() {
            return;
        }
    }
}

async fn remove_orphan(engine: &Arc<Engine>, destination: usize, orphan: Orphan) -> Result<(), LedgerError> {
    if orphan.state == OrphanState::Unfinished {
        let (path, fingerprint) = (orphan.local_path.clone(), orphan.key.fingerprint);
        match tokio::task::spawn_blocking(move || stands(&path, fingerprint)).await {
            Ok(false) => {}
            Ok(true) | Err(_) => return Ok(()),
        }
    }
    let request = ClaimRequest {
        key: orphan.key.clone(),
        local_path: orphan.local_path.clone(),
        remote: orphan.remote,
        repeat: Repeat::Force,
    };
    let reply = engine.claim(&[request]).await?.pop();
    let Some(ClaimReply::Claimed(claim)) = reply else { return Ok(()) };
    reach(Point::OrphanClaimed);
    // The destination may be out for long; the claim is given back in any case.
    let staged = match engine.stop.run_until_cancelled(remove_all(engine, destination, &claim)).await {
        Some(Ok((_, Some(record)))) => {
            // Its bytes are archived, and must be known to be: its local file, which is gone, will not tell.
            return still_ours(
                engine.hold(|| engine.ledger.record(&claim, record.clone(), Intention::LeaveAlone)).await,
            );
        }
        Some(Ok((removed, None))) => {
            reach(Point::OrphanRemoved);
            if removed > 0 {
                info!(path = %display::path(&orphan.local_path), "removed what an earlier run left on the server");
            }
            let is_last_look = claim.predecessors.iter().all(|token| orphan.gone.contains(token));
            if is_last_look { Staged::Nothing } else { Staged::Gone }
        }
        Some(Err(error)) => {
            warn!(%error, "what an earlier run left on the server stays for now");
            Staged::Theirs
        }
        None => Staged::Theirs,
    };
    match engine.hold(|| engine.ledger.release(&claim, Release::Forget { staged })).await {
        Err(LedgerError::LeaseLost) => engine.reporter.lease_lost(&orphan.local_path),
        other => other?,
    }
    reach(Point::OrphanForgotten);
    Ok(())
}

/// How many of the predecessors' names stood; and what one of them had published, where bytes are archived once.
async fn remove_all(
    engine: &Engine,
    destination: usize,
    claim: &Claim,
) -> Result<(usize, Option<Record>), DestinationError> {
    let archive = &engine.archives[destination];
    let session = archive.session(Load::Light).await?;
    let mut removed = 0;
    for token in &claim.predecessors {
        let left = archive.remove_left(&session, &claim.remote.staging(claim.key.id(), *token), &claim.remote).await?;
        removed += usize::from(left == Left::File);
    }
    Ok((removed, engine.published_before(&session, destination, claim).await?))
}

/// Whether the path still stands for this version. What cannot be told counts as standing.
fn stands(path: &Path, fingerprint: Fingerprint) -> bool {
    let (Some(parent), Some(below)) = (path.parent(), path.file_name().and_then(BelowRoot::new)) else { return true };
    match RootDir::open(parent).and_then(|dir| dir.fingerprint_at(&below)) {
        Ok(now) => now == Some(fingerprint),
        Err(OpenError::Vanished { .. }) => false,
        Err(_) => true,
    }
}
