//! Owned directories, real servers, slow links, neutral environments.

pub mod broken_link;
pub mod browser;
pub mod daemon;
pub mod embedded;
pub mod env;
pub mod first_process;
pub mod freeze;
pub mod hostile;
pub mod http;
pub mod namespace;
pub mod openssh;
pub mod port;
pub mod redis;
pub mod relay;
pub mod seccomp;
