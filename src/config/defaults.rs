//! The default layer: what the table of keys says, and the few defaults that depend on the command or on the machine.

use super::CommandKind;
use super::environment::Environment;
use super::key::{Default, Kind};
use super::keys::KEYS;
use super::layer::{Entry, Layer, Origin, Value};

/// Defaults of every key that has one. Without a home directory there is none for the ledger.
pub(super) fn layer(kind: CommandKind, environment: &Environment) -> Layer {
    let mut layer = Layer::default();
    for key in KEYS {
        let text = match key.default {
            Default::Value(text) => Some(text.to_owned()),
            Default::Unset(_) if key.kind == Kind::List => {
                layer.values.insert(key.name, Entry { value: Value::Many(Vec::new()), origin: Origin::Default });
                None
            }
            Default::Unset(_) => None,
            Default::Depends(_) => depending(key.name, kind, environment),
        };
        if let Some(text) = text {
            layer.values.insert(key.name, Entry { value: Value::of(key, text), origin: Origin::Default });
        }
    }
    layer
}

fn depending(name: &str, kind: CommandKind, environment: &Environment) -> Option<String> {
    use CommandKind::{Check, Demo, Inspect, Push, Serve, Show, Watch};
    match name {
        "settle" => Some(if kind == Push { "0s" } else { "2s" }.into()),
        "ledger.url" => {
            let dir = environment.xdg("XDG_STATE_HOME", ".local/state")?;
            dir.join("archiver/ledger.db").into_os_string().into_string().ok()
        }
        // A person at a terminal has the progress and the summary; a service has its log only.
        "log.level" => Some(
            match kind {
                Watch | Serve | Show => "warn,archiver=info",
                Push | Check | Inspect | Demo => "warn",
            }
            .into(),
        ),
        _ => None,
    }
}
