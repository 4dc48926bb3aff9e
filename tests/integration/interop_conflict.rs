//! A name that is taken, by the same bytes and by others, under each policy: what stood there stands there still.

use super::{Commit, Expected, Site};
use crate::push::Pushed;
use crate::support::env::{files, run, write};

pub fn each_policy(expected: &'static Expected) {
    let Some(site) = Site::start(expected) else { return };
    let local = site.bench.env.local();
    let theirs = site.bench.env.path().join("theirs");
    // As long as ours, so that the size does not tell.
    write(&theirs, "report.csv", "theirs");
    write(&theirs, "same.csv", "same");
    write(&local, "report.csv", "ours!!");
    write(&local, "same.csv", "same");
    let read = |policy: &str, name: &str| std::fs::read_to_string(site.bench.base.join(policy).join(name)).unwrap();
    for (policy, code, counts) in [
        ("rename", 0, [2, 0, 0, 0]),
        ("skip", 0, [1, 1, 0, 0]),
        ("overwrite", 0, [2, 0, 0, 0]),
        ("fail", 1, [1, 0, 0, 1]),
    ] {
        let mut before = site.push_of(&theirs);
        site.other(before.args(["--layout", policy]), &format!("theirs-{policy}.db"));
        Pushed::run(&mut before).expect(0).assert_counts([2, 0, 0, 0]);
        if policy == "overwrite" && expected.commit == Commit::Direct {
            refused(&site);
            assert_eq!(read(policy, "report.csv"), "theirs");
            continue;
        }
        for round in 0..2 {
            let mut command = site.push();
            // A ledger that knows nothing: it has to be seen on the server.
            site.other(command.args(["--layout", policy, "--on-conflict", policy]), &format!("{policy}-{round}.db"));
            let pushed = Pushed::run(&mut command).expect(if policy == "overwrite" && round == 1 { 0 } else { code });
            pushed.assert_counts(counts);
            assert!(pushed.reason("/same.csv").contains("the same bytes stood there already"), "{policy}");
        }
        let report = if policy == "overwrite" { "ours!!" } else { "theirs" };
        assert_eq!((read(policy, "report.csv").as_str(), read(policy, "same.csv").as_str()), (report, "same"));
        let stands = files(&site.bench.base.join(policy));
        let beside = stands
            .keys()
            .find(|path| path.to_str().is_some_and(|name| name.starts_with("report.") && name != "report.csv"));
        match beside {
            Some(beside) => assert_eq!((policy, read(policy, beside.to_str().unwrap()).as_str()), ("rename", "ours!!")),
            None => assert_ne!(policy, "rename"),
        }
        assert_eq!(stands.len(), if policy == "rename" { 3 } else { 2 }, "{policy}: {stands:?}");
        site.bench.assert_no_part();
    }
}

/// What cannot be replaced by a rename is not replaced.
fn refused(site: &Site) {
    let refused = run(site.push().args(["--layout", "overwrite", "--on-conflict", "overwrite"]));
    refused.assert_code(2);
    assert!(refused.stderr.contains("where the server can rename"), "{}", refused.stderr);
}
