//! Commits of the less usual kinds, broken off: written directly, over another file, beside another file.

use std::sync::Arc;

use archiver::embedded::{AnnouncedExtensions, Fault, Operation, Quirks, RenamePolicy};

use super::crash::{Moment, Trap};
use super::faults::once;
use super::{Bench, Pushed};
use crate::support::embedded::Embedded;
use crate::support::env::{TestEnv, files, noise, write};

/// A server that cannot rename, as an object store's.
fn no_rename() -> Quirks {
    Quirks { rename: RenamePolicy::Unsupported, extensions: AnnouncedExtensions::None, ..Quirks::default() }
}

fn trapped(quirks: Quirks) -> (Bench, Embedded, Trap) {
    let env = TestEnv::new();
    let (faults, trap) = Trap::set();
    let server = Embedded::start_with(&env, quirks, Some(Arc::new(faults)));
    (Bench::embedded(env, &server), server, trap)
}

const DIRECT: [&str; 4] = ["--publish", "direct", "--after", "delete"];

#[test]
fn a_direct_upload_that_broke_off_goes_on_under_the_same_name() {
    use Operation::{Close, Fsetstat, Fstat, Open, Write};
    std::thread::scope(|scope| {
        for operation in [Open, Write, Fsetstat, Fstat, Close] {
            for fault in [Fault::ReplyLost, Fault::DropAfter, Fault::DropConnection] {
                scope.spawn(move || {
                    let (bench, _server) = once(operation, fault.clone(), no_rename());
                    let wanted = files(&bench.env.local());
                    let pushed = Pushed::run(bench.push([bench.env.local()]).args(DIRECT));
                    assert_eq!(pushed.finished.code(), Some(0), "{operation:?} {fault:?}: {:?}", pushed.finished);
                    pushed.assert_counts([2, 0, 0, 0]);
                    assert_eq!(bench.archived(), wanted, "{operation:?} {fault:?}");
                    assert!(files(&bench.env.local()).is_empty(), "{operation:?} {fault:?}");
                });
            }
        }
    });
}

#[test]
fn killed_while_writing_directly() {
    use Operation::{Close, Fsetstat, Open, Write};
    std::thread::scope(|scope| {
        for (operation, nth) in [(Open, 1), (Write, 1), (Write, 4), (Fsetstat, 1), (Close, 1)] {
            for moment in [Moment::Before, Moment::After] {
                scope.spawn(move || {
                    let (bench, _server, trap) = trapped(no_rename());
                    write(&bench.env.local(), "only", noise(3 << 20, 3));
                    let wanted = files(&bench.env.local());
                    trap.kill_at(bench.push([bench.env.local()]).args(DIRECT), operation, nth, moment);
                    let pushed = Pushed::run(bench.push([bench.env.local()]).args(DIRECT)).expect(0);
                    pushed.assert_counts([1, 0, 0, 0]);
                    // What a killed process left under the final name may be anybody's: it stays, and the whole
                    // file stands beside it.
                    let mut archived = bench.archived();
                    let whole = wanted.values().next().unwrap();
                    archived.retain(|_, file| file == whole);
                    assert_eq!(archived.len(), 1, "{operation:?} {nth} {moment:?}: {:?}", bench.archived());
                    assert!(files(&bench.env.local()).is_empty());
                });
            }
        }
    });
}

#[test]
fn killed_while_overwriting() {
    for moment in [Moment::Before, Moment::After] {
        let (bench, _server, trap) = trapped(Quirks::default());
        write(&bench.env.local(), "report", "ours");
        write(&bench.base, "in/report", "theirs");
        let wanted = files(&bench.env.local());
        let arguments = ["--on-conflict", "overwrite", "--after", "delete"];
        trap.kill_at(bench.push([bench.env.local()]).args(arguments), Operation::PosixRename, 1, moment);
        let stands = std::fs::read(bench.base.join("in/report")).unwrap();
        assert_eq!(stands, if moment == Moment::Before { &b"theirs"[..] } else { b"ours" });
        Pushed::run(bench.push([bench.env.local()]).args(arguments)).expect(0).assert_counts([1, 0, 0, 0]);
        assert_eq!(bench.archived(), wanted);
    }
}

#[test]
fn killed_while_publishing_beside_another_file() {
    for (nth, moment) in [(1, Moment::After), (2, Moment::Before), (2, Moment::After)] {
        let (bench, _server, trap) = trapped(Quirks::default());
        write(&bench.env.local(), "report", "ours");
        write(&bench.base, "in/report", "theirs");
        let push = || bench.push([bench.env.local()]);
        trap.kill_at(&mut push(), Operation::Hardlink, nth, moment);
        Pushed::run(&mut push()).expect(0).assert_counts([1, 0, 0, 0]);
        assert_eq!(std::fs::read(bench.base.join("in/report")).unwrap(), b"theirs");
        assert_eq!(bench.archived().len(), 2, "{nth} {moment:?}: {:?}", bench.archived());
        bench.assert_no_part();
    }
}
