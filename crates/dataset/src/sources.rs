//! Which files a person means: files and folders, in an order that is the same everywhere.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use crate::DatasetError;

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The whole file is one document.
    Text,
    /// Each line is a JSON object whose field `text` is a document.
    Lines,
}

/// A file with text in it.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) file_bytes: u64,
    /// Named by a person; if it has no text, that is an error and not a detail of a folder.
    pub(crate) named: bool,
}

/// All files of the inputs: inputs as given, folders depth first with entries sorted by name.
pub(crate) fn find(inputs: &[PathBuf]) -> Result<Vec<Source>, DatasetError> {
    if inputs.is_empty() {
        return Err(DatasetError::NothingGiven);
    }
    let mut sources = Vec::new();
    for input in inputs {
        let data = std::fs::metadata(input).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => DatasetError::NotFound {
                path: input.clone(),
            },
            _ => read_error(input, source),
        })?;
        let before = sources.len();
        if data.is_dir() {
            add_folder(input, &mut sources)?;
        } else if data.is_file() {
            sources.push(source(input.clone(), data.len(), true));
        } else {
            return Err(DatasetError::NotAFile {
                path: input.clone(),
            });
        }
        if sources[before..]
            .iter()
            .all(|source| source.file_bytes == 0)
        {
            return Err(DatasetError::Empty {
                path: input.clone(),
            });
        }
    }
    let mut seen = HashSet::new();
    for source in &sources {
        let real = source.path.canonicalize();
        let real = real.map_err(|error| read_error(&source.path, error))?;
        if !seen.insert(real) {
            let path = source.path.clone();
            return Err(DatasetError::GivenTwice { path });
        }
    }
    Ok(sources)
}

/// Hidden entries and links to folders (which may lead in a circle) are left out.
fn add_folder(folder: &Path, sources: &mut Vec<Source>) -> Result<(), DatasetError> {
    let failed = |source| read_error(folder, source);
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed)?;
    names.sort_by(|a, b| a.as_encoded_bytes().cmp(b.as_encoded_bytes()));
    for name in names {
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = folder.join(name);
        let failed = |source| read_error(&path, source);
        let is_link = std::fs::symlink_metadata(&path)
            .map_err(failed)?
            .is_symlink();
        let data = std::fs::metadata(&path).map_err(failed)?;
        if data.is_file() {
            sources.push(source(path, data.len(), false));
        } else if data.is_dir() && !is_link {
            add_folder(&path, sources)?;
        }
    }
    Ok(())
}

fn source(path: PathBuf, file_bytes: u64, named: bool) -> Source {
    let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    let lines = ["jsonl", "ndjson"]
        .iter()
        .any(|known| ending.eq_ignore_ascii_case(known));
    let kind = if lines { Kind::Lines } else { Kind::Text };
    Source {
        path,
        kind,
        file_bytes,
        named,
    }
}

pub(crate) fn read_error(path: &Path, source: io::Error) -> DatasetError {
    DatasetError::Read {
        path: path.to_owned(),
        source,
    }
}
