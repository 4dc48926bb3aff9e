//! Any ledger goes through a file into the other implementation and back, and bad files are told by their line.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::domain::Repeat;
use crate::ledger::contract::model::{self, Step};
use crate::ledger::contract::{World, claimed, foreign, key, request};
use crate::ledger::redis::tests as redis;
use crate::ledger::sqlite::tests as sqlite;
use crate::ledger::{ClaimReply, LARGEST_TOKEN};

async fn exported(world: &impl World) -> String {
    let (mut text, written) = (Vec::new(), AtomicU64::new(0));
    export(&*world.view().await, &mut text, world.now(), Stillness::Wanted, &written).await.unwrap();
    String::from_utf8(text).unwrap()
}

/// The lines of the entries.
fn entries(text: &str) -> Vec<&str> {
    let lines: Vec<_> = text.lines().collect();
    lines[1..lines.len() - 1].to_vec()
}

async fn take_in(ledger: &dyn Ledger, text: &str) -> Counts {
    let counts = Mutex::default();
    let source = Source::open(io::Cursor::new(text.to_owned())).unwrap_or_else(|error| panic!("{error:?}\n{text}"));
    import(ledger, source, &counts).await.unwrap();
    counts.into_inner().unwrap()
}

/// Nobody is left in it.
async fn leave(world: &impl World, ledger: Arc<dyn Ledger>) {
    world.kill(ledger).await;
    world.pass(std::time::Duration::from_secs(600));
}

async fn moves(from: impl World, other: impl World, back: impl World, history: Vec<Step>) {
    let from = Arc::new(from);
    let first = from.join().await;
    leave(&from, first).await;
    model::agrees(from.clone(), history).await;
    // However often the clock was set back.
    from.pass(std::time::Duration::from_secs(86_400));
    let text = exported(&from).await;
    let mut last = text.clone();
    for world in [&other as &dyn World, &back as &dyn World] {
        let ledger = world.join().await;
        let all = entries(&text).len() as u64;
        assert_eq!(take_in(&*ledger, &last).await, Counts { added: all, ..Counts::default() });
        assert_eq!(take_in(&*ledger, &last).await, Counts { known: all, ..Counts::default() });
        world.kill(ledger).await;
        world.pass(std::time::Duration::from_secs(600));
        let (mut bytes, written) = (Vec::new(), AtomicU64::new(0));
        export(&*world.view().await, &mut bytes, world.now(), Stillness::Wanted, &written).await.unwrap();
        last = String::from_utf8(bytes).unwrap();
        assert_eq!(entries(&last), entries(&text));
        // It goes on, with tokens that nobody had.
        let issued = Source::open(text.as_bytes()).unwrap().header.last_token;
        let heir = world.join().await;
        let request = crate::ledger::ClaimRequest { repeat: Repeat::Force, ..request("0", "/next") };
        let claim = claimed(heir.claim(vec![request]).await.unwrap().remove(0));
        assert!(claim.token.0 > issued, "{claim:?} {issued}");
    }
}

fn runner() -> TestRunner {
    TestRunner::new(ProptestConfig { cases: ProptestConfig::default().cases / 8, ..Default::default() })
}

#[test]
fn any_ledger_moves_to_the_other_kind_and_back() {
    let server = redis::quick_server();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = runner().run(&(model::history(1..60), any::<bool>()), |(history, from_redis)| {
        runtime.block_on(async {
            let (one, other) = (redis::Place::on(server.clone()), redis::Place::on(server.clone()));
            let (file, copy) = (sqlite::Place::new(), sqlite::Place::new());
            match from_redis {
                true => moves(one, file, other, history).await,
                false => moves(file, one, copy, history).await,
            }
        });
        Ok(())
    });
    outcome.unwrap();
}

/// Three entries: one waits, one failed, one is archived.
fn sample() -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = sqlite::Place::new();
        let ledger = world.join().await;
        for name in ["1", "2", "3"] {
            let reply = ledger.claim(vec![request(name, &format!("/r/{name}\u{7f}"))]).await.unwrap().remove(0);
            assert!(matches!(reply, ClaimReply::Claimed(_)));
        }
        world.kill(ledger).await;
        exported(&world).await
    })
}

fn mistake(text: &str) -> String {
    let checked = Source::open(text.as_bytes()).and_then(|source| source.check(&AtomicU64::new(0)));
    match checked {
        Err(ReadError::Mistake(mistake)) => mistake.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bad_file_is_told_by_its_line() {
    let good = sample();
    assert!(good.is_ascii() && good.contains(r#""path":"1%FF""#), "{good}");
    assert_eq!(Source::open(good.as_bytes()).unwrap().check(&AtomicU64::new(0)).unwrap(), 3);
    let lines: Vec<_> = good.split_inclusive('\n').collect();
    let without = |left_out: usize| -> String {
        lines.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, line)| *line).collect()
    };
    let twice = [lines[0], lines[1], lines[1], lines[3], lines[4]].concat();
    let repeated = [lines[0], lines[1], lines[2], lines[1], lines[3], lines[4]].concat();
    let too_large = Header::new(DateTime::default(), Token(LARGEST_TOKEN.0 + 1));
    let too_large = Writer::default().header(&too_large);
    for (text, expected) in [
        (String::new(), "line 1: the file is empty"),
        ("{}\n".into(), "line 1: this is no file that `archiver ledger export` wrote"),
        ("SQLite format 3\0\n".into(), "line 1: this is no file"),
        (good.replacen("\"archiver-ledger\":1", "\"archiver-ledger\":2", 1), "in format 2, this one knows 1"),
        (good.replacen(lines[0], &too_large, 1), "line 1: its last token"),
        (without(4), "line 5: the last line is missing"),
        (without(1), "line 4: 3 entries were written, and 2 are here"),
        (good[..good.len() - 1].into(), "line 5: the file ends in the middle of it"),
        (lines[..2].concat() + &lines[2][..40], "line 3: the file ends in the middle of it"),
        (good.replacen("\"size\":7", "\"size\":8", 1), "line 5: the SHA-256"),
        (good.replacen("\"size\":7", "\"size\":-8", 1), "line 2: it cannot be read: invalid value"),
        (
            good.replacen("\"inode\"", "\"reserved\":1,\"inode\"", 1),
            "line 2: it cannot be read: unknown field `reserved`",
        ),
        (good.replacen("\"state\":\"waiting\"", "\"state\":\"failed\"", 1), "line 2: its state, record and reason"),
        (good.replacen("\"local_path\":\"/", "\"local_path\":\"", 1), "line 2: its paths"),
        (good.clone() + "\n", "line 6: there is more"),
        (good.clone() + &good, "line 6: there is more"),
        (twice, "line 5: lines 2 and 3 are of the same file"),
        (repeated, "line 6: lines 2 and 4 are of the same file"),
    ] {
        let told = mistake(&text);
        assert!(told.contains(expected), "{told}\n{text}");
    }
}

#[test]
fn one_file_twice_is_a_mistake_even_where_all_else_is_right() {
    let good = sample();
    let mut file = Writer::default();
    let header = Source::open(good.as_bytes()).unwrap().header;
    let entry = Source::open(good.as_bytes()).unwrap().batch().unwrap().remove(0);
    let text = [file.header(&header), file.entry(&entry), file.entry(&entry), file.trailer()].concat();
    assert_eq!(mistake(&text), "line 4: lines 2 and 3 are of the same file");
}

#[tokio::test]
async fn what_was_cut_short_is_imported_to_its_end_the_next_time() {
    let world = sqlite::Place::new();
    let mut file = Writer::default();
    let mut text = file.header(&Header::new(world.now(), crate::domain::Token(1_000)));
    for number in 0..2 * BATCH {
        text += &file.entry(&foreign(&number.to_string(), &[5]));
    }
    let half = text.split_inclusive('\n').take(BATCH + BATCH / 2).collect::<String>();
    text += &file.trailer();
    let ledger = world.join().await;
    let counts = Mutex::default();
    let cut = import(&*ledger, Source::open(io::Cursor::new(half)).unwrap(), &counts).await;
    assert!(matches!(cut, Err(ImportError::Read(ReadError::Mistake(_)))), "{cut:?}");
    let first = BATCH as u64;
    assert_eq!(counts.into_inner().unwrap(), Counts { added: first, ..Counts::default() });
    assert_eq!(take_in(&*ledger, &text).await, Counts { added: first, known: first, ..Counts::default() });
    world.kill(ledger).await;
    assert_eq!(entries(&exported(&world).await), entries(&text));
}

#[tokio::test]
async fn a_ledger_in_use_is_not_moved() {
    let world = sqlite::Place::new();
    let ledger = world.join().await;
    ledger.claim(vec![request("x", "/x")]).await.unwrap();
    let view = world.view().await;
    let written = AtomicU64::new(0);
    let refused = export(&*view, &mut Vec::new(), world.now(), Stillness::Wanted, &written).await;
    let Err(ExportError::Live(members)) = refused else { panic!("{refused:?}") };
    assert_eq!(members.iter().map(|member| member.owner).collect::<Vec<_>>(), [ledger.owner()]);
    // A backup has what it holds as waiting, with what it may have staged.
    let mut text = Vec::new();
    export(&*view, &mut text, world.now(), Stillness::NotWanted, &written).await.unwrap();
    let text = String::from_utf8(text).unwrap();
    let entry = Source::open(text.as_bytes()).unwrap().batch().unwrap().remove(0);
    assert_eq!((&entry.key, &entry.staged), (&key("x"), &vec![entry.token]));
    assert!(text.contains(r#""state":"waiting""#), "{text}");
}
