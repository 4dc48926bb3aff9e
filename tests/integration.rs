//! All integration tests in one binary: a module per feature, real servers, nothing shared.
#[path = "integration/cli.rs"]
mod cli;
#[path = "integration/config.rs"]
mod config;
#[path = "integration/config_reference.rs"]
mod config_reference;
mod support;
