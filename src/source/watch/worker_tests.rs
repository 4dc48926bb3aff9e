use notify::event::Flag;
use notify::{Event, EventKind};

use super::*;
use crate::selection::Selection;

/// A canary is overdue and the kernel says that it lost events: all watches are set anew, with a new canary, whose time
/// only begins.
#[test]
fn a_canary_whose_event_may_be_lost_proves_nothing() {
    for (what, not_before) in [("renewed at once", Duration::ZERO), ("renewed later", Duration::from_secs(3600))] {
        let dir = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(0, dir.path()).unwrap());
        let selection = Arc::new(Selection::new(&[], &[], None).unwrap());
        let mailbox = Arc::new(Mailbox::default());
        // None of what happens is told.
        mailbox.faults.deaf.store(true, Ordering::SeqCst);
        let options = WatchOptions {
            canary_patience: Duration::from_secs(3600),
            ..WatchOptions::new(WatcherKind::Auto, Duration::from_secs(300))
        };
        let (out, mut events) = mpsc::channel(64);
        let watched = vec![Watched { root: Arc::clone(&root), selection }];
        let mut worker = Worker::new(watched, options, 1, Arc::clone(&mailbox), out, Arc::default());
        assert!(worker.begin(0).is_ok());
        worker.release_canary(0);
        let overdue = Instant::now();
        worker.places[0].canary.as_mut().unwrap().deadline = overdue;
        worker.renewal.not_before = Instant::now() + not_before;
        mailbox.faults.deaf.store(false, Ordering::SeqCst);
        mailbox.put(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)));
        assert!(matches!(worker.round(), Ok(ControlFlow::Continue(()))));
        assert_eq!(worker.places[0].mode, Mode::Events, "{what}");
        // What it made at first may be told after all.
        let is_new = |canary: &Canary| canary.deadline > overdue;
        assert!(worker.places[0].canary.as_ref().is_none_or(is_new), "{what}");
        drop(worker);
        while let Some(event) = events.blocking_recv() {
            assert!(!matches!(event, SourceEvent::Degraded { .. }), "{what}: {event:?}");
        }
    }
}
