//! `archiver serve`: the embedded SFTP server, for development and tests.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::shared::LogArgs;

const AFTER_HELP: &str = "\
Examples:
  archiver serve --root /tmp/sftp --password-file password.txt
  archiver serve --listen 127.0.0.1:0 --root /tmp/sftp --authorized-keys ~/.ssh/id_ed25519.pub";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ServeArgs {
    /// Address to listen on; port 0 for a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:2222")]
    pub listen: SocketAddr,
    /// Directory to serve, which clients cannot leave
    #[arg(long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub root: PathBuf,
    /// The only user who may log in
    #[arg(long, value_name = "NAME", default_value = "archiver")]
    pub user: String,
    /// File whose first line is the password
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub password_file: Option<PathBuf>,
    /// File with the public keys that may log in
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub authorized_keys: Option<PathBuf>,
    /// The server's private key [default: a new one]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub host_key: Option<PathBuf>,
    #[command(flatten)]
    pub log: LogArgs,
}
