//! What `up` remembers about its run between two starts on the same home.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use opengpu_rounds::RunId;
use serde::{Deserialize, Serialize};

/// Written when the run is created; what takes longer is filled in later.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpState {
    /// The run in progress.
    pub run: RunId,
    /// Local nodes that the run was made for.
    pub nodes: u32,
    /// The text that it trains on.
    #[serde(default)]
    pub data: Vec<PathBuf>,
    /// What `xz -9e` makes of the held-out text.
    pub xz_bits_per_byte: Option<f64>,
    /// Text sampled from the untrained model.
    pub sample_before: Option<String>,
}

impl UpState {
    /// What an earlier `up` left in this home.
    pub fn read(home: &Path) -> Result<Option<Self>> {
        let file = home.join("up.json");
        match std::fs::read(&file) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| {
                format!(
                    "{} is damaged; delete it to start a new run",
                    file.display()
                )
            })?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    /// Replaces the file whole.
    pub fn write(&self, home: &Path) -> Result<()> {
        let file = home.join("up.json");
        let new = home.join("up.json.new");
        std::fs::write(&new, serde_json::to_vec_pretty(self)?)
            .and_then(|()| std::fs::rename(&new, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }
}
