//! The folder of an installation: where things are in it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One installation.
#[derive(Clone, Debug)]
pub struct Home(PathBuf);

impl Home {
    /// The folder that was asked for, or the platform's data folder; made if missing.
    pub fn open(asked: Option<&Path>) -> Result<Self> {
        let path = match asked {
            Some(path) => path.to_path_buf(),
            None => directories::ProjectDirs::from("", "", "opengpu")
                .context("this system names no folder for data; give one with --home DIR")?
                .data_dir()
                .to_path_buf(),
        };
        std::fs::create_dir_all(&path).with_context(|| {
            format!(
                "cannot make the home folder {}; choose another with --home DIR",
                path.display()
            )
        })?;
        let path = path
            .canonicalize()
            .with_context(|| format!("cannot resolve the home folder {}", path.display()))?;
        Ok(Self(path))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Settings of a coordinator that serves from this home.
    pub fn config_file(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// Address of the coordinator that serves from this home, written when it listens.
    pub fn address_file(&self) -> PathBuf {
        self.0.join("address")
    }

    /// Writes the address file whole: whoever waits for it reads it as soon as it is there.
    pub fn tell_address(&self, address: &str) -> Result<()> {
        let (file, fresh) = (self.address_file(), self.0.join("address.new"));
        std::fs::write(&fresh, address)
            .and_then(|()| std::fs::rename(&fresh, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// The operator's token.
    pub fn operator_token_file(&self) -> PathBuf {
        self.0.join("operator.token")
    }

    /// The enrolment token of the operator's own machines.
    pub fn join_token_file(&self) -> PathBuf {
        self.0.join("join.token")
    }

    /// Logs of the processes that `up` starts.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// Home of the `index`-th local node of `up`.
    pub fn local_node(&self, index: u32) -> PathBuf {
        self.0.join("nodes").join(format!("local-{index}"))
    }

    /// The homes of all local nodes of `up`.
    pub fn local_nodes(&self) -> impl Iterator<Item = PathBuf> + '_ {
        (1..)
            .map(|index| self.local_node(index))
            .take_while(|folder| folder.exists())
    }

    /// Where `up` writes the corpus that the program carries.
    pub fn corpus(&self) -> PathBuf {
        self.0.join("corpus")
    }

    /// Where a dataset is prepared before it is handed to the coordinator.
    pub fn staging(&self) -> PathBuf {
        self.0.join("staging")
    }
}

/// Reads a one-line secret or address file.
pub fn read_line(path: &Path, what: &str, mend: &str) -> Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {what} at {}; {mend}", path.display()))?;
    Ok(text.trim().to_owned())
}
