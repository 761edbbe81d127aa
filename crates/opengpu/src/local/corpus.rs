//! The text that the program carries, for a first run without any.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::home::Home;

/// Name of the bundled dataset.
pub const NAME: &str = "shakespeare";

/// Its origin is told in corpus/README.md.
static TEXT: &[u8] = include_bytes!("../../../../corpus/shakespeare.txt");

/// Writes the bundled corpus into the home and returns the file.
pub fn write(home: &Home) -> Result<PathBuf> {
    let folder = home.corpus();
    let file = folder.join("shakespeare.txt");
    let complete = std::fs::metadata(&file).is_ok_and(|meta| meta.len() == TEXT.len() as u64);
    if !complete {
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(&file, TEXT))
            .with_context(|| {
                format!(
                    "cannot write the bundled corpus to {}; a home needs room for it and can be \
                     on another disk with --home",
                    file.display()
                )
            })?;
    }
    Ok(file)
}
