//! A directory as people draw it.

use std::fs::DirEntry;
use std::io;
use std::path::Path;

use crate::domain::display;

/// Everything below `root`, sorted by name, one line each, with the size of files; `label` stands for the root.
pub fn render(root: &Path, label: &str) -> io::Result<String> {
    let mut text = format!("{}\n", display::escaped(label));
    branch(root, "", &mut text)?;
    Ok(text)
}

fn branch(directory: &Path, indent: &str, text: &mut String) -> io::Result<()> {
    let mut entries: Vec<DirEntry> = std::fs::read_dir(directory)?.collect::<io::Result<_>>()?;
    entries.sort_by_key(DirEntry::file_name);
    let last = entries.len().saturating_sub(1);
    for (index, entry) in entries.iter().enumerate() {
        let (joint, below) = if index == last { ("└── ", "    ") } else { ("├── ", "│   ") };
        let name = entry.file_name();
        let name = display::path(Path::new(&name));
        let found = entry.metadata()?;
        if found.is_dir() {
            text.push_str(&format!("{indent}{joint}{name}/\n"));
            branch(&entry.path(), &format!("{indent}{below}"), text)?;
        } else {
            text.push_str(&format!("{indent}{joint}{name}  {}\n", bytesize::ByteSize(found.len()).display().iec()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_tree_is_drawn_in_order() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("2026/11")).unwrap();
        std::fs::write(root.path().join("2026/11/b.csv"), [0; 2048]).unwrap();
        std::fs::write(root.path().join("2026/11/a\n.csv"), "x").unwrap();
        std::fs::write(root.path().join("z"), "").unwrap();
        let expected = "/\n├── 2026/\n│   └── 11/\n│       ├── a\\n.csv  1 B\n│       └── b.csv  2.0 KiB\n└── z  0 B\n";
        assert_eq!(super::render(root.path(), "/").unwrap(), expected);
    }
}
