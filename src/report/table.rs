//! One look for every table: no frame, one rule below the header, columns as narrow as they can be, nothing wider than the terminal.

use comfy_table::{Cell, Color, ContentArrangement, LineStyle, Table, TableStyle};
use console::measure_text_width;

use super::Palette;

const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('-'));

/// Blanks between two columns.
const GAP: u16 = 2;

/// The narrowest table: below it a cell would not hold a word.
const MIN_WIDTH: usize = 40;

/// Colours of a cell, by meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Text as it is.
    Normal,
    /// What went wrong.
    Bad,
    /// What went well.
    Good,
}

/// Returns how many columns these rows need so that no cell is broken.
pub fn needed(header: &[&str], rows: &[Vec<(String, Tone)>]) -> usize {
    let widest = |column: usize| rows.iter().map(|row| measure_text_width(&row[column].0)).max().unwrap_or(0);
    (0..header.len()).map(|column| widest(column).max(header[column].len()) + usize::from(GAP)).sum()
}

/// Lays out rows of already escaped text under `header`, in at most `width` columns (but at least 40).
pub fn render(header: &[&str], rows: Vec<Vec<(String, Tone)>>, width: usize, palette: Palette) -> String {
    let mut table = Table::new();
    table.load_style(STYLE).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(u16::try_from(width.max(MIN_WIDTH)).unwrap_or(u16::MAX));
    if palette.has_color() {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row.into_iter().map(|(text, tone)| match tone {
            Tone::Normal => Cell::new(text),
            Tone::Bad => Cell::new(text).fg(Color::Red),
            Tone::Good => Cell::new(text).fg(Color::Green),
        }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    // Padding up to the last column would only make copied text ragged.
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}
