//! All integration tests in one binary: a module per feature, real servers, nothing shared.
#[path = "integration/architecture.rs"]
mod architecture;
mod support;

#[path = "integration/ledger.rs"]
mod ledger;
#[path = "integration/embedded.rs"]
mod embedded;
#[path = "integration/embedded_protocol.rs"]
mod embedded_protocol;
