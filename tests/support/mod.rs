//! Owned directories, real servers, slow links, neutral environments.

pub mod embedded;
pub mod env;
pub mod openssh;
pub mod relay;
