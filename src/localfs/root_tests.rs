use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use rustix::fs::CWD;

use super::*;

fn below(path: &str) -> BelowRoot {
    BelowRoot::new(path).unwrap()
}

/// A root reached by each of the two walks.
fn both_walks(path: &Path) -> [RootDir; 2] {
    let [mut one, two] = [(), ()].map(|()| RootDir::open(path).unwrap());
    one.walk = Walk::Stepwise;
    [one, two]
}

#[test]
fn only_regular_files_below_the_root_are_opened() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("in");
    fs::create_dir_all(inside.join("d")).unwrap();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    fs::write(inside.join("d/a"), "inside").unwrap();
    let escaping =
        [("up", "../secret"), ("abs", "/etc/passwd"), ("dangling", "nowhere"), ("loop", "loop"), ("ok", "d/a")];
    for (link, target) in escaping {
        symlink(target, inside.join(link)).unwrap();
    }
    symlink("..", inside.join("out")).unwrap();
    symlink("d", inside.join("same")).unwrap();
    rustix::fs::mknodat(CWD, inside.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _socket = UnixListener::bind(inside.join("socket")).unwrap();

    for root in both_walks(&inside) {
        let opened = root.open_file(&below("d/a")).unwrap();
        assert_eq!(opened.fingerprint.size, 6);
        assert_eq!(opened.fingerprint_now().unwrap(), opened.fingerprint);
        assert_eq!(root.fingerprint_at(&below("d/a")).unwrap(), Some(opened.fingerprint));
        for link in ["up", "abs", "dangling", "loop", "ok", "out/secret", "same/a", "d/../d/a"] {
            let Some(path) = BelowRoot::new(link) else { continue };
            let error = root.open_file(&path).unwrap_err();
            assert!(matches!(error, OpenError::Symlink { .. }), "{link}: {error}");
            assert_eq!(root.fingerprint_at(&path).unwrap(), None, "{link}");
            assert!(!root.exists(Path::new(link)));
        }
        let kind = |path: &str| match root.open_file(&below(path)).unwrap_err() {
            OpenError::NotRegular { kind, .. } => kind,
            error => panic!("{path}: {error}"),
        };
        assert_eq!(kind("fifo"), FileKind::Fifo);
        assert_eq!(kind("socket"), FileKind::Socket);
        assert_eq!(kind("d"), FileKind::Directory);
        for gone in ["gone", "gone/x", "d/a/x"] {
            assert!(matches!(root.open_file(&below(gone)), Err(OpenError::Vanished { .. })), "{gone}");
            assert_eq!(root.fingerprint_at(&below(gone)).unwrap(), None);
        }
    }
    assert!(BelowRoot::new("a/../b").is_none() && BelowRoot::new("/a").is_none() && BelowRoot::new("").is_none());
}

#[test]
fn devices_are_refused() {
    let root = RootDir::open(Path::new("/dev")).unwrap();
    let error = root.open_file(&below("null")).unwrap_err();
    assert!(matches!(error, OpenError::NotRegular { kind: FileKind::Device, .. }), "{error}");
}

#[test]
fn every_name_can_be_opened() {
    let dir = tempfile::tempdir().unwrap();
    let longest = "x".repeat(255);
    let names: [&[u8]; 7] =
        [b"a b", b"new\nline", b"\"quotes'", "🌲é".as_bytes(), longest.as_bytes(), b"\xff\xfe", b"-rf"];
    for root in both_walks(dir.path()) {
        for name in names {
            fs::write(dir.path().join(OsStr::from_bytes(name)), name).unwrap();
            let path = BelowRoot::new(OsStr::from_bytes(name)).unwrap();
            assert_eq!(root.open_file(&path).unwrap().fingerprint.size, name.len() as u64);
        }
        let too_long = below(&"y".repeat(256));
        assert!(matches!(root.open_file(&too_long), Err(OpenError::Io { .. })));
    }
}

#[test]
fn paths_longer_than_the_kernel_takes_are_walked_in_steps() {
    let dir = tempfile::tempdir().unwrap();
    let root = RootDir::open(dir.path()).unwrap();
    let deep = BelowRoot::new(vec!["d".repeat(200); 30].join("/")).unwrap();
    let place = super::super::Place::make(&root, &deep).unwrap();
    let flags = OFlags::CREATE | OFlags::WRONLY;
    drop(rustix::fs::openat(&place.dir, &place.name, flags, Mode::RUSR).unwrap());
    assert!(root.open_file(&deep).is_ok());
    // The standard library removes a tree by handles, so the long path is no trouble to the test's own directory.
    dir.close().unwrap();
}

/// A directory that turns into a symbolic link and back, as fast as it goes: nothing outside is ever read.
#[test]
fn a_directory_swapped_for_a_link_leads_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("in/d")).unwrap();
    fs::create_dir_all(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("in/d/a"), "inside").unwrap();
    fs::write(dir.path().join("outside/a"), "a secret of another length").unwrap();
    symlink("../outside", dir.path().join("in/link")).unwrap();
    let inside = dir.path().join("in");
    let swapper = std::thread::spawn({
        let inside = inside.clone();
        move || {
            let place = fs::File::open(&inside).unwrap();
            for _ in 0..20_000 {
                rustix::fs::renameat_with(&place, "d", &place, "link", rustix::fs::RenameFlags::EXCHANGE).unwrap();
            }
        }
    });
    let roots = both_walks(&inside);
    let (mut opened, mut refused) = (0, 0);
    while !swapper.is_finished() {
        for root in &roots {
            match root.open_file(&below("d/a")) {
                Ok(file) => {
                    assert_eq!(file.fingerprint.size, 6);
                    opened += 1;
                }
                Err(OpenError::Symlink { .. } | OpenError::Vanished { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
    swapper.join().unwrap();
    assert!(opened + refused > 0);
}

#[test]
fn a_root_may_be_a_link_and_may_be_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().join("real");
    fs::create_dir(&real).unwrap();
    symlink("real", dir.path().join("link")).unwrap();
    let root = RootDir::open(&dir.path().join("link")).unwrap();
    assert_eq!(root.path(), real.canonicalize().unwrap());
    assert_eq!(root.refresh(), RootState::Same);
    fs::remove_dir(&real).unwrap();
    assert_eq!(root.refresh(), RootState::Missing);
    fs::create_dir(&real).unwrap();
    fs::write(real.join("a"), "new").unwrap();
    assert_eq!(root.open_file(&below("a")).unwrap().fingerprint.size, 3);
    fs::rename(&real, dir.path().join("moved")).unwrap();
    fs::create_dir(&real).unwrap();
    assert_eq!(root.refresh(), RootState::Replaced);
}

/// Whoever can rename a directory above a root must not choose what the root's path names.
#[test]
fn a_link_above_a_root_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("above/root")).unwrap();
    fs::create_dir_all(dir.path().join("outside/root")).unwrap();
    fs::write(dir.path().join("outside/root/a"), "outside").unwrap();
    for root in both_walks(&dir.path().join("above/root")) {
        fs::rename(dir.path().join("above"), dir.path().join("aside")).unwrap();
        symlink("outside", dir.path().join("above")).unwrap();
        assert_eq!(root.refresh(), RootState::Missing);
        assert!(matches!(root.open_file(&below("a")), Err(OpenError::Vanished { .. })));
        assert!(matches!(RootDir::open_resolved(root.path().to_owned()), Err(OpenError::Symlink { .. })));
        assert!(matches!(RootDir::make(&root.path().join("new")), Err(OpenError::Symlink { .. })));
        fs::remove_file(dir.path().join("above")).unwrap();
        fs::rename(dir.path().join("aside"), dir.path().join("above")).unwrap();
        assert_eq!(root.refresh(), RootState::Same);
    }
}

#[test]
fn a_root_that_cannot_be_opened_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let error = RootDir::open(&dir.path().join("gone\n")).unwrap_err();
    assert!(error.to_string().ends_with("gone\\n is not there"), "{error}");
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(matches!(RootDir::open(&dir.path().join("file")), Err(OpenError::NotDirectory { .. })));
    symlink("loop", dir.path().join("loop")).unwrap();
    assert!(matches!(RootDir::open(&dir.path().join("loop")), Err(OpenError::Symlink { .. })));
}
