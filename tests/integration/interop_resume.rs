//! A file that is large enough to be resumed, cut in its middle by the death of the archiver.

use std::time::Duration;

use rustix::process::Signal;

use super::{Commit, Expected, Resume, Site, Start};
use crate::push::{Pushed, many_bytes};
use crate::support::env::{Running, files, wait_until, write};
use crate::support::relay::Relay;

const MIB: u64 = 1 << 20;

pub fn a_large_file_after_a_cut(expected: &'static Expected) {
    // The quirks of the embedded server change nothing about it, and the file costs time.
    let quirky = matches!(expected.start, Start::Embedded(quirks) if !quirks.is_empty());
    if quirky && expected.commit != Commit::Direct {
        return;
    }
    let Some(site) = Site::start(expected) else { return };
    let local = site.bench.env.local();
    write(&local, "large", many_bytes(66));
    let wanted = files(&local);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let relay = runtime.block_on(Relay::start(site.address, Duration::ZERO)).unwrap();
    let to = site.bench.to().replace(&site.address.to_string(), &relay.address().to_string());
    let push = || {
        let mut command = site.push_to(&to, &local);
        // The key is the server's, whatever port leads there.
        command.args(["--host-key", &site.fingerprint, "--after", "delete"]);
        command
    };
    let running = Running::start(push().args(["--limit-rate", "48MiB"]));
    wait_until("a part of it is on its way", || relay.bytes_up() > 24 * MIB);
    running.signal(Signal::KILL);
    running.finish();
    let before = relay.bytes_up();
    let pushed = Pushed::run(push().args(["--verify", "readback"])).expect(0);
    pushed.assert_counts([1, 0, 0, 0]);
    let again = relay.bytes_up() - before;
    match expected.resume {
        Resume::GoesOn => assert!(again < 56 * MIB, "{again} bytes were sent again"),
        Resume::Anew => assert!(again > 66 * MIB, "only {again} bytes were sent"),
    }
    println!("{}: {before} bytes, the cut, {again} bytes", expected.name);
    let mut stands = site.bench.archived();
    if expected.commit == Commit::Direct {
        // The part that the killed one left under the final name stays; the whole file stands beside it.
        assert_eq!(stands.len(), 2);
        stands.retain(|_, entry| wanted.values().any(|whole| whole == entry));
        assert_eq!(stands.len(), 1);
    } else {
        assert_eq!(stands, wanted);
    }
    assert!(files(&local).is_empty());
    site.bench.assert_no_part();
}
