use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use super::*;

#[derive(Default, Debug)]
struct Seen {
    candidates: Vec<PathBuf>,
    ignored: Vec<(PathBuf, Ignored)>,
    problems: Vec<(PathBuf, String)>,
}

impl Seen {
    fn take(&mut self, found: Found) -> ControlFlow<()> {
        match found {
            Found::Candidate(candidate) => self.candidates.push(candidate.path.as_path().to_owned()),
            Found::Ignored { path, why, .. } => self.ignored.push((path.as_path().to_owned(), why)),
            Found::Problem { path, error, .. } => self.problems.push((path, error.to_string())),
        }
        ControlFlow::Continue(())
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.candidates.iter().filter_map(|path| path.to_str()).collect();
        names.sort();
        names
    }
}

fn everything() -> Selection {
    Selection::new(&[], &[], None).unwrap()
}

fn scanned(path: &Path, selection: &Selection) -> Seen {
    let mut seen = Seen::default();
    let root = Arc::new(Root::open(0, path).unwrap());
    let end = scan(&root, selection, &mut |found| seen.take(found));
    assert_eq!(end, ControlFlow::Continue(()));
    seen
}

#[test]
fn a_tree_is_named_once_and_links_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    fs::create_dir_all(at("a/b/c")).unwrap();
    fs::create_dir_all(at(".git/x")).unwrap();
    for file in ["top", "a/1", "a/b/2", "a/b/c/3", "a/x.tmp", ".git/x/4", ".hidden", "a/1.done"] {
        fs::write(at(file), "").unwrap();
    }
    symlink("/etc", at("a/etc")).unwrap();
    symlink("..", at("a/b/loop")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    let marker = "{name}.done".parse().unwrap();
    let seen = scanned(dir.path(), &Selection::new(&[], &[], Some(&marker)).unwrap());
    assert_eq!(seen.names(), ["a/1", "a/b/2", "a/b/c/3", "top"]);
    let why = |path: &str| seen.ignored.iter().find(|(found, _)| found == Path::new(path)).map(|(_, why)| *why);
    for link in ["a/etc", "a/b/loop", "dangling"] {
        assert_eq!(why(link), Some(Ignored::NotRegular(FileKind::Symlink)), "{link}");
    }
    assert_eq!(why("fifo"), Some(Ignored::NotRegular(FileKind::Fifo)));
    assert_eq!(why("socket"), Some(Ignored::NotRegular(FileKind::Socket)));
    assert_eq!(why(".git"), Some(Ignored::NotEntered));
    assert_eq!(why("a/1.done"), Some(Ignored::Marker));
    assert_eq!(why("a/x.tmp"), Some(Ignored::Excluded(Excluded::InFlight)));
    assert!(seen.problems.is_empty());
}

#[test]
fn parts_of_a_tree_can_be_walked() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    for file in ["a/1", "a/b/2", "3"] {
        fs::write(dir.path().join(file), "").unwrap();
    }
    let root = Arc::new(Root::open(0, dir.path()).unwrap());
    let below = |path: &str, selection: &Selection| {
        let mut seen = Seen::default();
        let _ = scan_below(&root, &BelowRoot::new(path).unwrap(), selection, &mut |found| seen.take(found));
        assert!(seen.problems.is_empty());
        seen.names().iter().map(|&name| name.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(below("a", &everything()), ["a/1", "a/b/2"]);
    assert!(below("gone", &everything()).is_empty());
    assert!(below("a", &Selection::new(&[], &["a".into()], None).unwrap()).is_empty());
    let mut flat = Seen::default();
    let _ = scan_flat(&root, Path::new("a"), &everything(), &mut |found| flat.take(found));
    assert_eq!(flat.names(), ["a/1"]);
}

#[test]
fn names_of_any_bytes_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let longest = "é".repeat(127);
    let names: [&[u8]; 6] = [b"a b", b"new\nline", b"\"'\\", "🌲".as_bytes(), longest.as_bytes(), b"\xff\x80.csv"];
    for name in names {
        fs::write(dir.path().join(OsStr::from_bytes(name)), "").unwrap();
    }
    let found: BTreeSet<_> =
        scanned(dir.path(), &everything()).candidates.into_iter().map(PathBuf::into_os_string).collect();
    assert_eq!(found, names.iter().map(|name| OsStr::from_bytes(name).to_owned()).collect());
}

#[test]
fn trees_deeper_than_the_open_handles_and_longer_than_a_path_are_walked() {
    let dir = tempfile::tempdir().unwrap();
    let root = Arc::new(Root::open(0, dir.path()).unwrap());
    let levels = STREAMED_LEVELS * 3;
    let mut path = PathBuf::new();
    for level in 0..levels {
        path.push(format!("{level:040}"));
        for file in ["f", "g"] {
            let place = crate::localfs::Place::make(&root.dir, &BelowRoot::new(path.join(file)).unwrap()).unwrap();
            drop(rustix::fs::openat(place.dir(), &place.name, OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap());
        }
    }
    let seen = scanned(dir.path(), &everything());
    assert_eq!((seen.candidates.len(), seen.problems.len()), (2 * levels, 0));
}

#[test]
fn an_unreadable_directory_is_reported_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (name, mode) in [("closed", 0o000), ("open", 0o755)] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("a"), "").unwrap();
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let path = dir.path().to_owned();
    let seen = std::thread::spawn(move || {
        // Root may read everything; as another user of filesystems this thread may not.
        // SAFETY: setfsuid(2) takes a number, and changes this thread alone, which ends with the closure.
        unsafe { libc::setfsuid(65_534) };
        scanned(&path, &everything())
    })
    .join()
    .unwrap();
    assert_eq!(seen.names(), ["open/a"]);
    assert_eq!(seen.problems.len(), 1);
    assert!(seen.problems[0].1.contains("closed may not be read") && seen.problems[0].1.contains("grant it"));
    fs::set_permissions(dir.path().join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_root_that_is_gone_is_a_problem() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root");
    fs::create_dir(&path).unwrap();
    let root = Arc::new(Root::open(0, &path).unwrap());
    fs::remove_dir(&path).unwrap();
    let mut seen = Seen::default();
    let _ = scan(&root, &everything(), &mut |found| seen.take(found));
    assert_eq!(seen.problems, [(root.path.clone(), format!("{} is not there", root.path.display()))]);
}

#[test]
fn a_visitor_can_stop_a_scan() {
    let dir = tempfile::tempdir().unwrap();
    for name in 0..10 {
        fs::write(dir.path().join(name.to_string()), "").unwrap();
    }
    let root = Arc::new(Root::open(0, dir.path()).unwrap());
    let mut count = 0;
    let end = scan(&root, &everything(), &mut |_| {
        count += 1;
        if count == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((end, count), (ControlFlow::Break(()), 3));
}

/// Names come, go and become links while they are listed: what stays is found once, nothing outside is named.
#[test]
fn what_stays_is_found_while_the_rest_comes_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("in");
    fs::create_dir_all(inside.join("d")).unwrap();
    fs::create_dir_all(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/secret"), "").unwrap();
    symlink("../outside", inside.join("link")).unwrap();
    for name in 0..300 {
        fs::write(inside.join(format!("stays-{name}")), "").unwrap();
    }
    let churn = std::thread::spawn({
        let inside = inside.clone();
        move || {
            let place = fs::File::open(&inside).unwrap();
            for round in 0..2000 {
                rustix::fs::renameat_with(&place, "d", &place, "link", rustix::fs::RenameFlags::EXCHANGE).unwrap();
                let name = inside.join(format!("comes-{}", round % 7));
                fs::write(&name, "").unwrap();
                fs::remove_file(&name).unwrap();
                let sub = inside.join(format!("sub-{}", round % 3));
                fs::create_dir(&sub).unwrap();
                fs::remove_dir(&sub).unwrap();
            }
        }
    });
    while !churn.is_finished() {
        let seen = scanned(&inside, &everything());
        assert!(seen.problems.is_empty(), "{:?}", seen.problems);
        assert!(!seen.candidates.iter().any(|path| path.ends_with("secret")));
        let stays: BTreeSet<_> =
            seen.candidates.iter().filter(|path| path.to_string_lossy().starts_with("stays")).collect();
        assert_eq!(stays.len(), 300);
    }
    churn.join().unwrap();
}
