//! `serve`: the embedded SFTP server until a signal.

use super::failed;
use super::wishes::Wishes;
use crate::cli::ServeArgs;
use crate::embedded::serve::{self, PasswordSource, ServeOptions};
use crate::embedded::{HostKey, Quirks};
use crate::exit::Exit;
use crate::report::Console;
use crate::shutdown::Shutdown;
use crate::signals::Signals;

pub async fn run(args: ServeArgs, console: Console, signals: Signals) -> Exit {
    let shutdown = Shutdown::new();
    tokio::spawn(Wishes::default().follow(signals, shutdown.clone()));
    let options = ServeOptions {
        listen: args.listen,
        root: args.root,
        user: args.user,
        password: args.password_file.map_or(PasswordSource::Automatic, PasswordSource::File),
        authorized_keys: args.authorized_keys.into_iter().collect(),
        host_key: args.host_key.map_or(HostKey::Generated, HostKey::FileOrCreate),
        quirks: Quirks::default(),
    };
    match serve::run(options, shutdown.draining().clone(), &mut std::io::stderr()).await {
        Ok(()) => Exit::Done,
        Err(error) => failed(&console, "the server cannot run", &error.to_string(), None, Exit::Usage),
    }
}
