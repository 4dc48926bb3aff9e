//! Each status code on each request that an upload sends, and each reply lost or turned into a failure after the
//! server did what it was asked.
//!
//! One push brings a file for each request; all that belongs to a file happens below a directory of its own, which is
//! named for the request that goes wrong there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use archiver::embedded::{AnnouncedExtensions, Fault, Identification, Operation, Quirks, Request};

use super::{Bench, Pushed, each, is_part};
use crate::support::embedded::Embedded;
use crate::support::env::{Entry, TestEnv, files, noise, write};

const OPERATIONS: [Operation; 13] = [
    Operation::Lstat,
    Operation::Mkdir,
    Operation::Open,
    Operation::Write,
    Operation::Fsetstat,
    Operation::Fsync,
    Operation::Fstat,
    Operation::Read,
    Operation::Close,
    Operation::Hardlink,
    Operation::Remove,
    Operation::Rename,
    Operation::PosixRename,
];

/// Version 3's (1 to 8), those of later drafts for a full disk (14, 15), and two that mean nothing to us.
const CODES: [u32; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 14, 15, 31, 4242];

/// Ways to publish: a hard link, a rename that refuses, a look and a rename.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Links,
    AsOpenSsh,
    Bare,
}

const SERVERS: [Server; 3] = [Server::Links, Server::AsOpenSsh, Server::Bare];

impl Server {
    fn quirks(self) -> Quirks {
        match self {
            Self::Links => Quirks::default(),
            Self::AsOpenSsh => Quirks { identification: Identification::OpenSsh, ..Quirks::default() },
            Self::Bare => Quirks { extensions: AnnouncedExtensions::None, ..Quirks::default() },
        }
    }
}

/// How often a request goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Times {
    Once,
    Always,
}

/// `lstat`, for the request of that name.
fn room(operation: Operation) -> String {
    format!("{operation:?}").to_lowercase()
}

struct Rig {
    bench: Bench,
    _server: Embedded,
    /// Requests that went wrong, by operation.
    struck: Arc<Mutex<BTreeMap<String, usize>>>,
    /// Nothing goes wrong any more.
    mended: Arc<AtomicBool>,
    /// A REMOVE was answered with NO_SUCH_FILE.
    lied: AtomicBool,
    wanted: BTreeMap<PathBuf, Entry>,
}

impl Rig {
    fn new(server: Server, times: Times, fault: impl Fn(&Request) -> Fault + Send + Sync + 'static) -> Self {
        let env = TestEnv::new();
        let (struck, mended) = (Arc::<Mutex<BTreeMap<String, usize>>>::default(), Arc::<AtomicBool>::default());
        let faults = {
            let (struck, mended) = (struck.clone(), mended.clone());
            move |request: &Request| {
                let room = room(request.operation);
                let here = request.path.split('/').any(|part| part == room);
                if !here || mended.load(Ordering::SeqCst) {
                    return Fault::None;
                }
                let mut struck = struck.lock().unwrap();
                let count = struck.entry(room).or_default();
                if times == Times::Once && *count > 0 {
                    return Fault::None;
                }
                *count += 1;
                fault(request)
            }
        };
        let embedded = Embedded::start_with(&env, server.quirks(), Some(Arc::new(faults)));
        let bench = Bench::embedded(env, &embedded);
        for (number, operation) in OPERATIONS.into_iter().enumerate() {
            write(&bench.env.local(), format!("{}/file", room(operation)), noise(5_000, number as u64));
        }
        // It stands already, so that each room is looked for before it is made.
        std::fs::create_dir(bench.base.join("in")).unwrap();
        let wanted = files(&bench.env.local());
        Self { bench, _server: embedded, struck, mended, lied: AtomicBool::new(false), wanted }
    }

    fn push(&self, retries: u32) -> Pushed {
        let retries = retries.to_string();
        let options = ["--after", "delete", "--retries", &retries, "--verify", "readback", "--connections", "1"];
        let mut command = self.bench.push([self.bench.env.local()]);
        Pushed::run(command.args(options).env("ARCHIVER_POOL__REQUEST_TIMEOUT", "700ms"))
    }

    /// What must hold however a run ended: what counts as archived stands whole under its name and is gone here, and
    /// all else is still here; no name shows other bytes; attempts have a bound.
    #[track_caller]
    fn check(&self, pushed: &Pushed, retries: u32, what: &dyn std::fmt::Debug) {
        let (there, here) = (self.bench.archived(), files(&self.bench.env.local()));
        for (path, entry) in &self.wanted {
            let row = pushed.row(&format!("/{}", path.display()));
            let archived = row["status"] == "archived";
            assert_eq!(!archived, here.contains_key(path), "{what:?} {path:?}: {row}");
            match there.get(path) {
                Some(found) => assert_eq!(found, entry, "{what:?} {path:?}: {row}"),
                None => assert!(!archived, "{what:?} {path:?}: {row}"),
            }
        }
        for path in there.keys() {
            assert!(self.wanted.contains_key(path) || is_part(path), "{what:?}: {path:?} is there, too");
        }
        for (room, count) in self.struck.lock().unwrap().iter() {
            // An attempt asks for some more than once: readback, the look at both names, the way of directories.
            assert!(*count <= 8 * retries as usize, "{what:?}: {count} requests for {room}");
        }
    }

    /// The server is mended: what is left here is archived, and nothing of ours stays.
    #[track_caller]
    fn finish(&self, what: &dyn std::fmt::Debug) {
        self.mended.store(true, Ordering::SeqCst);
        let pushed = self.push(3);
        assert_eq!(pushed.finished.code(), Some(0), "{what:?}: {:?}", pushed.finished);
        assert!(files(&self.bench.env.local()).is_empty(), "{what:?}");
        let mut there = self.bench.archived();
        // A server that says of a name that it is gone is believed, and nobody else knows.
        there.retain(|path, _| !(self.lied.load(Ordering::SeqCst) && path.starts_with("remove") && is_part(path)));
        assert_eq!(there, self.wanted, "{what:?}");
    }
}

/// Whether a file goes through although this request is always answered so.
fn goes_through(server: Server, operation: Operation, code: u32) -> bool {
    match operation {
        // Attributes are a wish. A look that finds nothing, and a name that is gone, are what is hoped for.
        Operation::Fsetstat => true,
        Operation::Lstat => code == 2,
        // Asked for only where a look has to tell what a link or a rename could not.
        Operation::Hardlink => true,
        Operation::Rename => server == Server::Links,
        Operation::Remove => server != Server::Links || code == 2,
        Operation::Fsync => server == Server::Bare,
        Operation::PosixRename => true,
        _ => false,
    }
}

fn product(codes: &[u32]) -> Vec<(Server, u32)> {
    codes.iter().flat_map(|code| SERVERS.map(|server| (server, *code))).collect()
}

#[test]
fn any_status_once_is_got_over() {
    let cells = Mutex::new(0);
    each(&product(&CODES), |&(server, code)| {
        let what = (server, code, Times::Once);
        let rig = Rig::new(server, Times::Once, move |request| Fault::Raw(request.status(code)));
        rig.lied.store(code == 2, Ordering::SeqCst);
        let pushed = rig.push(30);
        rig.check(&pushed, 30, &what);
        // What only a person can change is not tried again in a single run: permission, not supported.
        let hopeless = matches!(code, 3 | 8);
        for operation in OPERATIONS {
            let row = pushed.row(&format!("/{}/file", room(operation)));
            if matches!(operation, Operation::Mkdir | Operation::Read) && server == Server::AsOpenSsh {
                // The first directory is made in two ways, and what was written is read in two.
                continue;
            }
            let lost = hopeless && !goes_through(server, operation, code);
            let status = if lost { "failed" } else { "archived" };
            assert_eq!(row["status"], status, "{what:?} {operation:?}: {row}");
        }
        assert_eq!(pushed.finished.code(), Some(if hopeless { 1 } else { 0 }), "{what:?}");
        *cells.lock().unwrap() += rig.struck.lock().unwrap().len();
        rig.finish(&what);
    });
    println!("{} statuses, each once", cells.into_inner().unwrap());
}

#[test]
fn any_status_for_ever_is_a_failure_of_that_file_that_names_it() {
    let cells = Mutex::new(0);
    // Those that end the session or tell of a full disk concern all files: see below.
    let codes: Vec<_> = CODES.into_iter().filter(|code| !matches!(code, 6 | 7 | 14 | 15)).collect();
    each(&product(&codes), |&(server, code)| {
        let what = (server, code, Times::Always);
        let rig = Rig::new(server, Times::Always, move |request| Fault::Raw(request.status(code)));
        rig.lied.store(code == 2, Ordering::SeqCst);
        let pushed = rig.push(3);
        rig.check(&pushed, 3, &what);
        for operation in OPERATIONS {
            let row = pushed.row(&format!("/{}/file", room(operation)));
            let expected = if goes_through(server, operation, code) { "archived" } else { "failed" };
            assert_eq!(row["status"], expected, "{what:?} {operation:?}: {row}");
        }
        assert_eq!(pushed.finished.code(), Some(1), "{what:?}: {:?}", pushed.finished);
        *cells.lock().unwrap() += rig.struck.lock().unwrap().len();
        rig.finish(&what);
    });
    println!("{} statuses, again and again", cells.into_inner().unwrap());
}

#[test]
fn a_status_that_concerns_all_files_ends_the_run_and_loses_nothing() {
    each(&product(&[6, 7, 14, 15]), |&(server, code)| {
        let what = (server, code, Times::Always);
        let rig = Rig::new(server, Times::Always, move |request| Fault::Raw(request.status(code)));
        let pushed = rig.push(3);
        rig.check(&pushed, 60, &what);
        let expected = if code >= 14 { 3..=3 } else { 1..=3 };
        assert!(expected.contains(&pushed.finished.code().unwrap()), "{what:?}: {:?}", pushed.finished);
        rig.finish(&what);
    });
}

#[test]
fn what_was_done_and_not_acknowledged_is_not_done_twice() {
    type Made = fn(&Request) -> Fault;
    let faults: [(&str, Made); 5] = [
        ("reply lost", |_| Fault::ReplyLost),
        ("connection lost behind it", |_| Fault::DropAfter),
        ("connection lost before it", |_| Fault::DropConnection),
        ("done and called a failure", |request| Fault::RawAfter(request.status(4))),
        ("done and called lost", |request| Fault::RawAfter(request.status(7))),
    ];
    let cases: Vec<_> = faults.into_iter().flat_map(|fault| SERVERS.map(|server| (server, fault))).collect();
    let cells = Mutex::new(0);
    each(&cases, |&(server, (name, fault))| {
        let what = (server, name);
        let rig = Rig::new(server, Times::Once, fault);
        let pushed = rig.push(60);
        rig.check(&pushed, 60, &what);
        assert_eq!(pushed.finished.code(), Some(0), "{what:?}: {:?}", pushed.finished);
        pushed.assert_counts([OPERATIONS.len() as u64, 0, 0, 0]);
        assert_eq!(rig.bench.archived(), rig.wanted, "{what:?}");
        rig.bench.assert_no_part();
        *cells.lock().unwrap() += rig.struck.lock().unwrap().len();
    });
    println!("{} acknowledgements lost or turned round", cells.into_inner().unwrap());
}

/// Its filesystem cannot, say: no number of attempts helps, and the user is told what does.
#[test]
fn a_server_that_refuses_fsync_for_ever_is_named_with_the_setting_that_helps() {
    for code in [3, 4, 8] {
        let env = TestEnv::new();
        let server = Embedded::with_faults(&env, move |request: &Request| match request.operation {
            Operation::Fsync => Fault::Raw(request.status(code)),
            _ => Fault::None,
        });
        let bench = Bench::embedded(env, &server);
        write(&bench.env.local(), "small", noise(500, 1));
        write(&bench.env.local(), "large", noise(600_000, 2));
        let wanted = files(&bench.env.local());
        let push = |options: &[&str]| {
            Pushed::run(bench.push([bench.env.local()]).args(["--after", "delete", "--retries", "2"]).args(options))
        };
        let refused = push(&[]).expect(1);
        refused.assert_counts([0, 0, 0, 2]);
        for name in ["small", "large"] {
            let reason = refused.reason(name);
            assert!(reason.contains("FSYNC") && reason.contains("fsync = \"never\""), "{code}: {reason}");
        }
        assert_eq!((files(&bench.env.local()), bench.archived().len()), (wanted.clone(), 0), "{code}");
        bench.assert_no_part();
        push(&["--fsync", "never"]).expect(0).assert_counts([2, 0, 0, 0]);
        assert_eq!(bench.archived(), wanted);
    }
}
