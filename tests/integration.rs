//! All integration tests in one binary: a module per feature, real servers, nothing shared.
#[path = "integration/source.rs"]
mod source;
mod support;
