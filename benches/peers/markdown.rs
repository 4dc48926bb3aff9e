//! Tables that read well in a terminal and in a page alike.

use serde::{Deserialize, Serialize};
use unicode_width::UnicodeWidthStr;

/// The first column is text, the others are figures.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Table {
    pub header: Vec<String>,
    pub lines: Vec<Vec<String>>,
}

impl Table {
    pub fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|&cell| cell.to_owned()).collect(), lines: Vec::new() }
    }

    pub fn push(&mut self, line: impl IntoIterator<Item = String>) {
        self.lines.push(line.into_iter().collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = || std::iter::once(&self.header).chain(&self.lines);
        let width = |column: usize| all().filter_map(|line| line.get(column)).map(|cell| cell.width()).max();
        let widths: Vec<usize> = (0..self.header.len()).map(|column| width(column).unwrap_or(0).max(3)).collect();
        for (at, line) in all().enumerate() {
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
                let room = " ".repeat(width - cell.width());
                if column == 0 { write!(f, "| {cell}{room} ")? } else { write!(f, "| {room}{cell} ")? }
            }
            writeln!(f, "|")?;
            if at == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let dashes = "-".repeat(width - 1);
                    if column == 0 { write!(f, "| {dashes}- ")? } else { write!(f, "| {dashes}: ")? }
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}
