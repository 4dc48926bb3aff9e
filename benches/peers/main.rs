//! The archiver beside its peers: the same work on the same machine in the same run, by turns, verified each time.
//!
//! Run it with `scripts/bench`; `docs/benchmarks.md` is what it writes. It measures and judges, but it is no test:
//! nothing here runs with `cargo test`.

use std::process::ExitCode;

mod args;
mod arrivals;
mod burst;
#[path = "../../tests/support/freeze.rs"]
mod freeze;
mod link;
mod live;
mod machine;
mod markdown;
#[path = "../../tests/support/openssh.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod openssh;
mod page;
mod place;
#[path = "../../tests/support/port.rs"]
mod port;
mod process;
mod race;
mod racers;
mod record;
#[path = "../../tests/support/redis.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod redis;
#[path = "../../tests/support/relay.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod relay;
mod replicas;
mod rows;
mod run;
mod scale;
mod shared;
mod site;
mod statistics;
mod stop;
mod verify;
mod watching;
mod workload;

fn main() -> ExitCode {
    match run::run(args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
