//! Trees to send: noise that does not compress, the same for every run and every machine.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::stop;

const BLOCK: usize = 1 << 20;
/// What a page of memory-backed storage holds.
const PAGE: u64 = 4096;

/// So many files of one size, evenly in directories.
#[derive(Debug, Clone, Copy)]
pub struct Tree {
    pub files: u64,
    pub bytes: u64,
    pub per_directory: u64,
    pub content: Content,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Noise,
    /// Holes with a block of noise every 64 MiB: takes next to no room here, and all of it at the server. Only for rows
    /// that measure no time.
    Sparse,
}

impl Tree {
    pub const fn of(files: u64, bytes: u64, per_directory: u64) -> Self {
        Self { files, bytes, per_directory, content: Content::Noise }
    }

    pub const fn one(bytes: u64) -> Self {
        Self::of(1, bytes, 1)
    }

    pub const fn sparse(bytes: u64) -> Self {
        Self { content: Content::Sparse, ..Self::one(bytes) }
    }

    /// What it takes in memory-backed storage, here and at the server together: bytes, and inodes.
    pub fn room(&self) -> (u64, u64) {
        let file = self.bytes.next_multiple_of(PAGE) + 1024;
        let copies = if self.content == Content::Sparse { 1 } else { 2 };
        (copies * self.files * file, 2 * (self.files + self.files.div_ceil(self.per_directory)))
    }

    /// Where the file of a number stands below the tree's root.
    pub fn path(&self, number: u64) -> PathBuf {
        if self.files == 1 {
            return "file".into();
        }
        format!("d{:05}/f{number:07}.dat", number / self.per_directory).into()
    }

    /// Makes it in an empty directory.
    pub fn make(&self, root: &Path) -> Result<()> {
        let mut block = Vec::with_capacity(BLOCK.min(self.bytes as usize));
        for number in 0..self.files {
            stop::check()?;
            let path = root.join(self.path(number));
            if number.is_multiple_of(self.per_directory) {
                std::fs::create_dir_all(path.parent().expect("it is below the root"))?;
            }
            self.write(&path, number, &mut block).with_context(|| format!("making {}", path.display()))?;
        }
        Ok(())
    }

    fn write(&self, path: &Path, number: u64, block: &mut Vec<u8>) -> Result<()> {
        let mut noise = SmallRng::seed_from_u64(number);
        let mut file = File::create_new(path)?;
        if self.content == Content::Sparse {
            file.set_len(self.bytes)?;
            block.resize(BLOCK, 0);
            for offset in (0..self.bytes).step_by(64 * BLOCK) {
                stop::check()?;
                noise.fill_bytes(block);
                file.write_all_at(&block[..(self.bytes - offset).min(BLOCK as u64) as usize], offset)?;
            }
            return Ok(());
        }
        let mut left = self.bytes;
        while left > 0 {
            stop::check()?;
            block.resize(left.min(BLOCK as u64) as usize, 0);
            noise.fill_bytes(block);
            file.write_all(block)?;
            left -= block.len() as u64;
        }
        Ok(())
    }
}

impl std::fmt::Display for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = size(self.bytes);
        match self.files {
            1 => write!(f, "one file of {size}"),
            files => {
                let directories = files.div_ceil(self.per_directory);
                let plural = if directories == 1 { "directory" } else { "directories" };
                write!(f, "{} files of {size} in {} {plural}", number(files), number(directories))
            }
        }
    }
}

/// So many bytes of it, the same ones for the same seed.
pub fn noise(seed: u64, bytes: u64) -> Vec<u8> {
    let mut noise = vec![0; bytes as usize];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut noise);
    noise
}

/// `1,000,000`
pub fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `13 KiB`
pub fn size(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 1 << 30 && bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        _ if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} bytes"),
    }
}
