//! Does the far side hold exactly the right bytes? Asked after every run, for a fast wrong answer is a failure.
//!
//! Everything is streamed: a list of a million names would show in the memory figures (see `process`).

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::stop;

const BLOCK: usize = 256 * 1024;

/// Every file of `source` stands with the same bytes and the same relative name below one of `tops`, and nothing but
/// that stands below `target`, which holds them: no other file, no temporary name, no link.
pub fn same(source: &Path, target: &Path, tops: &[PathBuf]) -> Result<u64> {
    let (mut here, mut there) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut files = 0;
    each_file(source, &mut |path| {
        let relative = path.strip_prefix(source).expect("it is below the source");
        files += 1;
        for top in tops {
            match File::open(top.join(relative)) {
                Ok(copy) => {
                    return same_bytes(File::open(path)?, copy, &mut here, &mut there)
                        .with_context(|| format!("wrong bytes: {}", top.join(relative).display()));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).context(format!("reading {}", top.join(relative).display())),
            }
        }
        bail!("missing at the far side: {}", relative.display())
    })?;
    let mut standing = 0;
    each_file(target, &mut |_| {
        standing += 1;
        Ok(())
    })?;
    ensure!(standing == files, "the far side holds {standing} files and not {files}: something is left there");
    Ok(files)
}

/// The directories three levels down, where the default layout (`%Y/%m/%d`) archives to: one, or two around midnight.
pub fn dated(target: &Path) -> Result<Vec<PathBuf>> {
    let mut level = vec![target.to_owned()];
    for _ in 0..3 {
        let mut below = Vec::new();
        for directory in level {
            for entry in directory.read_dir()? {
                below.push(entry?.path());
            }
        }
        level = below;
    }
    ensure!((1..=2).contains(&level.len()), "{} dated directories below {}", level.len(), target.display());
    Ok(level)
}

/// Everything below a directory that is not a directory, one at a time.
pub fn each_file(directory: &Path, visit: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    stop::check()?;
    for entry in directory.read_dir().with_context(|| format!("reading {}", directory.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { each_file(&entry.path(), visit)? } else { visit(&entry.path())? }
    }
    Ok(())
}

fn same_bytes(mut here: File, mut there: File, one: &mut [u8], other: &mut [u8]) -> Result<()> {
    let (size, found) = (here.metadata()?, there.metadata()?);
    ensure!(found.is_file() && size.len() == found.len(), "{} bytes and not {}", found.len(), size.len());
    let mut left = size.len();
    while left > 0 {
        stop::check()?;
        let count = left.min(BLOCK as u64) as usize;
        here.read_exact(&mut one[..count])?;
        there.read_exact(&mut other[..count])?;
        ensure!(one[..count] == other[..count], "within the {count} bytes from offset {}", size.len() - left);
        left -= count as u64;
    }
    Ok(())
}
