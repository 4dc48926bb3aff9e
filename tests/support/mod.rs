//! Owned directories, real servers, neutral environments.

pub mod openssh;
