//! Tables for people.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};
use formats::printable::printable;

/// A table with these rows, and the end of its last line; no wider than `width`, if that is known. Whatever is in it
/// is made printable.
pub fn table<const COLUMNS: usize>(
    headings: [&str; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
    width: Option<u16>,
) -> String {
    let mut table = Table::new();
    table
        .load_preset(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width.unwrap_or(u16::MAX))
        .set_header(headings);
    for row in rows {
        table.add_row(row.map(|cell| printable(&cell).into_owned()));
    }
    format!("{table}\n")
}
