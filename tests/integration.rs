//! All integration tests in one binary: a module per feature, real servers, nothing shared.
mod support;

#[path = "integration/embedded.rs"]
mod embedded;
#[path = "integration/embedded_protocol.rs"]
mod embedded_protocol;
