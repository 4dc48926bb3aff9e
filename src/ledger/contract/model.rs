//! The contract as a program of its own: a model that is too simple to be wrong, and any history of two owners, who
//! must see from the real ledger what the model says.

use proptest::prelude::*;

use super::*;

/// One step of a history. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
pub enum Step {
    Claim {
        owner: usize,
        key: usize,
        repeat: Repeat,
    },
    Confirm {
        claim: usize,
    },
    Reissue {
        claim: usize,
    },
    /// Whether the claim's file is the one to archive these bytes.
    Reserve {
        claim: usize,
        content: usize,
    },
    Record {
        claim: usize,
        content: usize,
        intention: Intention,
    },
    Release {
        claim: usize,
        release: Release,
    },
    Disposing {
        owner: usize,
        key: usize,
    },
    Disposed {
        owner: usize,
        key: usize,
    },
    Postponed {
        owner: usize,
        key: usize,
    },
    Retry {
        owner: usize,
        key: usize,
    },
    Renew {
        owner: usize,
    },
    /// Half a lease.
    Pass,
    /// The clock jumps ahead or back, by so many leases and a half.
    Jump {
        leases: i32,
    },
    /// Within [`YOUNG`], no record is old enough to go.
    Tidy {
        owner: usize,
    },
    Kill {
        owner: usize,
    },
}

/// Whose a postponed disposal is.
const NOBODY: OwnerId = OwnerId(0);
const OWNERS: usize = 2;
const KEYS: usize = 3;
const CONTENTS: usize = 2;
/// Shorter than the retention of every [`World`].
const YOUNG: Duration = Duration::from_secs(1800);

pub fn history(length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    let intention = prop_oneof![Just(Intention::LeaveAlone), Just(Intention::Dispose)];
    let staged = prop_oneof![Just(Staged::Nothing), Just(Staged::Gone), Just(Staged::Theirs), Just(Staged::Maybe)];
    let release = prop_oneof![
        (1..9_u32, staged.clone()).prop_map(|(attempts, staged)| Release::Unfinished { attempts, staged }),
        (1..9_u32, staged.clone(), intention.clone()).prop_map(|(attempts, staged, intention)| Release::Failed {
            reason: "full".into(),
            attempts,
            staged,
            intention,
        }),
        staged.prop_map(|staged| Release::Forget { staged }),
    ];
    let repeat = prop_oneof![3 => Just(Repeat::Skip), 1 => Just(Repeat::Force)];
    let step = prop_oneof![
        8 => (0..OWNERS, 0..KEYS, repeat).prop_map(|(owner, key, repeat)| Step::Claim { owner, key, repeat }),
        2 => (0..4_usize).prop_map(|claim| Step::Confirm { claim }),
        2 => (0..4_usize).prop_map(|claim| Step::Reissue { claim }),
        5 => (0..4_usize, 0..CONTENTS).prop_map(|(claim, content)| Step::Reserve { claim, content }),
        3 => (0..4_usize, 0..CONTENTS, intention)
            .prop_map(|(claim, content, intention)| Step::Record { claim, content, intention }),
        4 => (0..4_usize, release).prop_map(|(claim, release)| Step::Release { claim, release }),
        2 => (0..OWNERS, 0..KEYS).prop_map(|(owner, key)| Step::Disposing { owner, key }),
        1 => (0..OWNERS, 0..KEYS).prop_map(|(owner, key)| Step::Disposed { owner, key }),
        1 => (0..OWNERS, 0..KEYS).prop_map(|(owner, key)| Step::Postponed { owner, key }),
        2 => (0..OWNERS, 0..KEYS).prop_map(|(owner, key)| Step::Retry { owner, key }),
        1 => (0..OWNERS).prop_map(|owner| Step::Renew { owner }),
        2 => Just(Step::Pass),
        1 => (-4..4).prop_map(|leases| Step::Jump { leases }),
        1 => (0..OWNERS).prop_map(|owner| Step::Tidy { owner }),
        1 => (0..OWNERS).prop_map(|owner| Step::Kill { owner }),
    ];
    proptest::collection::vec(step, length)
}

#[derive(Debug, Default, Clone)]
struct Entry {
    remote: String,
    owner: Option<OwnerId>,
    token: Option<Token>,
    staged: Vec<Token>,
    gone_at: Option<DateTime<Utc>>,
    attempts: u32,
    record: Option<Record>,
    disposer: Option<OwnerId>,
    failed: bool,
    queued_at: Option<DateTime<Utc>>,
    since: Option<DateTime<Utc>>,
}

impl Entry {
    /// The names that are left when a claim ends.
    fn leave(&mut self, claim: &Claim, staged: Staged, now: DateTime<Utc>) {
        let own = (staged == Staged::Maybe).then_some(claim.token);
        self.staged = match staged {
            Staged::Nothing => vec![],
            Staged::Gone | Staged::Theirs | Staged::Maybe => claim.predecessors.iter().copied().chain(own).collect(),
        };
        self.gone_at = (staged == Staged::Gone && !self.staged.is_empty()).then_some(now);
    }

    /// Whether somebody should look after what is staged, now.
    fn is_left(&self, now: DateTime<Utc>, lease: Duration) -> bool {
        let gone_for = self.gone_at.map(|gone_at| now.timestamp_millis() - gone_at.timestamp_millis());
        !self.staged.is_empty() && gone_for.is_none_or(|gone_for| gone_for >= lease.as_millis() as i64)
    }
}

fn bytes(content: usize) -> Sha256Digest {
    Sha256Digest([content as u8; 32])
}

struct Model<W> {
    world: W,
    began: DateTime<Utc>,
    ledgers: Vec<Arc<dyn Ledger>>,
    lease_until: Vec<DateTime<Utc>>,
    entries: Vec<Option<Entry>>,
    /// By their bytes, the files that are to archive them.
    reserved: Vec<Option<usize>>,
    /// Every claim that was made, the latest first.
    claims: Vec<(usize, OwnerId, Claim)>,
    last_token: Option<Token>,
    remotes: usize,
    /// As they were last seen.
    retries: u64,
}

/// Goes through a history and panics where the ledger and the model disagree.
pub async fn agrees(world: impl World, history: Vec<Step>) {
    let mut ledgers = Vec::new();
    for _ in 0..OWNERS {
        ledgers.push(world.join().await);
    }
    let lease_until = ledgers.iter().map(|ledger| world.now() + ledger.lease()).collect();
    let mut model = Model {
        began: world.now(),
        world,
        ledgers,
        lease_until,
        entries: vec![None; KEYS],
        reserved: vec![None; CONTENTS],
        claims: vec![],
        last_token: None,
        remotes: 0,
        retries: 0,
    };
    for ledger in &model.ledgers {
        ledger.index_contents().await.unwrap();
    }
    model.retries = model.ledgers[0].retries().await.unwrap();
    let view = model.world.view().await;
    for step in history {
        model.step(step).await;
        model.check_listings().await;
        model.check_view(&*view).await;
    }
}

impl<W: World> Model<W> {
    fn held(&self, by: Option<OwnerId>, asks: usize) -> Option<OwnerId> {
        let by = by?;
        let owner = self.ledgers.iter().position(|ledger| ledger.owner() == by)?;
        (owner == asks || self.lease_until[owner] > self.world.now()).then_some(by)
    }

    /// The claim number `back`, counted from the latest, where its owner still lives.
    fn claim(&self, back: usize) -> Option<(usize, usize, Claim)> {
        let (key, owner, claim) = self.claims.get(back)?.clone();
        Some((key, self.ledgers.iter().position(|ledger| ledger.owner() == owner)?, claim))
    }

    /// The claim's entry, if the claim still stands.
    fn current(&mut self, key: usize, owner: usize, claim: &Claim) -> Option<&mut Entry> {
        let owner = self.ledgers[owner].owner();
        self.entries[key].as_mut().filter(|entry| entry.token == Some(claim.token) && entry.owner == Some(owner))
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Claim { owner, key, repeat } => self.ask(owner, key, repeat).await,
            Step::Confirm { claim } => {
                let Some((key, owner, claim)) = self.claim(claim) else { return };
                let result = self.ledgers[owner].confirm(&claim).await;
                assert_eq!(result.is_ok(), self.current(key, owner, &claim).is_some());
                let lease = self.ledgers[owner].lease();
                if result.is_ok() && self.lease_until[owner] < self.world.now() + lease / 2 {
                    self.lease_until[owner] = self.world.now() + lease;
                }
            }
            Step::Reissue { claim } => {
                let Some((key, owner, claim)) = self.claim(claim) else { return };
                let result = self.ledgers[owner].reissue(&claim).await;
                let me = self.ledgers[owner].owner();
                let Some(entry) = self.current(key, owner, &claim) else {
                    let tokens: Vec<_> = claim.predecessors.iter().copied().chain([claim.token]).collect();
                    let follower = self.entries[key].as_ref().filter(|entry| entry.owner == Some(me));
                    match follower.and_then(|entry| entry.staged.split_last()) {
                        Some((token, earlier)) if *earlier == *tokens => {
                            let follower = result.unwrap();
                            assert_eq!((follower.token, follower.predecessors), (*token, tokens));
                        }
                        _ => assert!(matches!(result, Err(LedgerError::LeaseLost)), "{result:?}"),
                    }
                    return;
                };
                let later = result.unwrap();
                entry.staged = claim.predecessors.iter().copied().chain([claim.token, later.token]).collect();
                entry.token = Some(later.token);
                assert_eq!(later.predecessors[..], entry.staged[..entry.staged.len() - 1]);
                assert!(self.last_token.is_none_or(|last| last < later.token));
                self.last_token = Some(later.token);
                let holder = self.ledgers[owner].owner();
                self.claims.insert(0, (key, holder, later));
            }
            Step::Reserve { claim, content } => self.reserve(claim, content).await,
            Step::Record { claim, content, intention } => {
                let Some((key, owner, claim)) = self.claim(claim) else { return };
                let sha256 = bytes(content);
                let record = Record { sha256, ..record(claim.remote.as_str(), self.world.now()) };
                let result = self.ledgers[owner].record(&claim, record.clone(), intention).await;
                let disposer = (intention == Intention::Dispose).then(|| self.ledgers[owner].owner());
                let now = self.world.now();
                let entry = self.current(key, owner, &claim);
                assert_eq!(result.is_ok(), entry.is_some());
                if let Some(entry) = entry {
                    let (remote, attempts) = (entry.remote.clone(), entry.attempts);
                    let (token, queued_at) = (entry.token, entry.queued_at);
                    let left = Entry { remote, token, attempts, queued_at, ..Entry::default() };
                    *entry = Entry { record: Some(record), disposer, ..left };
                    entry.leave(&claim, Staged::Gone, now);
                    self.unreserve(key);
                }
            }
            Step::Release { claim, release } => {
                let Some((key, owner, claim)) = self.claim(claim) else { return };
                let result = self.ledgers[owner].release(&claim, release.clone()).await;
                let (me, now) = (self.ledgers[owner].owner(), self.world.now());
                let entry = self.current(key, owner, &claim);
                assert_eq!(result.is_ok(), entry.is_some());
                let Some(entry) = entry else { return };
                entry.owner = None;
                entry.failed = matches!(release, Release::Failed { .. }) && entry.record.is_none();
                entry.since = Some(now);
                if matches!(release, Release::Failed { intention: Intention::Dispose, .. }) {
                    entry.disposer = Some(me);
                }
                let (Release::Failed { staged, .. } | Release::Unfinished { staged, .. } | Release::Forget { staged }) =
                    release;
                if let Release::Failed { attempts, .. } | Release::Unfinished { attempts, .. } = release {
                    entry.attempts = attempts;
                }
                entry.leave(&claim, staged, now);
                if matches!(release, Release::Forget { .. })
                    && entry.staged.is_empty()
                    && entry.record.is_none()
                    && entry.disposer.is_none()
                {
                    self.entries[key] = None;
                    self.unreserve(key);
                }
            }
            Step::Disposing { owner, key } => {
                let result = self.ledgers[owner].disposing(&self::key(&key.to_string())).await;
                let me = self.ledgers[owner].owner();
                let allowed = self.entries[key].as_ref().is_some_and(|entry| {
                    (entry.record.is_some() || entry.disposer.is_some())
                        && self.held(entry.owner, owner).is_none()
                        && self.held(entry.disposer, owner).is_none_or(|disposer| disposer == me)
                });
                assert_eq!(result.is_ok(), allowed);
                if let Some(entry) = self.entries[key].as_mut().filter(|_| allowed) {
                    entry.disposer = Some(me);
                }
            }
            Step::Disposed { owner, key } => {
                self.ledgers[owner].disposed(&self::key(&key.to_string())).await.unwrap();
                let me = self.ledgers[owner].owner();
                if let Some(entry) = self.entries[key].as_mut().filter(|entry| entry.disposer == Some(me)) {
                    entry.disposer = None;
                }
            }
            Step::Postponed { owner, key } => {
                self.ledgers[owner].postponed(&self::key(&key.to_string())).await.unwrap();
                let me = self.ledgers[owner].owner();
                if let Some(entry) = self.entries[key].as_mut().filter(|entry| entry.disposer == Some(me)) {
                    entry.disposer = Some(NOBODY);
                }
            }
            Step::Retry { owner, key } => {
                let put_back = self.ledgers[owner].retry(vec![self::key(&key.to_string())]).await.unwrap();
                let now = self.world.now();
                let failed = self.entries[key].as_mut().filter(|entry| entry.failed);
                assert_eq!(put_back, [failed.is_some()]);
                if let Some(entry) = failed {
                    (entry.failed, entry.attempts, entry.since) = (false, 0, Some(now));
                }
                let retries = self.ledgers[owner].retries().await.unwrap();
                assert_eq!(retries > self.retries, put_back[0]);
                self.retries = retries;
            }
            Step::Renew { owner } => {
                self.ledgers[owner].renew().await.unwrap();
                self.lease_until[owner] = self.world.now() + self.ledgers[owner].lease();
            }
            Step::Pass => self.world.pass(self.ledgers[0].lease() / 2),
            Step::Jump { leases } => {
                let lease = self.ledgers[0].lease();
                let far = lease * leases.unsigned_abs() + lease / 2;
                if leases < 0 { self.world.set_back(far) } else { self.world.pass(far) }
            }
            Step::Tidy { owner } if self.world.now() < self.began + YOUNG => {
                self.ledgers[owner].tidy().await.unwrap();
            }
            Step::Tidy { .. } => {}
            Step::Kill { owner } => {
                let dead = self.ledgers.remove(owner);
                self.world.kill(dead).await;
                self.ledgers.insert(owner, self.world.join().await);
                self.ledgers[owner].index_contents().await.unwrap();
                self.lease_until[owner] = self.world.now() + self.ledgers[owner].lease();
            }
        }
    }

    fn unreserve(&mut self, key: usize) {
        self.reserved.iter_mut().filter(|reserved| **reserved == Some(key)).for_each(|reserved| *reserved = None);
    }

    async fn reserve(&mut self, claim: usize, content: usize) {
        let Some((key, owner, claim)) = self.claim(claim) else { return };
        // Nobody asks for what is on record, and is archived again because somebody wants it.
        if self.entries[key].as_ref().is_some_and(|entry| entry.record.is_some()) {
            return;
        }
        let reply = self.ledgers[owner].reserve(&claim, bytes(content)).await;
        if self.current(key, owner, &claim).is_none() {
            assert!(matches!(reply, Err(LedgerError::LeaseLost)), "{reply:?}");
            return;
        }
        let reply = reply.unwrap();
        let others = self.entries.iter().flatten().filter_map(|entry| entry.record.as_ref());
        let standing: Vec<_> =
            others.filter(|record| record.sha256 == bytes(content)).map(|record| record.remote.clone()).collect();
        let holder = self.reserved[content];
        if holder == Some(key) && !claim.predecessors.is_empty() {
            assert!(matches!(reply, Reservation::Ours), "{reply:?}");
            return;
        }
        if !standing.is_empty() {
            assert!(matches!(&reply, Reservation::Stands(remote) if standing.contains(remote)), "{reply:?}");
            return;
        }
        let other = holder.filter(|holder| *holder != key);
        let other =
            other.and_then(|other| Some((other, self.entries[other].as_ref().filter(|entry| entry.record.is_none())?)));
        if let Some((other, entry)) = other {
            if let Some(held) = self.held(entry.owner, owner) {
                assert!(matches!(reply, Reservation::InHand(owner) if owner == held), "{reply:?}");
                return;
            }
            if !entry.staged.is_empty() && entry.gone_at.is_none() {
                let Reservation::Left(left) = reply else { panic!("{reply:?}") };
                assert_eq!(left.request.key, self::key(&other.to_string()));
                assert_eq!(left.request.remote.as_str(), entry.remote);
                assert_eq!(left.failed, entry.failed.then(|| "full".to_owned()));
                return;
            }
        }
        assert!(matches!(reply, Reservation::Ours), "{reply:?}");
        self.unreserve(key);
        self.reserved[content] = Some(key);
    }

    async fn ask(&mut self, owner: usize, key: usize, repeat: Repeat) {
        self.remotes += 1;
        let requested = format!("/{}/x", self.remotes);
        let request = ClaimRequest { repeat, ..request(&key.to_string(), &requested) };
        let reply = ask(&*self.ledgers[owner], request).await;
        let entry = self.entries[key].clone();
        if let Some(by) = entry.as_ref().and_then(|entry| self.held(entry.owner, owner)) {
            assert!(matches!(reply, ClaimReply::Held { owner } if owner == by), "{reply:?}");
            return;
        }
        let mut entry = entry.unwrap_or_else(|| Entry { remote: requested.clone(), ..Entry::default() });
        match (&entry.record, repeat) {
            (Some(record), Repeat::Skip) => {
                assert_eq!(recorded(reply), *record);
                return;
            }
            (Some(_), Repeat::Force) if entry.staged.is_empty() => {
                entry.remote = requested;
                entry.attempts = 0;
            }
            _ => {}
        }
        let claim = claimed(reply);
        assert_eq!(claim.remote.as_str(), entry.remote);
        assert_eq!((&claim.predecessors, claim.attempts), (&entry.staged, entry.attempts));
        assert!(self.last_token.is_none_or(|last| last < claim.token));
        self.last_token = Some(claim.token);
        let now = self.world.now();
        entry.queued_at = if entry.record.is_some() { Some(now) } else { entry.queued_at.or(Some(now)) };
        (entry.failed, entry.since) = (false, Some(now));
        entry.token = Some(claim.token);
        entry.staged.push(claim.token);
        entry.gone_at = None;
        entry.owner = Some(self.ledgers[owner].owner());
        self.claims.insert(0, (key, self.ledgers[owner].owner(), claim));
        self.entries[key] = Some(entry);
    }

    async fn check_listings(&self) {
        for (asks, ledger) in self.ledgers.iter().enumerate() {
            let expected = |wanted: &dyn Fn(&Entry) -> bool| {
                let entries = self.entries.iter().enumerate();
                let free = entries.filter(|(_, entry)| {
                    entry.as_ref().is_some_and(|entry| self.held(entry.owner, asks).is_none() && wanted(entry))
                });
                free.map(|(index, _)| key(&index.to_string()).path).collect::<BTreeSet<_>>()
            };
            let orphans = orphan_keys(&**ledger).await.into_iter().map(|key| key.path).collect::<BTreeSet<_>>();
            assert_eq!(
                orphans,
                expected(&|entry| entry.disposer.is_none() && entry.is_left(self.world.now(), ledger.lease()))
            );
            let undisposed = undisposed_keys(&**ledger).await.into_iter().map(|key| key.path).collect::<BTreeSet<_>>();
            assert_eq!(
                undisposed,
                expected(&|entry| entry.disposer.is_some() && self.held(entry.disposer, asks).is_none())
            );
        }
    }

    async fn check_view(&self, view: &dyn LedgerView) {
        let found = infos(view, EntryFilter::All, 2).await;
        let failed = infos(view, EntryFilter::Failed, 1).await;
        for (index, entry) in self.entries.iter().enumerate() {
            let name = index.to_string();
            let of_key = |infos: &[EntryInfo]| {
                let mut matching = infos.iter().filter(|info| info.key == key(&name));
                (matching.next().cloned(), matching.count())
            };
            let ((info, more), (listed, again)) = (of_key(&found), of_key(&failed));
            assert_eq!((info.is_some(), more, again), (entry.is_some(), 0, 0));
            let (Some(info), Some(entry)) = (info, entry) else {
                assert_eq!(listed, None);
                continue;
            };
            assert_eq!(
                (info.remote.as_str(), Some(info.token), &info.record),
                (&*entry.remote, entry.token, &entry.record)
            );
            assert_eq!(info.queued_at, entry.queued_at);
            assert_eq!((&info.staged, info.attempts), (&entry.staged, entry.attempts));
            assert_eq!(info.gone_at.map(|at| at.timestamp_millis()), entry.gone_at.map(|at| at.timestamp_millis()));
            assert_eq!(info.disposal == Disposal::Pending, entry.disposer.is_some());
            assert_eq!(listed.as_ref(), Some(&info).filter(|_| entry.failed));
            // Whoever looks holds nothing itself.
            match (self.held(entry.owner, usize::MAX), info.state) {
                (Some(owner), EntryState::Held { holder, since }) => {
                    let position = self.ledgers.iter().position(|ledger| ledger.owner() == owner).unwrap();
                    let left = (self.lease_until[position] - self.world.now()).to_std().unwrap();
                    assert_eq!(
                        (holder.owner, holder.lease_left.as_millis(), since),
                        (owner, left.as_millis(), entry.since)
                    );
                }
                (None, EntryState::Recorded) => assert!(entry.record.is_some()),
                (None, EntryState::Failed { reason, attempts, since }) => {
                    assert!(entry.failed);
                    assert_eq!((&*reason, attempts, since), ("full", entry.attempts, entry.since));
                }
                (None, EntryState::Waiting { since }) => {
                    assert!(!entry.failed && entry.record.is_none());
                    assert_eq!(since, entry.since);
                }
                (held, state) => panic!("{held:?} {state:?}"),
            }
        }
    }
}
