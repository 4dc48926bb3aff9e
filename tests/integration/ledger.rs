//! The embedded ledger between real processes: killed, stopped, and racing for the same files.
//!
//! The second process is this test binary again, running only [`another_process`], which obeys the environment and
//! talks over its standard input and output.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use archiver::domain::{FileKey, Fingerprint, OwnerId, RemotePath, Repeat, Sha256Digest};
use archiver::ledger::{
    Claim, ClaimReply, ClaimRequest, Cursor, Intention, Ledger, LedgerError, Record, SqliteConfig, SqliteLedger,
};
use chrono::Utc;

use crate::support::freeze::freeze;

const DESTINATION: &str = "sftp://host/upload";
const LEASE: Duration = Duration::from_secs(60);
const RACE: usize = 2_000;

fn open(path: &Path) -> SqliteLedger {
    SqliteLedger::open(config(path, Duration::ZERO)).unwrap()
}

/// A configuration whose clock is ahead by `ahead`.
fn config(path: &Path, ahead: Duration) -> SqliteConfig {
    SqliteConfig {
        path: path.into(),
        retention: Duration::from_secs(3600),
        lease: LEASE,
        owner: OwnerId(rand::random()),
        clock: Arc::new(move || Utc::now() + ahead),
    }
}

fn request(number: usize) -> ClaimRequest {
    let key = FileKey {
        destination: DESTINATION.into(),
        source: "reports".into(),
        path: format!("{number}.csv").into_bytes(),
        fingerprint: Fingerprint { inode: number as u64, size: 1, mtime_ns: 1 },
    };
    let remote = RemotePath::new(format!("/upload/{number}.csv"));
    ClaimRequest { key, local_path: format!("/reports/{number}.csv").into(), remote, repeat: Repeat::Skip }
}

async fn ask(ledger: &SqliteLedger, number: usize) -> ClaimReply {
    ledger.claim(vec![request(number)]).await.unwrap().remove(0)
}

fn record(claim: &Claim) -> Record {
    Record { remote: claim.remote.clone(), sha256: Sha256Digest([1; 32]), recorded_at: Utc::now() }
}

/// The other process; killed when dropped.
struct Other {
    process: Child,
    input: ChildStdin,
    output: std::io::Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start(role: &str, ledger: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "ledger::another_process", "--ignored", "--nocapture"])
            .env("LEDGER_TEST_ROLE", role)
            .env("LEDGER_TEST_PATH", ledger)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, input, output }
    }

    /// The rest of the next line that starts with `word`.
    fn hear(&mut self, word: &str) -> String {
        let mut lines = self.output.by_ref().map(Result::unwrap);
        lines.find_map(|line| line.strip_prefix(word).map(str::to_owned)).expect("the other process speaks")
    }

    fn tell(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.process), signal).unwrap();
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // Ended already, in most tests.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until the test says a word, or ends.
fn listen() {
    std::io::stdin().lock().read_line(&mut String::new()).unwrap();
}

#[tokio::test]
#[ignore = "the other process of the tests below, which start it"]
async fn another_process() {
    let (Ok(role), Ok(path)) = (std::env::var("LEDGER_TEST_ROLE"), std::env::var("LEDGER_TEST_PATH")) else { return };
    let ledger = Arc::new(open(&PathBuf::from(path)));
    // The test harness leaves its own line open.
    println!("\nowner {}", ledger.owner());
    match role.as_str() {
        "hold" => {
            let claims: Vec<_> = futures::future::join_all((0..100).map(|number| ask(&ledger, number))).await;
            let ClaimReply::Claimed(first) = &claims[0] else { panic!("{claims:?}") };
            ledger.record(first, record(first), Intention::LeaveAlone).await.unwrap();
            let ClaimReply::Claimed(second) = &claims[1] else { panic!("{claims:?}") };
            println!("holding {}", second.token);
            listen();
            let confirmed = ledger.confirm(second).await;
            let recorded = ledger.record(second, record(second), Intention::LeaveAlone).await;
            let lost = [confirmed, recorded].iter().all(|result| matches!(result, Err(LedgerError::LeaseLost)));
            println!("lost {lost}");
        }
        "race" => {
            println!("ready");
            listen();
            let tasks = (0..RACE).map(|number| {
                let ledger = ledger.clone();
                tokio::spawn(async move {
                    let ClaimReply::Claimed(claim) = ask(&ledger, number).await else { return None };
                    ledger.record(&claim, record(&claim), Intention::LeaveAlone).await.unwrap();
                    Some(number.to_string())
                })
            });
            let won: Vec<_> = futures::future::join_all(tasks).await.into_iter().filter_map(Result::unwrap).collect();
            println!("won {}", won.join(","));
        }
        "record" => {
            let tasks = (0..4).map(|worker: usize| {
                let ledger = ledger.clone();
                tokio::spawn(async move {
                    for number in (worker..).step_by(4) {
                        let ClaimReply::Claimed(claim) = ask(&ledger, number).await else { continue };
                        ledger.record(&claim, record(&claim), Intention::LeaveAlone).await.unwrap();
                        println!("recorded {number}");
                    }
                })
            });
            futures::future::join_all(tasks).await;
        }
        other => panic!("no role {other}"),
    }
}

#[tokio::test]
async fn claims_of_a_killed_process_are_taken_over_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.db");
    let here = open(&path);
    let mut other = Other::start("hold", &path);
    let owner = other.hear("owner ");
    let token = other.hear("holding ");
    for number in [1, 50, 99] {
        assert!(matches!(ask(&here, number).await, ClaimReply::Held { owner: by } if by.to_string() == owner));
    }
    assert!(here.orphans(DESTINATION, Cursor::default(), 10).await.unwrap().0.is_empty());
    other.kill();
    // By who was there all the time, and by who comes.
    let (orphans, _) = here.orphans(DESTINATION, Cursor::default(), 1000).await.unwrap();
    assert_eq!(orphans.len(), 99);
    let ClaimReply::Claimed(heir) = ask(&here, 1).await else { panic!() };
    assert_eq!(heir.predecessors.iter().map(ToString::to_string).collect::<Vec<_>>(), [token]);
    let new = open(&path);
    for number in 2..100 {
        assert!(matches!(ask(&new, number).await, ClaimReply::Claimed(_)));
    }
    assert!(matches!(ask(&new, 0).await, ClaimReply::Recorded(_)));
    assert!(!directory.path().join("ledger.db.owners").join(owner).exists());
}

#[tokio::test]
async fn a_stopped_process_loses_its_claims_with_its_lease_and_notices() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.db");
    let mut other = Other::start("hold", &path);
    other.hear("holding ");
    freeze(rustix::process::Pid::from_child(&other.process));
    let now = open(&path);
    assert!(matches!(ask(&now, 1).await, ClaimReply::Held { .. }));
    let later = SqliteLedger::open(config(&path, 2 * LEASE)).unwrap();
    let ClaimReply::Claimed(heir) = ask(&later, 1).await else { panic!() };
    other.signal(rustix::process::Signal::CONT);
    other.tell();
    assert_eq!(other.hear("lost "), "true");
    later.confirm(&heir).await.unwrap();
}

#[tokio::test]
async fn processes_that_race_claim_each_file_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.db");
    let mut racers = [Other::start("race", &path), Other::start("race", &path)];
    racers.iter_mut().for_each(|racer| drop(racer.hear("ready")));
    racers.iter_mut().for_each(Other::tell);
    let won: Vec<String> = racers.iter_mut().map(|racer| racer.hear("won ")).collect();
    let won: Vec<&str> = won.iter().flat_map(|won| won.split(',')).filter(|won| !won.is_empty()).collect();
    assert_eq!(won.len(), RACE);
    assert_eq!(won.into_iter().collect::<BTreeSet<_>>().len(), RACE);
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.db");
    let mut acknowledged = BTreeSet::new();
    // Each round goes on where the last one was killed, at another instant.
    for round in 1..=5 {
        let mut other = Other::start("record", &path);
        for _ in 0..round * 17 {
            acknowledged.insert(other.hear("recorded ").parse::<usize>().unwrap());
        }
        other.kill();
        // What it said before it died counts too; the last line may be cut.
        let rest = other.output.by_ref().map_while(Result::ok);
        acknowledged.extend(rest.filter_map(|line| line.strip_prefix("recorded ")?.parse::<usize>().ok()));
        if round == 3 {
            // A copy is right where a log was left behind, and leaves that as it is.
            let files =
                || ["ledger.db", "ledger.db-wal"].map(|name| std::fs::read(directory.path().join(name)).unwrap());
            let before = files();
            let copy = SqliteLedger::open_snapshot(config(&path, Duration::ZERO)).unwrap();
            for number in &acknowledged {
                assert!(matches!(ask(&copy, *number).await, ClaimReply::Recorded(_)), "{number}");
            }
            drop(copy);
            assert!(files() == before);
        }
    }
    let here = open(&path);
    for number in acknowledged {
        assert!(matches!(ask(&here, number).await, ClaimReply::Recorded(_)), "{number}");
    }
}
