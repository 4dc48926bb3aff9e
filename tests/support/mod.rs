//! Owned directories, real servers, neutral environments.

pub mod embedded;
pub mod env;
pub mod openssh;
