use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

const KEY: KeyId = KeyId([0xab; 16]);
const ASIDE: &str = ".a.csv.abababababab.archived";

/// A source with one file, `d/a.csv`, and the version of it that was archived.
struct Fixture {
    dir: tempfile::TempDir,
    root: RootDir,
    path: BelowRoot,
    version: Fingerprint,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("in/d")).unwrap();
        fs::write(dir.path().join("in/d/a.csv"), "archived").unwrap();
        let root = RootDir::open(&dir.path().join("in")).unwrap();
        let path = BelowRoot::new("d/a.csv").unwrap();
        let version = root.fingerprint_at(&path).unwrap().unwrap();
        Self { dir, root, path, version }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join("d").join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.root.path().join("d"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn after(&self, after: &After) -> Result<Disposed, DisposeError> {
        dispose(&self.root, &self.path, self.version, KEY, after)
    }

    fn out(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join("out")
    }

    fn moved(&self) -> Result<Disposed, DisposeError> {
        self.after(&After::Move(self.out()))
    }
}

#[test]
fn the_archived_version_is_kept_deleted_or_found_gone() {
    let fixture = Fixture::new();
    assert_eq!(fixture.after(&After::Keep).unwrap(), Disposed::Kept);
    assert_eq!(fixture.names(), ["a.csv"]);
    assert_eq!(fixture.after(&After::Delete).unwrap(), Disposed::Deleted);
    assert!(fixture.names().is_empty());
    assert_eq!(fixture.after(&After::Delete).unwrap(), Disposed::Gone);
    fs::remove_dir(fixture.root.path().join("d")).unwrap();
    assert_eq!(fixture.moved().unwrap(), Disposed::Gone);
}

#[test]
fn another_version_is_never_removed() {
    let fixture = Fixture::new();
    fs::write(fixture.at("a.csv"), "a newer version").unwrap();
    assert_eq!(fixture.after(&After::Delete).unwrap(), Disposed::Changed(None));
    assert_eq!(fixture.text("a.csv"), "a newer version");
    fs::remove_file(fixture.at("a.csv")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", fixture.at("a.csv")).unwrap();
    assert_eq!(fixture.moved().unwrap(), Disposed::Changed(None));
    assert_eq!(fixture.names(), ["a.csv"]);
}

#[test]
fn a_file_that_is_written_to_again_stays() {
    let fixture = Fixture::new();
    let writer = fs::File::options().append(true).open(fixture.at("a.csv")).unwrap();
    let lease = writer_of(&fs::File::open(fixture.at("a.csv")).unwrap(), Thoroughness::Lease);
    if lease == WriterState::Unknown {
        eprintln!("skipped: this filesystem grants no leases");
        return;
    }
    assert_eq!(fixture.after(&After::Delete).unwrap(), Disposed::Reopened(None));
    assert_eq!(fixture.names(), ["a.csv"]);
    drop(writer);
    assert_eq!(fixture.after(&After::Delete).unwrap(), Disposed::Deleted);
}

#[test]
fn a_crash_after_the_rename_aside_is_finished_by_the_next_call() {
    for after in [After::Delete, After::Move(PathBuf::from("out"))] {
        let fixture = Fixture::new();
        let after = if after == After::Delete { after } else { After::Move(fixture.out()) };
        fs::rename(fixture.at("a.csv"), fixture.at(ASIDE)).unwrap();
        fs::write(fixture.at("a.csv"), "a newer version").unwrap();
        assert!(matches!(fixture.after(&after).unwrap(), Disposed::Deleted | Disposed::Moved(_)));
        assert_eq!((fixture.names(), fixture.text("a.csv")), (vec!["a.csv".to_owned()], "a newer version".to_owned()));
    }
}

#[test]
fn what_was_renamed_aside_and_is_something_else_gets_its_name_back() {
    let fixture = Fixture::new();
    fs::rename(fixture.at("a.csv"), fixture.at(ASIDE)).unwrap();
    fs::write(fixture.at(ASIDE), "written through an open handle").unwrap();
    assert_eq!(fixture.after(&After::Delete).unwrap(), Disposed::Changed(None));
    assert_eq!(fixture.names(), ["a.csv"]);
    fs::rename(fixture.at("a.csv"), fixture.at(ASIDE)).unwrap();
    fs::write(fixture.at("a.csv"), "the name is taken").unwrap();
    let kept = fixture.at("a.csv.abababababab");
    assert_eq!(fixture.after(&After::Delete).unwrap(), Disposed::Changed(Some(kept)));
    assert_eq!(fixture.names(), ["a.csv", "a.csv.abababababab"]);
    assert_eq!(fixture.text("a.csv"), "the name is taken");
}

/// A writer that replaces the file all the time against a disposer that always asks for the version it saw last:
/// whatever was deleted is that version and no other, and the writer's last version is never lost.
#[test]
fn a_race_with_a_writer_removes_only_the_expected_version() {
    let fixture = Fixture::new();
    let (name, temporary) = (fixture.at("a.csv"), fixture.at("next.tmp"));
    let writer = std::thread::spawn(move || {
        for round in 0..2000 {
            fs::write(&temporary, format!("version {round}")).unwrap();
            fs::rename(&temporary, &name).unwrap();
        }
    });
    let mut last_deleted = String::new();
    loop {
        let finished = writer.is_finished();
        let Ok(mut seen) = fixture.root.open_file(&fixture.path) else {
            if finished {
                break;
            }
            continue;
        };
        let end = dispose(&fixture.root, &fixture.path, seen.fingerprint, KEY, &After::Delete).unwrap();
        if end == Disposed::Deleted {
            assert_eq!(seen.file.metadata().unwrap().nlink(), 0, "another version was deleted");
            last_deleted.clear();
            io::Read::read_to_string(&mut seen.file, &mut last_deleted).unwrap();
        }
        if finished {
            break;
        }
    }
    writer.join().unwrap();
    let survivors: Vec<_> = fixture.names().iter().map(|name| fixture.text(name)).collect();
    assert!(last_deleted == "version 1999" || survivors.iter().any(|text| text == "version 1999"), "{survivors:?}");
}

#[test]
fn a_move_keeps_the_place_below_the_source_and_never_overwrites() {
    let fixture = Fixture::new();
    let out = fixture.out();
    assert_eq!(fixture.moved().unwrap(), Disposed::Moved(out.join("d/a.csv")));
    assert_eq!(fs::metadata(out.join("d/a.csv")).unwrap().ino(), fixture.version.inode);

    let fixture = Fixture::new();
    let out = fixture.out();
    fs::create_dir_all(out.join("d")).unwrap();
    fs::write(out.join("d/a.csv"), "other").unwrap();
    assert_eq!(fixture.moved().unwrap(), Disposed::Moved(out.join("d/a.abababab.csv")));
    assert_eq!(fs::read_to_string(out.join("d/a.csv")).unwrap(), "other");

    let fixture = Fixture::new();
    let out = fixture.out();
    fs::create_dir_all(out.join("d")).unwrap();
    for name in ["d/a.csv", "d/a.abababab.csv"] {
        fs::write(out.join(name), "other").unwrap();
    }
    let error = fixture.moved().unwrap_err().to_string();
    assert!(error.contains("clear them away"), "{error}");
    assert_eq!(fixture.names(), ["a.csv"]);
    fs::write(out.join("d/a.csv"), "archived").unwrap();
    assert_eq!(fixture.moved().unwrap(), Disposed::Moved(out.join("d/a.csv")));
    assert!(fixture.names().is_empty());
}

#[test]
fn a_move_to_another_filesystem_keeps_mode_and_time() {
    let fixture = Fixture::new();
    let other = Path::new("/dev/shm");
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    if device(other).is_none() || device(other) == device(fixture.dir.path()) {
        eprintln!("skipped: there is no second filesystem to write to");
        return;
    }
    // The copy is this user's, so it must not lend this user's rights to whoever runs it.
    fs::set_permissions(fixture.at("a.csv"), fs::Permissions::from_mode(0o6640)).unwrap();
    let out = tempfile::tempdir_in(other).unwrap();
    let after = After::Move(out.path().join("x"));
    assert_eq!(fixture.after(&after).unwrap(), Disposed::Moved(out.path().join("x/d/a.csv")));
    let moved = fs::metadata(out.path().join("x/d/a.csv")).unwrap();
    let mtime = moved.mtime() * 1_000_000_000 + moved.mtime_nsec();
    assert_eq!((moved.mode() & 0o7777, mtime), (0o640, fixture.version.mtime_ns));
    assert_eq!(fs::read_to_string(out.path().join("x/d/a.csv")).unwrap(), "archived");
    assert!(fixture.names().is_empty());
    assert_eq!(fs::read_dir(out.path().join("x/d")).unwrap().count(), 1);

    // A crash between the copy's rename and the removal.
    fs::write(fixture.at(ASIDE), "archived").unwrap();
    let version = root_version(&fixture.root, &format!("d/{ASIDE}"));
    let end = dispose(&fixture.root, &fixture.path, version, KEY, &after).unwrap();
    assert_eq!(end, Disposed::Moved(out.path().join("x/d/a.csv")));
    assert_eq!(fs::read_dir(out.path().join("x/d")).unwrap().count(), 1);
}

fn root_version(root: &RootDir, path: &str) -> Fingerprint {
    root.fingerprint_at(&BelowRoot::new(path).unwrap()).unwrap().unwrap()
}

#[test]
fn a_target_that_cannot_be_made_is_explained_and_the_file_stays() {
    let fixture = Fixture::new();
    fs::write(fixture.out(), "a file where the directory should be").unwrap();
    let error = fixture.moved().unwrap_err().to_string();
    assert!(error.contains("was archived but") && error.contains("use another one"), "{error}");
    assert_eq!(fixture.names(), ["a.csv"]);
    let denied = Job { root: &fixture.root, path: &fixture.path, key_id: KEY, after: &After::Delete };
    assert!(denied.failed(Errno::ACCESS).to_string().contains("--after keep"));
    assert!(denied.failed(Errno::ROFS).to_string().contains("read-only"));
}

#[test]
fn the_longest_names_can_be_set_aside_and_moved() {
    let fixture = Fixture::new();
    let long = format!("{}.csv", "é".repeat(125));
    fs::rename(fixture.at("a.csv"), fixture.at(&long)).unwrap();
    let path = BelowRoot::new(format!("d/{long}")).unwrap();
    fs::create_dir_all(fixture.out().join("d")).unwrap();
    fs::write(fixture.out().join("d").join(&long), "other").unwrap();
    let end = dispose(&fixture.root, &path, fixture.version, KEY, &After::Move(fixture.out())).unwrap();
    let Disposed::Moved(to) = end else { panic!("{end:?}") };
    assert!(to.extension().unwrap() == "csv" && to.exists() && to.file_name().unwrap().len() <= 255);
    assert!(conflicting(OsStr::from_bytes(b"\xff.\xfe"), KEY).as_bytes() == b"\xff.abababab.\xfe");
}

#[test]
fn a_marker_goes_with_the_last_file_it_speaks_for() {
    let fixture = Fixture::new();
    let marker = BelowRoot::new("d/_SUCCESS").unwrap();
    fs::write(fixture.at("_SUCCESS"), "").unwrap();
    let dispose_marker = |speaks_for: &dyn Fn(&Path) -> bool, after: &After| {
        dispose_marker(&fixture.root, &marker, &fixture.path, speaks_for, KEY, after).unwrap()
    };
    assert_eq!(dispose_marker(&|path| path == Path::new("d/a.csv"), &After::Delete), Disposed::Kept);
    assert_eq!(dispose_marker(&|_| false, &After::Keep), Disposed::Kept);
    assert_eq!(fixture.names(), ["_SUCCESS", "a.csv"]);
    fs::remove_file(fixture.at("a.csv")).unwrap();
    let out = fixture.out();
    assert_eq!(dispose_marker(&|_| true, &After::Move(out.clone())), Disposed::Moved(out.join("d/_SUCCESS")));
    assert_eq!(dispose_marker(&|_| true, &After::Delete), Disposed::Gone);
    // The next batch has a marker of the same name and, as markers are, of the same bytes.
    fs::write(fixture.at("_SUCCESS"), "").unwrap();
    assert_eq!(dispose_marker(&|_| true, &After::Move(out.clone())), Disposed::Moved(out.join("d/_SUCCESS")));
}

#[test]
fn the_name_beside_is_known_by_its_key() {
    let fingerprint = Fingerprint { inode: 1, size: 2, mtime_ns: 3 };
    let key = |path: &str| FileKey {
        destination: "sftp://h/".into(),
        source: "a".into(),
        path: path.as_bytes().to_vec(),
        fingerprint,
    };
    let (own, other) = (key("d/a.csv"), key("d/b.csv"));
    let beside = |key: &FileKey| {
        let name = name_beside(OsStr::new("a.csv"), key.id());
        FileKey { path: Path::new("d").join(name).into_os_string().into_encoded_bytes(), ..key.clone() }
    };
    assert!(beside(&own).is_beside());
    assert!(!own.is_beside() && !beside(&other).is_beside() && !key("").is_beside());
}
