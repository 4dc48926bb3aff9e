//! All integration tests in one binary: a module per feature, real servers, nothing shared.
#[path = "integration/alerts.rs"]
mod alerts;
#[path = "integration/architecture.rs"]
mod architecture;
#[path = "integration/bench.rs"]
mod bench;
#[cfg(feature = "failpoints")]
#[path = "integration/chaos.rs"]
mod chaos;
#[path = "integration/check.rs"]
mod check;
#[path = "integration/cli.rs"]
mod cli;
#[path = "integration/config.rs"]
mod config;
#[path = "integration/config_reference.rs"]
mod config_reference;
#[path = "integration/source.rs"]
mod source;
mod support;

#[path = "integration/dedupe.rs"]
mod dedupe;
#[path = "integration/demo.rs"]
mod demo;
#[path = "integration/embedded.rs"]
mod embedded;
#[path = "integration/embedded_protocol.rs"]
mod embedded_protocol;
#[path = "integration/interop.rs"]
mod interop;
#[path = "integration/ledger.rs"]
mod ledger;
#[path = "integration/lifecycle_drain.rs"]
mod lifecycle_drain;
#[path = "integration/lifecycle_end.rs"]
mod lifecycle_end;
#[path = "integration/lifecycle_places.rs"]
mod lifecycle_places;
#[path = "integration/lifecycle_reload.rs"]
mod lifecycle_reload;
#[path = "integration/lifecycle_stop.rs"]
mod lifecycle_stop;
#[path = "integration/observe.rs"]
mod observe;
#[path = "integration/page.rs"]
mod page;
#[path = "integration/push.rs"]
mod push;
#[path = "integration/relay.rs"]
mod relay;
#[path = "integration/run_command.rs"]
mod run_command;
#[path = "integration/security.rs"]
mod security;
#[path = "integration/serve.rs"]
mod serve;
#[path = "integration/session.rs"]
mod session;
#[path = "integration/shared_ledger.rs"]
mod shared_ledger;
#[path = "integration/watch.rs"]
mod watch;
#[path = "integration/watch_clock.rs"]
mod watch_clock;
#[path = "integration/watch_crash.rs"]
mod watch_crash;
#[path = "integration/watch_files.rs"]
mod watch_files;
#[path = "integration/watch_hung.rs"]
mod watch_hung;
#[path = "integration/watch_idle.rs"]
mod watch_idle;
#[path = "integration/watch_leftovers.rs"]
mod watch_leftovers;
#[path = "integration/watch_lifecycle.rs"]
mod watch_lifecycle;
#[path = "integration/watch_logins.rs"]
mod watch_logins;
#[path = "integration/watch_markers.rs"]
mod watch_markers;
#[path = "integration/watch_odd_files.rs"]
mod watch_odd_files;
#[path = "integration/watch_outages.rs"]
mod watch_outages;
#[path = "integration/watch_overload.rs"]
mod watch_overload;
#[path = "integration/watch_places.rs"]
mod watch_places;
#[path = "integration/watch_regressions.rs"]
mod watch_regressions;
#[path = "integration/watch_rotation.rs"]
mod watch_rotation;
#[path = "integration/watch_trees.rs"]
mod watch_trees;
