//! Plain tables for people: a bold header, two columns between neighbours, paths shortened until a line fits.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::human;
use super::summary::Surface;

/// What a column does where a line is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    Text,
    /// Aligned to the right.
    Number,
    /// Shortened in its middle.
    Path,
}

/// What a path keeps on the narrowest terminal.
const NARROWEST: usize = 12;

/// The lines, each ended. Control characters are to be escaped already.
pub fn lines<const N: usize>(header: [(&str, Column); N], mut rows: Vec<[String; N]>, surface: Surface) -> String {
    if let Some(columns) = surface.columns {
        fit(&header, &mut rows, columns.into());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.map(|(name, _)| name)).add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index + 1 < N { 2 } else { 0 }));
        if header[index].1 == Column::Number {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    for (number, line) in table.lines().enumerate() {
        let line = line.trim_end();
        text.push_str(&if number == 0 { surface.colour.paint("1", line) } else { line.to_owned() });
        text.push('\n');
    }
    text
}

/// Takes from the widest path column what is too much, and then from all of them.
fn fit<const N: usize>(header: &[(&str, Column); N], rows: &mut [[String; N]], columns: usize) {
    let widest = |index: usize| {
        let cells = rows.iter().map(|row| human::width(&row[index]));
        cells.chain([human::width(header[index].0)]).max().unwrap_or_default()
    };
    let mut widths: Vec<_> = (0..N).map(widest).collect();
    let paths: Vec<_> = (0..N).filter(|index| header[*index].1 == Column::Path).collect();
    while widths.iter().sum::<usize>() + 2 * (N - 1) > columns
        && let Some(path) =
            paths.iter().copied().filter(|path| widths[*path] > NARROWEST).max_by_key(|path| widths[*path])
    {
        widths[path] -= 1;
    }
    for row in rows {
        for path in &paths {
            row[*path] = human::shortened(&row[*path], widths[*path]).into_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Colour;

    #[test]
    fn a_line_fits_as_long_as_paths_can_give() {
        let header = [("file", Column::Path), ("size", Column::Number), ("to", Column::Path)];
        let row = |length: usize| ["a".repeat(length), "5 B".into(), "b".repeat(20)];
        for columns in [40_u16, 60, 80] {
            let surface = Surface { columns: Some(columns), colour: Colour::Plain };
            let text = lines(header, vec![row(70), row(3)], surface);
            assert!(text.lines().all(|line| human::width(line) <= columns.into()), "{columns}:\n{text}");
            assert_eq!(text.lines().count(), 3);
        }
        let text = lines(header, vec![row(70), row(3)], Surface::PLAIN);
        assert!(text.contains(&"a".repeat(70)));
    }
}
