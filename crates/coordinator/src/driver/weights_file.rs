//! Weights in a file for the trainer, removed when nobody needs them any more.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::bail;
use bytes::Bytes;
use opengpu_merge::Layout;
use opengpu_rounds::{Hash, RunId};
use opengpu_trainer_protocol::SharedFile;

/// A file with flat weights.
#[derive(Debug)]
pub enum WeightsFile {
    /// A checkpoint's blob, which stays.
    Blob(PathBuf),
    /// A copy made for this use.
    Copy(PathBuf),
}

impl WeightsFile {
    /// A name for a file that nobody has.
    pub fn name(run: RunId, what: &str) -> String {
        format!("coordinator-{run}-{what}-{}", uuid::Uuid::now_v7().simple())
    }

    /// A checkpoint's weights less these merges, in this order. Only decoding and
    /// subtracting, as every node does it. Refuses weights of another digest than the known one.
    pub async fn made_of(
        mut file: SharedFile,
        layout: &Arc<Layout>,
        checkpoint: Bytes,
        steps: Vec<Bytes>,
        known: Hash,
    ) -> anyhow::Result<Self> {
        let layout = Arc::clone(layout);
        tokio::task::spawn_blocking(move || {
            let path = Self::Copy(file.path().to_owned());
            if checkpoint.len() != file.bytes().len() {
                bail!("a checkpoint has {} bytes", checkpoint.len());
            }
            file.bytes_mut().copy_from_slice(&checkpoint);
            for step in steps {
                opengpu_merge::subtract(&layout, &step, file.as_f32_mut())?;
            }
            let digest = Hash(opengpu_merge::digest(file.as_f32()));
            if digest != known {
                bail!("their digest is {digest}, and {known} is known");
            }
            Ok(path)
        })
        .await?
    }

    /// These weights plus a payload times its factor, in a file of its own. For measuring alone:
    /// what is added and taken away again differs by rounding.
    pub async fn varied(
        &self,
        mut file: SharedFile,
        layout: &Arc<Layout>,
        payload: Bytes,
        factor: f32,
    ) -> anyhow::Result<Self> {
        let (layout, from) = (Arc::clone(layout), self.path().to_owned());
        tokio::task::spawn_blocking(move || {
            let path = Self::Copy(file.path().to_owned());
            let mut from = File::open(from)?;
            let bytes = from.metadata()?.len();
            if bytes != file.bytes().len() as u64 {
                bail!("the weights have {bytes} bytes");
            }
            from.read_exact(file.bytes_mut())?;
            opengpu_merge::add_scaled(&layout, &payload, factor, file.as_f32_mut())?;
            Ok(path)
        })
        .await?
    }

    /// Where.
    pub fn path(&self) -> &Path {
        match self {
            Self::Blob(path) | Self::Copy(path) => path,
        }
    }
}

impl Drop for WeightsFile {
    fn drop(&mut self) {
        if let Self::Copy(path) = self
            && let Err(error) = std::fs::remove_file(&*path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "a copy of weights could not be removed");
        }
    }
}
