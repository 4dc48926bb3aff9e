//! What must become of the files: every version that was ever finished, and the rules that it is held against.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use sha2::{Digest, Sha256};

/// Tells versions apart by their bytes, which never repeat. Files without any are told apart by their names, which no
/// other file ever has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    Bytes(String),
    Empty(PathBuf),
}

impl Identity {
    /// `path` is the one below the source.
    pub fn of(content: &[u8], path: &Path) -> Self {
        match content {
            [] => Self::Empty(path.to_owned()),
            _ => Self::Bytes(Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()),
        }
    }
}

/// One finished state of a file.
#[derive(Debug, Clone)]
pub struct Version {
    /// Below the source, as it was when it was finished.
    pub path: PathBuf,
    pub bytes: u64,
    pub fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nobody but the archiver ever did anything to it: it stands on the server exactly once.
    Kept,
    /// The application itself changed, replaced or removed it while it stood locally: it stands on the server once at
    /// most, for whether the archiver or the application was faster is chance.
    Superseded,
}

/// All versions. The writer tells of one *before* its last byte is written, so that whoever meets it on the server knows
/// it.
#[derive(Debug, Default)]
pub struct Model {
    versions: Mutex<HashMap<Identity, Version>>,
}

impl Model {
    pub fn finished(&self, content: &[u8], path: &Path) -> Identity {
        let identity = Identity::of(content, path);
        let version = Version { path: path.to_owned(), bytes: content.len() as u64, fate: Fate::Kept };
        assert!(self.versions.lock().unwrap().insert(identity.clone(), version).is_none(), "a version twice: {path:?}");
        identity
    }

    pub fn superseded(&self, identity: &Identity) {
        self.versions.lock().unwrap().get_mut(identity).expect("a known version").fate = Fate::Superseded;
    }

    pub fn knows(&self, identity: &Identity) -> bool {
        self.versions.lock().unwrap().contains_key(identity)
    }

    /// Versions, and their bytes.
    pub fn totals(&self) -> (usize, u64) {
        let versions = self.versions.lock().unwrap();
        (versions.len(), versions.values().map(|version| version.bytes).sum())
    }

    /// Holds what stands somewhere against the rules; `violations` get a line for each breach.
    pub fn judge(&self, what: &str, copies: Copies, standing: &[(Identity, PathBuf)], violations: &mut Violations) {
        let mut found: HashMap<&Identity, BTreeSet<&PathBuf>> = HashMap::new();
        for (identity, path) in standing {
            found.entry(identity).or_default().insert(path);
        }
        let versions = self.versions.lock().unwrap();
        for (identity, paths) in &found {
            if !versions.contains_key(*identity) {
                violations.add(format!("{what}: {paths:?} holds what no version ever was"));
            }
            if paths.len() > 1 {
                violations.add(format!("{what}: one version under several names: {paths:?}"));
            }
        }
        for (identity, version) in versions.iter().filter(|(_, version)| version.fate == Fate::Kept) {
            if copies == Copies::One && !found.contains_key(identity) {
                violations.add(format!("{what}: {:?} ({} bytes) is lost", version.path, version.bytes));
            }
        }
    }
}

/// How many copies there must be of a version that nobody but the archiver touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    One,
    /// The user asked for the last version of a name alone.
    OneAtMost,
}

/// What went wrong, each thing once.
#[derive(Debug, Default)]
pub struct Violations(BTreeMap<String, ()>);

impl Violations {
    pub fn add(&mut self, what: String) {
        self.0.insert(what, ());
    }

    pub fn all(&self) -> Vec<&String> {
        self.0.keys().collect()
    }
}

#[test]
fn the_model_knows_each_kind_of_breach() {
    let model = Model::default();
    let kept = model.finished(b"kept", Path::new("kept"));
    let replaced = model.finished(b"replaced", Path::new("replaced"));
    let empty = model.finished(b"", Path::new("empty"));
    model.superseded(&replaced);
    let judged = |standing: &[(&Identity, &str)]| {
        let standing: Vec<_> = standing.iter().map(|(id, path)| ((*id).clone(), PathBuf::from(path))).collect();
        let mut violations = Violations::default();
        model.judge("server", Copies::One, &standing, &mut violations);
        violations.0.into_keys().collect::<Vec<_>>().join("\n")
    };
    assert_eq!(judged(&[(&kept, "1/kept"), (&empty, "2/empty")]), "");
    assert_eq!(judged(&[(&kept, "1/kept"), (&empty, "2/empty"), (&replaced, "3/x")]), "");
    assert!(judged(&[(&kept, "1/kept")]).contains("\"empty\" (0 bytes) is lost"));
    assert!(judged(&[(&kept, "1/kept"), (&kept, "2/kept"), (&empty, "2/empty")]).contains("several names"));
    let partial = Identity::of(b"kep", Path::new("kept"));
    assert!(judged(&[(&kept, "1/kept"), (&empty, "2/empty"), (&partial, "2/kept")]).contains("no version ever was"));
}
