//! What has come to stand on the server, seen from the server's own disk.

use std::io;
use std::path::{Path, PathBuf};

/// Levels of the dated folder, `YYYY/MM/DD`.
const DATE_LEVELS: usize = 3;

/// The file that stands as `name` in any dated folder below `upload`, whichever side of midnight it was archived on.
pub fn find(upload: &Path, name: &Path) -> Option<PathBuf> {
    let mut folders = vec![upload.to_owned()];
    for _ in 0..DATE_LEVELS {
        folders = folders.iter().flat_map(|folder| subfolders(folder)).collect();
    }
    folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Whether two files hold the same bytes. Both are small enough to be read whole.
pub fn same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    Ok(std::fs::read(one)? == std::fs::read(other)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_on_either_side_of_midnight() {
        let upload = tempfile::tempdir().unwrap();
        let name = Path::new("daily/a.csv");
        assert_eq!(find(upload.path(), name), None);
        for day in ["2026/12/31/daily", "2027/01/01/daily"] {
            std::fs::create_dir_all(upload.path().join(day)).unwrap();
        }
        assert_eq!(find(upload.path(), name), None);
        let there = upload.path().join("2027/01/01/daily/a.csv");
        std::fs::write(&there, "x").unwrap();
        assert_eq!(find(upload.path(), name), Some(there.clone()));
        assert!(same_bytes(&there, &there).unwrap());
    }
}
