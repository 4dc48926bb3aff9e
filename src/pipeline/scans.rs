//! Walks that were asked for, of whole roots and of single directories, each lane one after the other.

use std::collections::{HashSet, VecDeque};
use std::mem::Discriminant;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::mpsc;
use tracing::debug;

use super::engine::Engine;
use super::names::{Named, named, send_found};
use crate::domain::display;
use crate::source::scan::{scan, scan_below, scan_flat};
use crate::source::{BelowRoot, Root};

/// Walks of single directories that wait at most. Beyond it, the whole root is walked instead.
const DIRECTORIES: usize = 1_024;

/// What to walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Walk {
    Root(Arc<Root>, Why),
    Below(Arc<Root>, BelowRoot),
    /// Only the files that stand directly in a directory.
    Flat(Arc<Root>, PathBuf),
}

impl Walk {
    pub fn root(&self) -> &Arc<Root> {
        let (Self::Root(root, _) | Self::Below(root, _) | Self::Flat(root, _)) = self;
        root
    }

    /// What tells a walk of a directory from others.
    fn key(&self) -> Key {
        let path = match self {
            Self::Root(..) => Path::new(""),
            Self::Below(_, directory) => directory.as_path(),
            Self::Flat(_, directory) => directory,
        };
        (Arc::as_ptr(self.root()).addr(), std::mem::discriminant(self), path.to_owned())
    }
}

type Key = (usize, Discriminant<Walk>, PathBuf);

/// What a walk of a whole root is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// To make sure, or because it is time to poll.
    Interval,
    /// Nothing else would find what is there.
    Needed,
}

/// What a walk names, as it goes along.
pub type Found = mpsc::Receiver<Named>;

/// Walks asked for. Those of single directories do not wait for those of whole roots, which may take minutes.
#[derive(Debug, Default)]
pub struct Scans {
    pub(super) directories: Lane,
    /// Those that wait in that lane.
    known: HashSet<Key>,
    pub(super) roots: Lane,
    /// Until when a root is not walked again only because it is time to.
    rests: Vec<(Arc<Root>, Instant)>,
}

/// Walks that come one after the other, so that many requests cost no more threads.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub queue: VecDeque<Walk>,
    pub under_way: Option<UnderWay>,
}

#[derive(Debug)]
pub(super) struct UnderWay {
    walk: Walk,
    found: Found,
    began: Instant,
    mark: u64,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Queued,
    /// A walk that has not begun yet sees all that this one would.
    Covered,
    /// A walk of the whole root is under way, or ended so lately that the disk has a rest.
    TooSoon,
}

/// How a walk goes along.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It named something.
    Named,
    /// It came to its end, with the mark that was given when it began.
    Ended(Walk, u64),
}

impl Scans {
    pub fn ask(&mut self, walk: Walk) -> Asked {
        match walk {
            Walk::Root(root, why) => self.ask_root(root, why),
            Walk::Below(..) | Walk::Flat(..) if self.known.contains(&walk.key()) => Asked::Covered,
            Walk::Below(..) | Walk::Flat(..) if self.known.len() >= DIRECTORIES => {
                // It begins later than all these were asked for, so it finds what they would.
                let root = walk.root().clone();
                self.directories.queue.retain(|queued| *queued.root() != root);
                self.known = self.directories.queue.iter().map(Walk::key).collect();
                self.ask_root(root, Why::Needed)
            }
            Walk::Below(..) | Walk::Flat(..) => {
                self.known.insert(walk.key());
                self.directories.queue.push_back(walk);
                Asked::Queued
            }
        }
    }

    fn ask_root(&mut self, root: Arc<Root>, why: Why) -> Asked {
        let queued = self.roots.queue.iter_mut().find_map(|walk| match walk {
            Walk::Root(queued, why) if *queued == root => Some(why),
            _ => None,
        });
        if let Some(known) = queued {
            if why == Why::Needed {
                *known = why;
            }
            return Asked::Covered;
        }
        let is_under_way = || self.roots.under_way.as_ref().is_some_and(|walk| *walk.walk.root() == root);
        let rests = || self.rests.iter().any(|(rests, until)| *rests == root && Instant::now() < *until);
        if why == Why::Interval && (is_under_way() || rests()) {
            return Asked::TooSoon;
        }
        self.roots.queue.push_back(Walk::Root(root, why));
        Asked::Queued
    }

    /// Drops what was to make sure, or to poll, begun or not.
    pub fn only_needed(&mut self) {
        let needed = |walk: &Walk| !matches!(walk, Walk::Root(_, Why::Interval));
        self.roots.queue.retain(needed);
        self.roots.under_way.take_if(|under_way| !needed(&under_way.walk));
    }

    pub fn busy(&self) -> bool {
        self.directories.busy() || self.roots.busy()
    }

    /// Whether a walk is under way, or asked for, that nothing else stands in for.
    pub fn needed(&self) -> bool {
        let is_needed = |walk: &Walk| !matches!(walk, Walk::Root(_, Why::Interval));
        self.directories.busy()
            || self.roots.under_way.as_ref().is_some_and(|under_way| is_needed(&under_way.walk))
            || self.roots.queue.iter().any(is_needed)
    }

    /// What a walk under way found, at most so much; pending for ever where there is none. Begins the next one, with
    /// this mark.
    pub fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        begin: &impl Fn(Walk) -> Found,
        mark: u64,
        batch: &mut Vec<Named>,
        at_most: usize,
    ) -> Poll<Step> {
        if at_most == 0 {
            return Poll::Pending;
        }
        for lane in [&mut self.directories, &mut self.roots] {
            if lane.under_way.is_none()
                && let Some(walk) = lane.queue.pop_front()
            {
                self.known.remove(&walk.key());
                lane.under_way = Some(UnderWay { found: begin(walk.clone()), walk, began: Instant::now(), mark });
            }
            let Some(under_way) = &mut lane.under_way else { continue };
            match under_way.found.poll_recv_many(context, batch, at_most) {
                Poll::Pending => {}
                Poll::Ready(0) => {
                    let Some(UnderWay { walk, began, mark, .. }) = lane.under_way.take() else { continue };
                    if let Walk::Root(root, _) = &walk {
                        self.rests.retain(|(rests, _)| rests != root);
                        self.rests.push((root.clone(), Instant::now() + began.elapsed()));
                    }
                    return Poll::Ready(Step::Ended(walk, mark));
                }
                Poll::Ready(_) => return Poll::Ready(Step::Named),
            }
        }
        Poll::Pending
    }
}

impl Lane {
    fn busy(&self) -> bool {
        self.under_way.is_some() || !self.queue.is_empty()
    }
}

/// Begins a walk on a thread of its own.
pub fn begin(engine: &Arc<Engine>, walk: Walk) -> Found {
    let engine = engine.clone();
    if let Walk::Root(..) = walk {
        engine.reporter.scanning();
    }
    named(move |send| run_walk(&engine, &walk, send))
}

fn run_walk(engine: &Engine, walk: &Walk, send: &mut dyn FnMut(Named) -> ControlFlow<()>) {
    let root = walk.root();
    let selection = &engine.sources[root.source].selection;
    let visit = &mut |found| send_found(found, send);
    let ended = match walk {
        Walk::Root(root, _) => scan(root, selection, visit),
        Walk::Below(root, directory) => scan_below(root, directory, selection, visit),
        Walk::Flat(root, directory) => scan_flat(root, directory, selection, visit),
    };
    if ended.is_break() {
        debug!(path = %display::path(&root.path), "the walk was broken off");
    }
}

#[cfg(test)]
#[path = "scans_tests.rs"]
mod tests;
