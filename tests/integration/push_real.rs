//! A tree that nobody here made, copied from this machine, to a server that nobody here made.

use std::path::{Path, PathBuf};

use super::{Bench, Pushed, stamps};
use crate::support::env::{Entry, files, tree};

/// Copies up to `most` files of this machine, links included, in a fixed order; says how many there are of each.
fn copy(from: &Path, to: &Path, most: usize) -> (u64, u64) {
    let (mut copied, mut links) = (0, 0);
    let mut todo = vec![from.to_owned()];
    while let Some(directory) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        let mut entries: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if copied as usize >= most {
                return (copied, links);
            }
            let kind = path.symlink_metadata().unwrap();
            let target = to.join(path.strip_prefix(from).unwrap());
            let hidden = path.strip_prefix(from).unwrap().iter().any(|part| part.as_encoded_bytes()[0] == b'.');
            if hidden {
                continue;
            }
            if kind.is_dir() {
                todo.push(path);
                continue;
            }
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            if kind.is_symlink() {
                std::os::unix::fs::symlink(std::fs::read_link(&path).unwrap(), target).unwrap();
                links += 1;
            } else if kind.is_file() && kind.len() < 200_000 && std::fs::copy(&path, &target).is_ok() {
                std::fs::File::open(&target).unwrap().set_modified(kind.modified().unwrap()).unwrap();
                copied += 1;
            }
        }
    }
    (copied, links)
}

#[test]
fn three_thousand_files_of_this_machine() {
    let (bench, _server) = Bench::plain();
    let (copied, links) = copy(Path::new("/usr/share"), &bench.env.local(), 3000);
    assert!(copied > 500, "only {copied} files below /usr/share");
    // No name of this machine's is one that is left out; were it so, the comparison below would say so.
    let wanted = files(&bench.env.local());
    let bytes: u64 = wanted.values().map(|entry| if let Entry::File { bytes, .. } = entry { *bytes } else { 0 }).sum();
    let seconds = std::time::Instant::now();
    let pushed = Pushed::run(bench.push([bench.env.local()]).args(["--include", "**"])).expect(0);
    eprintln!("{copied} files, {links} links, {bytes} bytes in {:?}", seconds.elapsed());
    pushed.assert_counts([copied, 0, 0, 0]);
    assert_eq!(pushed.json["totals"]["bytes"], bytes);
    assert_eq!(bench.archived(), wanted);
    assert_eq!(stamps(&bench.base.join("in")), stamps(&bench.env.local()));
    assert!(tree(&bench.base).values().all(|entry| !matches!(entry, Entry::Link(_) | Entry::Other)));
    bench.assert_no_part();
    for row in pushed.rows() {
        let path = Path::new(row["path"].as_str().unwrap()).strip_prefix(bench.env.local()).unwrap();
        let Entry::File { bytes, sha256 } = &wanted[path] else { unreachable!() };
        assert_eq!((row["bytes"].as_u64(), row["sha256"].as_str()), (Some(*bytes), Some(sha256.as_str())));
    }

    let again = Pushed::run(bench.push([bench.env.local()]).args(["--include", "**"])).expect(0);
    again.assert_counts([0, copied, 0, 0]);
    let deleted = Pushed::run(bench.push([bench.env.local()]).args(["--include", "**", "--after", "delete"])).expect(0);
    deleted.assert_counts([0, copied, 0, 0]);
    assert!(files(&bench.env.local()).is_empty());
    assert_eq!(bench.archived(), wanted);
    let left = tree(&bench.env.local()).values().filter(|entry| matches!(entry, Entry::Link(_))).count();
    assert_eq!(left as u64, links, "links are nobody's to remove");
}
