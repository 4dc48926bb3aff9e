//! What who only looks must see, and what becomes of what is put back.

use super::*;

/// All pages together.
pub(super) async fn infos(view: &dyn LedgerView, filter: EntryFilter, limit: usize) -> Vec<EntryInfo> {
    let (mut all, mut after) = (Vec::new(), Cursor::default());
    loop {
        let (page, next) = view.entries(filter, after, limit).await.unwrap();
        let last = page.len() < limit;
        all.extend(page);
        if last {
            return all;
        }
        after = next;
    }
}

fn failed(reason: &str) -> Release {
    let (reason, staged, intention) = (reason.into(), Staged::Nothing, Intention::LeaveAlone);
    Release::Failed { reason, attempts: 8, staged, intention }
}

pub async fn who_looks_sees_every_entry_in_its_state(world: impl World) {
    let (a, b) = (world.join().await, world.join().await);
    let view = world.view().await;
    assert_eq!(infos(&*view, EntryFilter::All, 10).await, []);
    let began = world.now();
    for name in ["recorded", "failed", "waiting", "gone"] {
        claim(&*a, name, &format!("/1/{name}")).await;
    }
    world.kill(a).await;
    world.pass(Duration::from_secs(5));
    // Taken over, so that it was queued before it was claimed.
    let heir = async |name: &str| claim(&*b, name, "/2").await;
    let then = world.now();
    b.record(&heir("recorded").await, record("/1/other", then), Intention::Dispose).await.unwrap();
    b.release(&heir("failed").await, failed("no room\n")).await.unwrap();
    let again = claim(&*b, "again", "/1/again").await;
    b.record(&again, record("/1/again", then), Intention::LeaveAlone).await.unwrap();
    b.release(&heir("gone").await, Release::Forget { staged: Staged::Nothing }).await.unwrap();
    world.pass(Duration::from_secs(5));
    let forced = claimed(ask(&*b, forced("again", "/3/again")).await);
    for limit in [1, 2, 3, 100] {
        let mut found = infos(&*view, EntryFilter::All, limit).await;
        found.sort_by(|one, other| one.key.path.cmp(&other.key.path));
        let [again, failed, recorded, waiting] = &found[..] else { panic!("{found:?}") };
        let EntryState::Held { holder, since } = &again.state else { panic!("{again:?}") };
        assert_eq!((holder.owner, holder.pid, *since), (b.owner(), std::process::id(), Some(world.now())));
        assert_eq!(holder.lease_left, b.lease() - Duration::from_secs(10));
        assert!(!holder.hostname.is_empty());
        assert_eq!((again.token, again.remote.as_str()), (forced.token, "/3/again"));
        assert_eq!((again.queued_at, &again.record), (Some(world.now()), &Some(record("/1/again", then))));
        let expected = EntryState::Failed { reason: "no room\n".into(), attempts: 8, since: Some(then) };
        assert_eq!((&failed.state, failed.queued_at, &failed.record), (&expected, Some(began), &None));
        assert_eq!(failed.disposal, Disposal::Settled);
        assert_eq!((&recorded.state, recorded.disposal), (&EntryState::Recorded, Disposal::Pending));
        assert_eq!(recorded.record, Some(record("/1/other", then)));
        assert_eq!((&recorded.key, recorded.local_path.to_str()), (&key("recorded"), Some("/src/recorded")));
        assert_eq!((&waiting.state, waiting.queued_at), (&EntryState::Waiting { since: Some(began) }, Some(began)));
        assert_eq!(infos(&*view, EntryFilter::Failed, limit).await, std::slice::from_ref(failed));
    }
    world.kill(b).await;
    let found = infos(&*view, EntryFilter::All, 100).await;
    let again = found.iter().find(|info| info.key == key("again")).unwrap();
    assert_eq!((&again.state, &again.record), (&EntryState::Recorded, &Some(record("/1/again", then))));
}

pub async fn failed_entries_are_put_back(world: impl World) {
    let (a, b) = (world.join().await, world.join().await);
    let view = world.view().await;
    for name in ["1", "2", "3"] {
        let mine = claim(&*a, name, &format!("/1/{name}")).await;
        a.release(&mine, failed("full")).await.unwrap();
    }
    let done = claim(&*a, "done", "/done").await;
    a.record(&done, record("/done", world.now()), Intention::LeaveAlone).await.unwrap();
    claim(&*a, "held", "/held").await;
    let before = b.retries().await.unwrap();
    assert_eq!(b.retry(["done", "held", "unknown"].map(key).into()).await.unwrap(), [false; 3]);
    assert_eq!(a.retries().await.unwrap(), before);
    assert_eq!(b.retry(["1", "done", "2"].map(key).into()).await.unwrap(), [true, false, true]);
    let after = a.retries().await.unwrap();
    assert!(after > before);
    assert_eq!(b.retry(vec![key("1")]).await.unwrap(), [false]);
    assert_eq!(a.retries().await.unwrap(), after);
    let failed = infos(&*view, EntryFilter::Failed, 10).await;
    assert_eq!(failed.iter().map(|info| &info.key).collect::<Vec<_>>(), [&key("3")]);
    let all = infos(&*view, EntryFilter::All, 10).await;
    let waiting = all.iter().filter(|info| matches!(info.state, EntryState::Waiting { .. }));
    assert_eq!(waiting.count(), 2);
    let again = claim(&*a, "1", "/2/1").await;
    assert_eq!((again.attempts, again.remote.as_str()), (0, "/1/1"));
    recorded(ask(&*a, request("done", "/2")).await);
    assert!(is_held_by(ask(&*b, request("held", "/2")).await, &*a));
}
