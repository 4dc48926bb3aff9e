//! A server that sends what no server should: each run recovers or ends, in bounded time, requests and memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use archiver::embedded::{Fault, Identification, Operation, Quirks, Request};

use super::{Bench, Pushed, each};
use crate::support::embedded::Embedded;
use crate::support::env::{Running, TestEnv, files, noise, peak_memory, write};

const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
/// Far more than the program takes by itself, in a build without optimisation, and far less than a server can send.
const MOST_MEMORY_KIB: u64 = 128 << 10;

fn be(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

/// A string of so many bytes, as it goes on the wire.
fn string(length: usize) -> Vec<u8> {
    [&be(length as u32)[..], &vec![b'x'; length]].concat()
}

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    operation: Operation,
    fault: fn(&Request) -> Fault,
}

fn case(name: &'static str, operation: Operation, fault: fn(&Request) -> Fault) -> Case {
    Case { name, operation, fault }
}

fn cases() -> Vec<Case> {
    use Operation::{Close, Fstat, Hardlink, Init, Limits, Lstat, Open, Read, Rename, Write};
    vec![
        case("a length of 4 GiB", Open, |_| Fault::Raw(vec![0xff; 64].into())),
        case("a length of 4 GiB", Write, |_| Fault::Raw(vec![0xff; 64].into())),
        case("a length of zero", Write, |_| Fault::Raw(vec![0; 64].into())),
        case("random bytes", Fstat, |_| Fault::Raw(noise(8_000, 4).into())),
        case("an unknown type", Close, |request| Fault::Raw(request.reply(250, &[1, 2, 3]))),
        case("attributes for a handle", Open, |request| Fault::Raw(request.reply(ATTRS, &be(0)))),
        case("a handle for a status", Write, |request| Fault::Raw(request.reply(HANDLE, &string(4)))),
        case("names for attributes", Fstat, |request| Fault::Raw(request.reply(NAME, &be(0)))),
        case("data for a status", Close, |request| Fault::Raw(request.reply(DATA, &string(9)))),
        case("a handle of 10 KiB", Open, |request| Fault::Raw(request.reply(HANDLE, &string(10 << 10)))),
        case("a handle of 300 KiB", Open, |request| Fault::Raw(request.reply(HANDLE, &string(300 << 10)))),
        case("data of 900 KiB", Read, |request| Fault::Raw(request.reply(DATA, &string(900 << 10)))),
        case("4 billion names", Lstat, |request| Fault::Raw(request.reply(NAME, &be(u32::MAX)))),
        case("4 billion attributes", Lstat, |request| {
            Fault::Raw(request.reply(ATTRS, &[be(0x8000_0000), be(u32::MAX)].concat()))
        }),
        case("a reply cut short", Fstat, |request| Fault::Raw(request.reply(ATTRS, &be(1)))),
        case("half a packet", Write, |request| Fault::Raw(request.reply(ATTRS, &[0; 900]).slice(..100))),
        case("the reply twice", Write, |request| {
            Fault::RawAfter([&request.status(0)[..], &request.status(0)[..]].concat().into())
        }),
        case("another request's number", Write, |request| {
            Fault::Raw(Request { id: request.id.wrapping_add(100_000), ..request.clone() }.status(0))
        }),
        case("endless replies that nobody waits for", Write, |request| {
            let other = Request { id: request.id.wrapping_add(100_000), ..request.clone() };
            Fault::Flood(other.status(0).repeat(500).into())
        }),
        case("an endless packet", Write, |request| Fault::Flood(request.reply(DATA, &string(30_000)).slice(..30_000))),
        case("a greeting without end", Init, |_| Fault::Flood(vec![0; 30_000].into())),
        case("a status for a greeting", Init, |request| Fault::Raw(request.status(4))),
        case("a greeting of 900 KiB", Init, |_| {
            let pair = [string(4_000), string(4_000)].concat().repeat(110);
            let body = [&[2][..], &be(3), &pair].concat();
            Fault::Raw([&be(body.len() as u32)[..], &body].concat().into())
        }),
        case("limits of zero", Limits, |request| Fault::Raw(request.reply(201, &[0; 32]))),
        case("limits without end", Limits, |request| Fault::Raw(request.reply(201, &[0xff; 32]))),
        case("limits cut short", Limits, |request| Fault::Raw(request.reply(201, &[0; 7]))),
        case("no answer", Hardlink, |_| Fault::ReplyLost),
        case("no answer", Rename, |_| Fault::ReplyLost),
    ]
}

/// What a run came to: its code, how often the server sent nonsense, and the memory.
fn meet(case: &Case, at_most: usize, quirks: Quirks) -> (Bench, Pushed, usize, u64) {
    let env = TestEnv::new();
    let sent = Arc::<AtomicUsize>::default();
    let faults = {
        let (sent, operation, fault) = (sent.clone(), case.operation, case.fault);
        move |request: &Request| {
            if request.operation != operation || sent.load(Ordering::SeqCst) >= at_most {
                return Fault::None;
            }
            sent.fetch_add(1, Ordering::SeqCst);
            fault(request)
        }
    };
    let server = Embedded::start_with(&env, quirks, Some(Arc::new(faults)));
    let bench = Bench::embedded(env, &server);
    for number in 0..3 {
        write(&bench.env.local(), number.to_string(), noise(20_000, number));
    }
    write(&bench.env.local(), "large", noise(1 << 20, 9));
    let mut command = bench.push([bench.env.local()]);
    command.args(["--after", "delete", "--verify", "readback", "--retries", "4", "--connections", "1"]);
    command.env("ARCHIVER_POOL__REQUEST_TIMEOUT", "500ms").env("ARCHIVER_POOL__CONNECT_TIMEOUT", "1s");
    let running = Running::start(&mut command);
    let memory = peak_memory(running.pid());
    let pushed = Pushed::of(running.finish());
    (bench, pushed, sent.load(Ordering::SeqCst), memory.join().unwrap())
}

/// Each case with a server under its own name, and under OpenSSH's, which is asked in another order.
fn both(cases: Vec<Case>) -> Vec<(Case, Quirks)> {
    let openssh = Quirks { identification: Identification::OpenSsh, ..Quirks::default() };
    cases.into_iter().flat_map(|case| [(case, Quirks::default()), (case, openssh.clone())]).collect()
}

#[test]
fn nonsense_that_ends_is_got_over() {
    each(&both(cases()), |(case, quirks)| {
        let (bench, pushed, sent, memory) = meet(case, 1, quirks.clone());
        let what = format!("{} to {:?}, sent {sent} times: {memory} KiB", case.name, case.operation);
        println!("{what}, {:?}", pushed.finished.code());
        assert!(memory < MOST_MEMORY_KIB, "{what}");
        // A server whose greeting is nonsense is none, before it ever let us in: a matter of settings.
        if sent == 1 && case.operation == Operation::Init && pushed.finished.code() == Some(3) {
            assert_eq!(files(&bench.env.local()).len(), 4, "{what}");
            return;
        }
        assert_eq!(pushed.finished.code(), Some(0), "{what}: {:?}", pushed.finished);
        assert!(files(&bench.env.local()).is_empty(), "{what}");
        assert_eq!(bench.archived().len(), 4, "{what}");
        bench.assert_no_part();
    });
}

#[test]
fn nonsense_without_end_ends_the_run_and_loses_nothing() {
    each(&both(cases()), |(case, quirks)| {
        let (bench, pushed, sent, memory) = meet(case, usize::MAX, quirks.clone());
        let what = format!("{} to {:?}, sent {sent} times: {memory} KiB", case.name, case.operation);
        println!("{what}, {:?}", pushed.finished.code());
        assert!(memory < MOST_MEMORY_KIB, "{what}");
        assert!(sent <= 4 * 4 * 8, "{what}");
        let [archived, skipped, deferred, failed] = pushed.counts();
        assert_eq!((archived + failed, skipped, deferred), (4, 0, 0), "{what}");
        match pushed.finished.code() {
            Some(0) => assert_eq!(failed, 0, "{what}"),
            Some(1 | 3) => assert!(failed > 0, "{what}"),
            _ => panic!("{what}: {:?}", pushed.finished),
        }
        assert_eq!(files(&bench.env.local()).len() as u64, failed, "{what}");
    });
}

/// Replies that change places, to whoever may take them in any order.
#[test]
fn replies_out_of_order_reach_whoever_asked() {
    let env = TestEnv::new();
    let asked = AtomicUsize::new(0);
    let server = Embedded::with_faults(&env, move |_: &Request| {
        // Some of them, each by another time.
        match asked.fetch_add(1, Ordering::SeqCst) % 5 {
            0 => Fault::Late(Duration::from_millis(7)),
            2 => Fault::Late(Duration::from_millis(1)),
            3 => Fault::Late(Duration::from_millis(3)),
            _ => Fault::None,
        }
    });
    let bench = Bench::embedded(env, &server);
    for number in 0..200 {
        write(&bench.env.local(), format!("d{}/{number}", number % 9), noise(3_000, number));
    }
    write(&bench.env.local(), "large", noise(6 << 20, 9));
    let wanted = files(&bench.env.local());
    let mut command = bench.push([bench.env.local()]);
    command.args(["--after", "delete", "--verify", "readback", "--retries", "1"]);
    Pushed::run(command.env("ARCHIVER_POOL__REQUEST_TIMEOUT", "15s")).expect(0).assert_counts([201, 0, 0, 0]);
    assert_eq!(bench.archived(), wanted);
    bench.assert_no_part();
}

/// The reply to one WRITE never comes, while another file keeps the session busy for seconds.
#[test]
fn a_reply_that_others_overtake_is_not_waited_for_for_ever() {
    let env = TestEnv::new();
    let lost = AtomicUsize::new(0);
    let server = Embedded::with_faults(&env, move |request: &Request| {
        let victim = request.operation == Operation::Write && request.path.contains("victim");
        match victim && lost.fetch_add(1, Ordering::SeqCst) == 0 {
            true => Fault::ReplyLost,
            false => Fault::None,
        }
    });
    let bench = Bench::embedded(env, &server);
    write(&bench.env.local(), "victim", noise(1_000, 0));
    write(&bench.env.local(), "busy", noise(8 << 20, 1));
    let mut command = bench.push([bench.env.local()]);
    command.args(["--connections", "1", "--limit-rate", "1MiB"]).env("ARCHIVER_POOL__REQUEST_TIMEOUT", "500ms");
    let pushed = Pushed::run(&mut command).expect(0);
    let victim = pushed.row("/victim");
    assert_eq!(victim["attempts"], 2);
    let took = |name| pushed.row(name)["seconds"].as_f64().unwrap();
    assert!(took("/victim") < took("/busy"), "{}", pushed.finished.stdout);
    bench.assert_same_files();
}
