//! All integration tests in one binary: a module per feature, real servers, nothing shared.
mod support;

#[path = "integration/session.rs"]
mod session;
