//! The installation's folder: one coordinator at a time, and the secrets that the owner of
//! the machine reads from files. Everything else in the folder belongs to store and blobs.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rand::RngExt;

/// File with the operator's token, mode 0600.
pub const OPERATOR_TOKEN: &str = "operator.token";
/// File with an enrolment token for agents on the same machine, mode 0600.
pub const JOIN_TOKEN: &str = "join.token";

/// A home folder that no other coordinator uses while this value lives.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    lock: File,
}

impl Home {
    /// Makes the folder if it is missing and takes its lock.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path)
            .with_context(|| format!("the home folder {} cannot be made", path.display()))?;
        let lock_path = path.join("serve.lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .with_context(|| format!("{} cannot be opened for writing", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "the home folder {} is in use by another `opengpu serve` or `opengpu up`; \
                 stop that one, or choose another folder with --home",
                path.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error)
                    .with_context(|| format!("{} cannot be locked", lock_path.display()));
            }
        }
        Ok(Self {
            path: path.to_owned(),
            lock,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets others use the folder, before this value goes.
    pub fn release(&self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "the home folder's lock could not be released");
        }
    }

    /// The token in `file`, made on first use and readable by its owner only.
    pub fn secret(&self, file: &str) -> anyhow::Result<String> {
        if let Some(token) = self.read_secret(file)? {
            return Ok(token);
        }
        let token = new_token();
        self.write_secret(file, &token)?;
        Ok(token)
    }

    /// The token in `file`, if there is one.
    pub fn read_secret(&self, file: &str) -> anyhow::Result<Option<String>> {
        let path = self.path.join(file);
        match std::fs::read_to_string(&path) {
            Ok(text) if text.trim().len() >= 32 => Ok(Some(text.trim().to_owned())),
            Ok(text) => bail!(
                "{} holds a token of {} characters; it must have at least 32. \
                 Delete the file to have a new one made",
                path.display(),
                text.trim().len()
            ),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
        }
    }

    /// Writes a token, whole or not at all.
    pub fn write_secret(&self, file: &str, token: &str) -> anyhow::Result<()> {
        let path = self.path.join(file);
        let temporary = self.path.join(format!("{file}.new"));
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let written = (|| {
            let mut out = options.open(&temporary)?;
            writeln!(out, "{token}")?;
            out.sync_all()?;
            std::fs::rename(&temporary, &path)
        })();
        written.with_context(|| format!("{} cannot be written", path.display()))
    }
}

/// 256 random bits in hexadecimal.
pub fn new_token() -> String {
    let bytes: [u8; 32] = rand::rng().random();
    opengpu_rounds::Hash(bytes).to_string()
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_home_in_use_is_refused_with_what_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = Home::open(folder.path()).unwrap();
        let refusal = Home::open(folder.path()).unwrap_err().to_string();
        assert!(
            refusal.contains("in use") && refusal.contains("--home"),
            "{refusal}"
        );
        drop(first);
        Home::open(folder.path()).unwrap();
    }

    #[test]
    fn a_token_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let token = home.secret(OPERATOR_TOKEN).unwrap();
        assert_eq!(token.len(), 64);
        assert_eq!(home.secret(OPERATOR_TOKEN).unwrap(), token);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(folder.path().join(OPERATOR_TOKEN))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
