//! A link with a long way to go: what counts is how often a run waits for an answer, and that is counted, not timed.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::runtime::Runtime;

use super::{Bench, Pushed};
use crate::support::env::{noise, write};
use crate::support::openssh::OpenSsh;
use crate::support::relay::Relay;

/// A bench whose way to the server takes 50 ms there and back.
struct SlowBench {
    bench: Bench,
    relay: Relay,
    /// Drives the relay.
    _runtime: Runtime,
}

impl SlowBench {
    fn of(server: &OpenSsh) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()));
        let relay = runtime.block_on(Relay::start(target, Duration::from_millis(25))).unwrap();
        Self { bench: Bench::relayed(server, &relay), relay, _runtime: runtime }
    }

    fn with_files(self, count: u64, size: usize) -> Self {
        for number in 0..count {
            write(&self.bench.env.local(), format!("{}/{number}", number % 3), noise(size, number));
        }
        self
    }

    /// Pushes all of them, rightly, and says how many round trips followed each other.
    fn push(&self, count: u64, options: &[&str]) -> u64 {
        let mut command = self.bench.push([self.bench.env.local()]);
        Pushed::run(command.args(options)).expect(0).assert_counts([count, 0, 0, 0]);
        self.bench.assert_same_files();
        self.bench.assert_no_part();
        self.relay.round_trips()
    }
}

#[test]
fn many_small_files_do_not_wait_for_each_other() {
    const FILES: u64 = 400;
    let server = OpenSsh::plain();
    let round_trips = SlowBench::of(&server).with_files(FILES, 1_000).push(FILES, &[]);
    // Each file takes several, one after another: one at a time on each of four sessions would need more than this.
    assert!(round_trips < FILES, "{round_trips} round trips in a row for {FILES} files");
}

#[test]
fn one_at_a_time_they_would() {
    const FILES: u64 = 8;
    let server = OpenSsh::plain();
    let options = ["--connections", "1", "--jobs", "1"];
    let round_trips = SlowBench::of(&server).with_files(FILES, 1_000).push(FILES, &options);
    assert!(round_trips > 2 * FILES, "{round_trips} round trips in a row for {FILES} files");
}

/// russh reads nothing from a host on the way while the session inside takes nothing from it: with many files in flight
/// both could wait for each other.
#[test]
fn many_files_pass_through_a_host_on_the_way() {
    const FILES: u64 = 1_500;
    let (gate, server) = (OpenSsh::plain(), OpenSsh::plain());
    let mut slow = SlowBench::of(&gate);
    let bench = &mut slow.bench;
    let known_hosts = [
        format!("[127.0.0.1]:{} {}\n", slow.relay.address().port(), gate.host_key("ed25519")),
        format!("[127.0.0.1]:{} {}\n", server.port(), server.host_key("ed25519")),
    ];
    let known_hosts = write(&bench.env.home(), "both", known_hosts.concat());
    let config = format!(
        "Host gate\n HostName 127.0.0.1\n Port {}\n IdentityFile {}\nHost inner\n HostName 127.0.0.1\n Port {}\n ProxyJump gate\n",
        slow.relay.address().port(),
        gate.client_key().display(),
        server.port()
    );
    let config = write(&bench.env.home(), "ssh_config", config);
    bench.to = format!("sftp://{}@inner{}", server.user(), server.base());
    bench.base = Bench::openssh(&server).base;
    bench.login = vec!["--identity".into(), server.client_key().into(), "--known-hosts".into(), known_hosts.into()];
    bench.login.extend(["--ssh-config".into(), config.into()]);
    slow.with_files(FILES, 13_000).push(FILES, &["--retries", "1"]);
}
