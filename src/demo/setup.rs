//! The server, the key that opens it, and the settings of an archiver that knows both: made the way a user would make
//! them, by way of the configuration.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey, PublicKey};

use super::place::Place;
use super::world::World;
use crate::config::key::Key;
use crate::config::layer::{Entry, Origin, Value, Values};
use crate::config::settings::Settings;
use crate::config::{self, CommandKind, CommandLayer, ConfigErrors, Environment};
use crate::domain::display;
use crate::embedded::{Authentication, HostKey, Server, ServerConfig, StartError};

/// The only user of the server.
pub const USER: &str = "demo";
/// How long a file has to keep still; short, so that nobody has to wait long.
const SETTLE: &str = "500ms";
/// How long an interrupted demo goes on to finish what it can.
const GRACE: &str = "2s";

/// Why the demo cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("cannot make a key: {0}")]
    Key(#[from] russh::keys::ssh_key::Error),
    #[error("cannot write {}: {source}", display::path(.path))]
    Write { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Server(#[from] StartError),
}

/// Starts the server on a free loopback port, with a new host key that `known_hosts` then knows, and a new client key
/// that the server lets in.
pub async fn server(place: &Place) -> Result<Server, SetupError> {
    let key = client_key(place)?;
    let server = Server::start(ServerConfig {
        host_key: HostKey::FileOrCreate(place.keys().join("host_key")),
        ..ServerConfig::on_loopback(place.server(), Authentication::with_keys(USER, vec![key]))
    })
    .await?;
    write(&place.known_hosts(), &format!("{}\n", server.known_hosts_line()))?;
    Ok(server)
}

/// The URL of the destination.
pub fn url(address: SocketAddr) -> String {
    format!("sftp://{USER}@{address}/upload")
}

/// The settings of `archiver watch` for this world and this server. They depend on nothing that the user has set up.
pub fn settings(place: &Place, world: &World, url: String, quiet: bool) -> Result<Settings, ConfigErrors> {
    let mut command = CommandLayer { quiet, ..CommandLayer::default() };
    command.set("destination.url", Some(url));
    command.set_all("destination.identity", vec![text(&place.identity())]);
    command.set_all("destination.known-hosts", vec![text(&place.known_hosts())]);
    command.set("destination.host-key", Some("strict".into()));
    command.set("destination.ssh-config", Some("none".into()));
    command.set("ledger.url", Some(text(&place.ledger())));
    command.set("settle", Some(SETTLE.into()));
    command.set("shutdown.grace", Some(GRACE.into()));
    let reports = source("reports", &world.reports(), None);
    let exports = source("exports", &world.exports(), Some(World::MARKER));
    command.layer.sources = Some(vec![reports, exports]);
    Ok(config::resolve(&command, &Environment::with([]), CommandKind::Watch)?.settings)
}

fn source(name: &str, path: &Path, marker: Option<&str>) -> Values {
    let given = [
        ("source.name", Some(name.to_owned())),
        ("source.paths", Some(text(path))),
        ("marker", marker.map(str::to_owned)),
    ];
    let entries = given.into_iter().filter_map(|(key, text)| {
        let key = Key::named(key);
        Some((key.name, Entry { value: Value::of(key, text?), origin: Origin::Flag("--source") }))
    });
    entries.collect()
}

/// A path as settings hold it. That the place is UTF-8 was made sure of when it was made.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Makes the client's key pair, as `ssh-keygen -t ed25519` would, and gives its public half.
fn client_key(place: &Place) -> Result<PublicKey, SetupError> {
    let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519)?;
    write(&place.identity(), &key.to_openssh(LineEnding::LF)?)?;
    let public = key.public_key().clone();
    write(&place.identity().with_extension("pub"), &format!("{}\n", public.to_openssh()?))?;
    Ok(public)
}

/// A file that only its owner may read.
fn write(path: &Path, content: &str) -> Result<(), SetupError> {
    let file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(content.as_bytes()))
        .map_err(|source| SetupError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::LedgerLocation;
    use crate::demo::place::Afterwards;
    use crate::domain::HostKeyPolicy;

    #[test]
    fn the_settings_are_those_of_a_strict_watch_and_need_no_home() {
        // Names that would have to be escaped in a `--source`.
        let parent = tempfile::Builder::new().prefix("a, {b} ~").tempdir().unwrap();
        let place = Place::below(parent.path(), 1, Afterwards::Remove).unwrap();
        let world = World::create(&place.app(), chrono::NaiveDate::default()).unwrap();
        let settings = settings(&place, &world, url(([127, 0, 0, 1], 2022).into()), false).unwrap();
        let [destination] = &settings.destinations[..] else { panic!("one server") };
        assert_eq!(destination.host_key, HostKeyPolicy::Strict);
        assert_eq!(destination.url.to_string(), "sftp://demo@127.0.0.1:2022/upload");
        let sources: Vec<_> =
            settings.sources.iter().map(|s| (s.name.as_str(), s.paths.clone(), s.marker.clone())).collect();
        let expected =
            [("reports", vec![world.reports()], None), ("exports", vec![world.exports()], Some("{name}.done".into()))];
        assert_eq!(sources, expected);
        assert_eq!(settings.ledger.location, LedgerLocation::File(place.ledger()));
    }
}
