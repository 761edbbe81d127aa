//! How commands speak: JSON when asked for, else text; sizes and rates for people.

use std::any::Any;

use anyhow::Result;
use serde::Serialize;

/// Whether a panic says that whoever read standard output went away (`| head`): `println!`
/// panics then, where other programs end without a word.
pub fn reader_is_gone(panic: &(dyn Any + Send)) -> bool {
    let said = panic.downcast_ref::<String>();
    said.is_some_and(|said| said.starts_with("failed printing to stdout"))
}

/// Prints `value` as JSON, or calls `text`.
pub fn show<T: Serialize>(json: bool, value: &T, text: impl FnOnce(&T)) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(value)?);
    } else {
        text(value);
    }
    Ok(())
}

/// Prints rows under a heading, columns as wide as their widest cell.
pub fn table(heading: &[&str], rows: &[Vec<String>]) {
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .chain([heading[column].len()])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        println!("{}", padded.join("  ").trim_end());
    };
    line(&mut heading.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}

/// 1536 → "1.5 kB".
pub fn bytes(count: u64) -> String {
    scaled(count as f64, "B")
}

/// 12345.6 → "12.3 k".
pub fn count(value: f64) -> String {
    scaled(value, "")
}

fn scaled(value: f64, unit: &str) -> String {
    let steps = ["", "k", "M", "G", "T", "P"];
    let mut value = value;
    let mut step = 0;
    while value >= 1000.0 && step + 1 < steps.len() {
        value /= 1000.0;
        step += 1;
    }
    let digits = usize::from(step > 0 && value < 100.0);
    format!("{value:.digits$} {}{unit}", steps[step])
        .trim_end()
        .to_owned()
}

/// First eight digits of a digest.
pub fn short(hash: opengpu_rounds::Hash) -> String {
    hash.to_string()[..8].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_easily() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1536), "1.5 kB");
        assert_eq!(bytes(252_825_000), "253 MB");
        assert_eq!(count(12_345.6), "12.3 k");
    }
}
