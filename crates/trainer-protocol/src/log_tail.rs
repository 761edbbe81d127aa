//! The trainer's log: its standard error goes straight into a file, so that nothing is lost
//! when its owner dies, and the end of that file explains its failures.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::LastLines;

/// A log past this size is set aside when the next trainer starts, so that the log takes at
/// most about twice this much between restarts.
const SET_ASIDE_BYTES: u64 = 8 << 20;
const TAIL_BYTES: u64 = 8 << 10;
const TAIL_LINES: usize = 12;

/// Where this trainer's part of the log begins.
#[derive(Debug)]
pub(crate) struct LogTail {
    path: PathBuf,
    from: u64,
}

/// Opens the log for appending, making its folder.
pub(crate) fn open_log(path: &Path) -> std::io::Result<(File, LogTail)> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if std::fs::metadata(path).is_ok_and(|file| file.len() > SET_ASIDE_BYTES) {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".old");
        std::fs::rename(path, aside)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let from = file.metadata()?.len();
    let tail = LogTail {
        path: path.to_owned(),
        from,
    };
    Ok((file, tail))
}

impl LogTail {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The last lines that this trainer wrote. A log that can't be read has none.
    pub(crate) fn last_lines(&self) -> LastLines {
        let text = self.read_tail().unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        let from = lines.len().saturating_sub(TAIL_LINES);
        LastLines {
            path: self.path.clone(),
            lines: lines[from..].iter().map(|&line| line.to_owned()).collect(),
        }
    }

    fn read_tail(&self) -> std::io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        let len = file.metadata()?.len();
        let from = self.from.max(len.saturating_sub(TAIL_BYTES));
        file.seek(SeekFrom::Start(from))?;
        let mut tail = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut tail)?;
        Ok(tail)
    }
}
