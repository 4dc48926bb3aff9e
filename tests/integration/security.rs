//! A hostile application, a hostile server and a curious reader, against the real binary. What each can and cannot do
//! is in docs/security.md.

#[path = "security/permissions.rs"]
mod permissions;
#[path = "security/races.rs"]
mod races;
#[path = "security/secrets.rs"]
mod secrets;
#[path = "security/server.rs"]
mod server;
#[path = "security/terminal.rs"]
mod terminal;
