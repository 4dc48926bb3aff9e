//! A network that fails: resets, packets that vanish, stalls and single bytes, on the way to OpenSSH's server and to
//! the embedded one.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Bench, Pushed, each};
use crate::support::broken_link::{Break, BrokenLink};
use crate::support::embedded::Embedded;
use crate::support::env::{DEADLINE, Entry, TestEnv, files, noise, write};
use crate::support::openssh::OpenSsh;

/// What is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    OpenSsh,
    Embedded,
}

const BOTH: [Kind; 2] = [Kind::OpenSsh, Kind::Embedded];

/// A bench behind a link that breaks.
struct Rig {
    bench: Bench,
    link: BrokenLink,
    _server: (Option<OpenSsh>, Option<Embedded>),
}

impl Rig {
    fn new(kind: Kind, plan: impl Fn(usize) -> Break + Send + 'static) -> Self {
        let env = TestEnv::new();
        let (mut bench, port, known_hosts, server) = match kind {
            Kind::OpenSsh => {
                let server = OpenSsh::plain();
                let bench = Bench::openssh_in(env, &server);
                (bench, server.port(), server.known_hosts(), (Some(server), None))
            }
            Kind::Embedded => {
                let server = Embedded::start(&env);
                let known_hosts = env.home().join(".ssh/known_hosts");
                (Bench::embedded(env, &server), server.address().port(), known_hosts, (None, Some(server)))
            }
        };
        let link = BrokenLink::start(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), plan);
        let moved = |text: &str| text.replace(&format!(":{port}"), &format!(":{}", link.address().port()));
        let known_hosts = moved(&std::fs::read_to_string(known_hosts).unwrap());
        let known_hosts = write(&bench.env.home(), ".ssh/known_hosts", known_hosts);
        bench.to = moved(&bench.to);
        if kind == Kind::OpenSsh {
            bench.login[3] = known_hosts.into();
        }
        Self { bench, link, _server: server }
    }

    /// Pushes `local/` and deletes it, with deadlines of a second.
    fn push(&self, options: &[&str]) -> Pushed {
        self.push_patiently(options, "700ms", "1s")
    }

    fn push_patiently(&self, options: &[&str], request: &str, connect: &str) -> Pushed {
        let mut command = self.bench.push([self.bench.env.local()]);
        command.args(["--after", "delete", "--connections", "1"]).args(options);
        command.env("ARCHIVER_POOL__REQUEST_TIMEOUT", request).env("ARCHIVER_POOL__CONNECT_TIMEOUT", connect);
        Pushed::run(&mut command)
    }

    /// Pushes and wants each file once, its bytes whole, nothing beside it.
    #[track_caller]
    fn push_all(&self, options: &[&str], what: &dyn std::fmt::Debug) {
        let wanted = files(&self.bench.env.local());
        let pushed = self.push(options);
        self.check(&wanted, &pushed, what);
    }

    #[track_caller]
    fn check(&self, wanted: &BTreeMap<PathBuf, Entry>, pushed: &Pushed, what: &dyn std::fmt::Debug) {
        assert_eq!(pushed.finished.code(), Some(0), "{what:?}: {:?}", pushed.finished);
        pushed.assert_counts([wanted.len() as u64, 0, 0, 0]);
        assert_eq!(&self.bench.archived(), wanted, "{what:?}");
        assert!(files(&self.bench.env.local()).is_empty(), "{what:?}");
        self.bench.assert_no_part();
    }
}

/// The first connections break: before anything, in the identification, in the key exchange, in the login, with
/// the first file, and in the middle of a large one.
#[test]
fn connections_that_break_at_any_stage_are_made_again() {
    let stages = [0, 10, 700, 2_500, 6_000, 300_000, 3_000_000];
    let mut cases = Vec::new();
    for kind in BOTH {
        for after in stages {
            cases.push((kind, Break::Reset { after }));
            cases.push((kind, Break::Vanish { after }));
        }
        for after in [6_000, 3_000_000] {
            cases.push((kind, Break::RepliesVanish { after }));
        }
    }
    each(&cases, |&(kind, breaks)| {
        // What is only noticed by its deadline takes its time once.
        let times = if matches!(breaks, Break::Reset { .. }) { 2 } else { 1 };
        let rig = Rig::new(kind, move |connection| if connection < times { breaks } else { Break::Never });
        for number in 0..4 {
            write(&rig.bench.env.local(), format!("{number}"), noise(2_000, number));
        }
        write(&rig.bench.env.local(), "large", noise(5 << 20, 9));
        rig.push_all(&["--retries", "8"], &(kind, breaks));
        let connections = rig.link.connections();
        assert!((times + 1..times + 4).contains(&connections), "{kind:?} {breaks:?}: {connections} connections");
    });
    println!("{} breaks", cases.len());
}

/// The server gets every request up to some byte and carries it out, and all replies to the last ones are lost: so is
/// the reply to each WRITE, CLOSE, RENAME and MKDIR in turn.
#[test]
fn wherever_the_replies_are_lost_each_file_stands_once() {
    let fill = |rig: &Rig| {
        for number in 0..4 {
            write(&rig.bench.env.local(), format!("d{number}/f"), noise(900, number));
        }
        write(&rig.bench.env.local(), "larger", noise(9_000, 9));
    };
    let mut cases = Vec::new();
    for kind in BOTH {
        let rig = Rig::new(kind, |_| Break::Never);
        fill(&rig);
        rig.push_all(&[], &kind);
        let whole = rig.link.longest();
        assert_eq!(rig.link.connections(), 1);
        cases.extend((2_000..whole).step_by(787).map(|after| (kind, after)));
    }
    each(&cases, |&(kind, after)| {
        let breaks = Break::ResetBehind { after };
        let rig = Rig::new(kind, move |connection| if connection == 0 { breaks } else { Break::Never });
        fill(&rig);
        rig.push_all(&["--retries", "8"], &(kind, after));
        assert!(rig.link.connections() <= 4, "{kind:?} {after}: {} connections", rig.link.connections());
    });
    println!("{} places", cases.len());
}

#[test]
fn a_link_that_never_holds_ends_the_run_with_the_destination_named() {
    let mut cases = Vec::new();
    for kind in BOTH {
        for after in [0, 2_500, 6_000, 300_000] {
            cases.push((kind, Break::Reset { after }));
            cases.push((kind, Break::Vanish { after }));
        }
    }
    each(&cases, |&(kind, breaks)| {
        let rig = Rig::new(kind, move |_| breaks);
        write(&rig.bench.env.local(), "large", noise(1 << 20, 9));
        let wanted = files(&rig.bench.env.local());
        let begin = Instant::now();
        let pushed = rig.push(&["--retries", "3"]);
        let took = begin.elapsed();
        assert!(took < DEADLINE, "{kind:?} {breaks:?}: {took:?}");
        // A connection that broke with the file counts against it; none at all is the destination's fault.
        assert!(matches!(pushed.finished.code(), Some(1 | 3)), "{kind:?} {breaks:?}: {:?}", pushed.finished);
        pushed.assert_counts([0, 0, 0, 1]).says(&["error"]);
        assert_eq!(files(&rig.bench.env.local()), wanted);
        assert!(rig.bench.archived().keys().all(|path| super::is_part(path)), "{kind:?} {breaks:?}");
        assert!(rig.link.connections() <= 4, "{kind:?} {breaks:?}: {} connections", rig.link.connections());
    });
}

#[test]
fn a_stall_that_ends_in_time_is_waited_out_and_a_longer_one_is_not() {
    let mut cases = Vec::new();
    for kind in BOTH {
        for after in [10, 2_500, 1_000_000] {
            cases.push((kind, after, Duration::from_millis(300), "8s", 1..=1));
            // Minutes; no test waits for them, for the client does not either.
            cases.push((kind, after, Duration::from_secs(600), "1s", 2..=4));
        }
    }
    each(&cases, |(kind, after, pause, patience, connections)| {
        let (kind, after, pause) = (*kind, *after, *pause);
        let breaks = Break::Stall { after, pause };
        let rig = Rig::new(kind, move |connection| if connection == 0 { breaks } else { Break::Never });
        write(&rig.bench.env.local(), "large", noise(3 << 20, 9));
        let wanted = files(&rig.bench.env.local());
        let pushed = rig.push_patiently(&["--retries", "8"], patience, patience);
        rig.check(&wanted, &pushed, &(kind, after, pause));
        let made = rig.link.connections();
        assert!(connections.contains(&made), "{kind:?} {after} {pause:?}: {made} connections");
    });
}

#[test]
fn one_byte_at_a_time_is_slow_and_right() {
    each(&BOTH, |&kind| {
        let rig = Rig::new(kind, |_| Break::Dribble);
        for number in 0..20 {
            write(&rig.bench.env.local(), format!("{number}"), noise(1_000, number));
        }
        write(&rig.bench.env.local(), "larger", noise(100_000, 99));
        let wanted = files(&rig.bench.env.local());
        // It is slow, and moves on.
        let pushed = rig.push_patiently(&["--retries", "1"], "8s", "15s");
        rig.check(&wanted, &pushed, &kind);
        assert_eq!(rig.link.connections(), 1);
    });
}
