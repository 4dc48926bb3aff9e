//! All integration tests in one binary: a module per feature, real servers, nothing shared.
#[path = "integration/architecture.rs"]
mod architecture;
#[path = "integration/cli.rs"]
mod cli;
#[path = "integration/config.rs"]
mod config;
#[path = "integration/config_reference.rs"]
mod config_reference;
#[path = "integration/source.rs"]
mod source;
mod support;

#[path = "integration/embedded.rs"]
mod embedded;
#[path = "integration/embedded_protocol.rs"]
mod embedded_protocol;
#[path = "integration/ledger.rs"]
mod ledger;
#[path = "integration/push.rs"]
mod push;
#[path = "integration/session.rs"]
mod session;
