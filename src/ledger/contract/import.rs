//! What becomes of the entries of another ledger.

use super::*;

const LATE: Token = Token(1 << 50);

/// A file that nobody has, with names staged under `/old/<name>`.
pub fn foreign(name: &str, staged: &[u64]) -> EntryInfo {
    let at = DateTime::from_timestamp(1_795_000_000, 123_000).unwrap();
    EntryInfo {
        key: key(name),
        local_path: PathBuf::from("/there").join(name),
        remote: RemotePath::new(format!("/old/{name}")),
        token: Token(9),
        state: EntryState::Waiting { since: Some(at) },
        queued_at: Some(at),
        record: None,
        disposal: Disposal::Settled,
        attempts: 3,
        staged: staged.iter().copied().map(Token).collect(),
        gone_at: None,
    }
}

fn archived(name: &str, staged: &[u64]) -> EntryInfo {
    let at = DateTime::from_timestamp(1_795_000_001, 456_000).unwrap();
    EntryInfo {
        record: Some(record(&format!("/old/{name}"), at)),
        state: EntryState::Recorded,
        ..foreign(name, staged)
    }
}

async fn look(world: &impl World) -> Vec<EntryInfo> {
    infos(&*world.view().await, EntryFilter::All, 100).await
}

async fn find(world: &impl World, name: &str) -> EntryInfo {
    look(world).await.into_iter().find(|info| info.key == key(name)).unwrap()
}

pub async fn all_owners_are_told_of(world: impl World) {
    let (a, b, c) = (world.join().await, world.join().await, world.join().await);
    let view = world.view().await;
    claim(&*a, "x", "/x").await;
    let outline = view.outline().await.unwrap();
    let mut owners: Vec<_> = outline.members.iter().map(|member| member.owner.0).collect();
    owners.sort();
    let mut expected = [a.owner().0, b.owner().0, c.owner().0];
    expected.sort();
    assert_eq!(owners, expected);
    for member in &outline.members {
        assert_eq!((member.pid, member.life), (std::process::id(), Life::Live { lease_left: a.lease() }));
        assert!(!member.hostname.is_empty());
    }
    let later = claim(&*a, "y", "/y").await;
    assert_eq!(view.outline().await.unwrap().last_token, later.token);
    c.finish().await.unwrap();
    world.kill(b).await;
    world.pass(a.lease() / 2);
    a.renew().await.unwrap();
    let of =
        |outline: Outline| outline.members.into_iter().filter(|member| member.life.is_possible()).collect::<Vec<_>>();
    let live = of(view.outline().await.unwrap());
    assert_eq!(live.iter().map(|member| member.owner).collect::<Vec<_>>(), [a.owner()]);
    // Its process stands all the same, where that is known.
    world.pass(a.lease() * 2);
    let outline = view.outline().await.unwrap();
    let of_a = outline.members.iter().find(|member| member.owner == a.owner()).unwrap();
    let for_so_long = a.lease();
    assert!([Life::Hung { for_so_long }, Life::Lapsed { for_so_long }].contains(&of_a.life), "{:?}", of_a.life);
}

pub async fn what_another_ledger_had_goes_on_here(world: impl World) {
    let a = world.join().await;
    let failed = EntryInfo {
        state: EntryState::Failed { reason: "no room\n".into(), attempts: 3, since: foreign("", &[]).queued_at },
        ..foreign("failed", &[])
    };
    let gone_at = DateTime::from_timestamp_millis(1_795_000_002_345);
    let moved = vec![
        foreign("waiting", &[5, 7]),
        failed,
        EntryInfo { disposal: Disposal::Pending, ..archived("done", &[]) },
        EntryInfo { gone_at, ..archived("gone", &[4]) },
        EntryInfo { queued_at: None, state: EntryState::Waiting { since: None }, ..foreign("old", &[]) },
    ];
    assert_eq!(a.import(moved.clone(), LATE).await.unwrap(), [Imported::Added; 5]);
    assert_eq!(look(&world).await, moved);
    let failed = infos(&*world.view().await, EntryFilter::Failed, 9).await;
    assert_eq!(failed, moved[1..2]);
    // Again, and it is as if never repeated.
    assert_eq!(a.import(moved.clone(), LATE).await.unwrap(), [Imported::Known; 5]);
    assert_eq!(look(&world).await, moved);
    // It goes on: staged names are found, records known, and later tokens larger.
    assert_eq!(orphan_keys(&*a).await, [key("waiting"), key("gone")]);
    assert_eq!(undisposed_keys(&*a).await, [key("done")]);
    let waiting = claim(&*a, "waiting", "/new/waiting").await;
    assert_eq!((waiting.remote.as_str(), waiting.attempts), ("/old/waiting", 3));
    assert_eq!(waiting.predecessors, [Token(5), Token(7)]);
    assert!(waiting.token > LATE);
    assert_eq!(Some(recorded(ask(&*a, request("done", "/new/done")).await)), moved[2].record);
    assert_eq!(a.retry(vec![key("failed")]).await.unwrap(), [true]);
    a.disposing(&key("done")).await.unwrap();
    a.disposed(&key("done")).await.unwrap();
    a.record(&waiting, record("/old/waiting", world.now()), Intention::LeaveAlone).await.unwrap();
}

pub async fn what_stands_here_outlives_an_import(world: impl World) {
    let (a, b) = (world.join().await, world.join().await);
    for name in ["mine", "held", "failed", "staged", "elsewhere"] {
        let claim = claim(&*a, name, &format!("/{}/{name}", if name == "elsewhere" { "new" } else { "old" })).await;
        match name {
            "mine" => a.record(&claim, record("/new/mine", world.now()), Intention::LeaveAlone).await.unwrap(),
            "failed" => {
                let (reason, staged, intention) = ("full".into(), Staged::Nothing, Intention::LeaveAlone);
                a.release(&claim, Release::Failed { reason, attempts: 8, staged, intention }).await.unwrap();
            }
            "held" => {}
            _ => a.release(&claim, unfinished(Staged::Maybe)).await.unwrap(),
        }
    }
    let before = find(&world, "mine").await;
    let held = find(&world, "held").await;
    let moved = vec![
        archived("mine", &[]),
        archived("held", &[3]),
        EntryInfo { disposal: Disposal::Pending, ..archived("failed", &[]) },
        foreign("staged", &[3]),
        foreign("elsewhere", &[3]),
    ];
    let dealt_with = b.import(moved.clone(), Token(9)).await.unwrap();
    let (kept, completed) = (Imported::Kept, Imported::Completed);
    assert_eq!(dealt_with, [kept, completed, completed, completed, kept]);
    let after = look(&world).await;
    // A record that stands is never replaced; one that comes is never lost.
    assert_eq!(find(&world, "mine").await, before);
    assert_eq!(find(&world, "held").await, EntryInfo { record: moved[1].record.clone(), ..held });
    let failed = find(&world, "failed").await;
    assert_eq!((&failed.state, &failed.record), (&EntryState::Recorded, &moved[2].record));
    assert_eq!(undisposed_keys(&*b).await, [key("failed")]);
    assert_eq!(infos(&*world.view().await, EntryFilter::Failed, 9).await, []);
    let staged = find(&world, "staged").await.staged;
    assert_eq!((staged.len(), staged[0]), (2, Token(3)));
    assert_eq!(find(&world, "elsewhere").await.staged.len(), 1);
    // What could not be taken in cannot the second time either, and all else is there.
    let again = b.import(moved, Token(9)).await.unwrap();
    assert_eq!(again, [kept, kept, Imported::Known, Imported::Known, kept]);
    assert_eq!(look(&world).await, after);
    // The claim stood all the time, and falls back to the record.
    let mine = find(&world, "held").await;
    let claim = Claim {
        key: mine.key.clone(),
        token: mine.token,
        remote: mine.remote.clone(),
        predecessors: vec![],
        attempts: 0,
    };
    a.release(&claim, unfinished(Staged::Nothing)).await.unwrap();
    assert_eq!(find(&world, "held").await.state, EntryState::Recorded);
}
