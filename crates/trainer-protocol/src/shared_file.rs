//! Weights and updates pass between agent and trainer through files that both map: in the
//! platform's shared memory where there is one, so that a round does not wear out a disk,
//! else in the home folder.
//!
//! Who may write when is a matter of the trainer protocol: the agent writes weights while no
//! request is in progress, the trainer writes only the file named `out` of its request. The
//! contents are little-endian float32, as on all platforms this project is built for.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::MmapMut;

#[cfg(target_endian = "big")]
compile_error!("weights are mapped as little-endian float32; this target is big-endian");

/// Where one home folder's shared files are.
#[derive(Clone, Debug)]
pub struct SharedFolder {
    memory: Option<PathBuf>,
    disk: PathBuf,
    /// Locked as long as somebody uses the folder in shared memory.
    _in_use: Option<Arc<File>>,
}

/// File of a folder in shared memory: the path of the home that it belongs to.
const HOME_OF: &str = "home";

impl SharedFolder {
    /// The shared folder of `home` (which must exist): `/dev/shm/opengpu-<hash of home>`
    /// where that can be made and is ours alone, and `home/shared` for what does not fit.
    pub fn of(home: &Path) -> io::Result<Self> {
        let home = home.canonicalize()?;
        let disk = home.join("shared");
        private_folder(&disk)?;
        // Only Linux has that folder; elsewhere nothing may be made outside the home.
        let all = cfg!(target_os = "linux").then(|| Path::new("/dev/shm"));
        let memory = all.and_then(|all| {
            forget_lost(all);
            let hash = blake3::hash(home.as_os_str().as_encoded_bytes()).to_hex();
            let memory = all.join(format!("{PREFIX}{}", &hash[..16]));
            let in_use = claim(&memory, &home).ok()?;
            Some((memory, Arc::new(in_use)))
        });
        let (memory, in_use) = memory.unzip();
        Ok(Self {
            memory,
            disk,
            _in_use: in_use,
        })
    }

    /// The shared folder of `home` on its disk alone.
    pub fn on_disk(home: &Path) -> io::Result<Self> {
        let disk = home.canonicalize()?.join("shared");
        private_folder(&disk)?;
        Ok(Self {
            memory: None,
            disk,
            _in_use: None,
        })
    }

    /// Makes a file of so many zero bytes, replacing one of that name: in memory, or on disk
    /// when the shared memory is too small (containers often give it 64 MiB).
    pub fn create(&self, name: &str, bytes: u64) -> io::Result<SharedFile> {
        self.remove(name)?;
        if let Some(memory) = &self.memory {
            match SharedFile::create(&memory.join(name), bytes) {
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    tracing::warn!(name, bytes, "shared memory is full; using the disk");
                }
                made => return made,
            }
        }
        SharedFile::create(&self.disk.join(name), bytes)
    }

    /// Opens the file of that name, if it is there, for reading and writing.
    pub fn open(&self, name: &str) -> io::Result<Option<SharedFile>> {
        match self.find(name) {
            Some(path) => SharedFile::open(&path).map(Some),
            None => Ok(None),
        }
    }

    /// The file of that name, if it is there.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        self.folders()
            .map(|folder| folder.join(name))
            .find(|path| path.exists())
    }

    /// Removes the file of that name if it is there.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.folders()
            .try_for_each(|folder| absent_is_fine(std::fs::remove_file(folder.join(name))))
    }

    /// Removes the folder with all files. Those still mapped live on until they are dropped.
    pub fn remove_all(self) -> io::Result<()> {
        self.folders()
            .try_for_each(|folder| absent_is_fine(std::fs::remove_dir_all(folder)))
    }

    fn folders(&self) -> impl Iterator<Item = &Path> {
        self.memory.as_deref().into_iter().chain([&*self.disk])
    }
}

/// What folders in shared memory begin with.
const PREFIX: &str = "opengpu-";

/// Makes a home's folder in shared memory and marks it as used.
fn claim(memory: &Path, home: &Path) -> io::Result<File> {
    private_folder(memory)?;
    let path = memory.join(HOME_OF);
    let mut options = File::options();
    let marker = options.write(true).create(true).truncate(false);
    let marker = marker.open(&path)?;
    marker.lock_shared()?;
    std::fs::write(&path, home.as_os_str().as_encoded_bytes())?;
    Ok(marker)
}

/// Removes folders of homes that are gone: of processes that were killed before their home
/// was removed. A folder in use stays, whatever its home's path means here: other containers
/// may see this shared memory too.
fn forget_lost(all: &Path) {
    let folders = std::fs::read_dir(all).into_iter().flatten().flatten();
    for folder in folders {
        if !folder
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes())
        {
            continue;
        }
        let folder = folder.path();
        let lost = || -> io::Result<bool> {
            let marker = folder.join(HOME_OF);
            let file = File::open(&marker)?;
            // Not a path in UTF-8: not one that can be looked for.
            let home = std::fs::read_to_string(&marker)?;
            Ok(file.try_lock().is_ok() && !home.is_empty() && !Path::new(&home).exists())
        };
        if lost().unwrap_or(false) {
            // Another user's can't be removed, and is not ours to remove.
            let _ = std::fs::remove_dir_all(&folder);
        }
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Makes a folder that only its owner enters, or checks that one that is there is such:
/// `/dev/shm` is open to every user of the machine.
#[cfg(unix)]
fn private_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (),
        made => return made,
    }
    let found = std::fs::symlink_metadata(path)?;
    // SAFETY: a system call without arguments.
    let us = unsafe { libc::geteuid() };
    if !found.is_dir() || found.uid() != us || found.mode() & 0o022 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} is not a folder of ours alone", path.display()),
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
fn private_folder(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)
}

/// A file mapped for reading and writing.
#[derive(Debug)]
pub struct SharedFile {
    path: PathBuf,
    map: MmapMut,
}

impl SharedFile {
    /// Makes a file of so many zero bytes whose space is truly there, replacing one of that
    /// name. (Without that, a full shared memory shows itself as SIGBUS at the first write.)
    pub fn create(path: &Path, bytes: u64) -> io::Result<Self> {
        let made = Self::create_filled(path, bytes);
        if made.is_err() {
            let _ = std::fs::remove_file(path);
        }
        made.map_err(|error| with_path(error, path, &format!("cannot make {bytes} bytes at")))
    }

    fn create_filled(path: &Path, bytes: u64) -> io::Result<Self> {
        absent_is_fine(std::fs::remove_file(path))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        reserve(&file, bytes)?;
        Self::map(path, &file)
    }

    /// Opens a file that is there.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        file.and_then(|file| Self::map(path, &file))
            .map_err(|error| with_path(error, path, "cannot map"))
    }

    fn map(path: &Path, file: &File) -> io::Result<Self> {
        // SAFETY: other processes may map the same file; the trainer protocol says who
        // writes when. Files are replaced by new ones, never shortened.
        let map = unsafe { MmapMut::map_mut(file)? };
        Ok(Self {
            path: path.to_owned(),
            map,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Its bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }

    /// Its numbers; bytes after the last whole one are left out.
    pub fn as_f32(&self) -> &[f32] {
        let len = self.map.len() / 4;
        // SAFETY: a map begins on a page, every bit pattern is a float, and the slice lies
        // inside the map and borrows it.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), len) }
    }

    /// Its numbers, to write.
    pub fn as_f32_mut(&mut self) -> &mut [f32] {
        let len = self.map.len() / 4;
        // SAFETY: as above, and borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().cast(), len) }
    }

    /// Removes the file; other processes that have it mapped keep its contents.
    pub fn remove(self) -> io::Result<()> {
        absent_is_fine(std::fs::remove_file(&self.path))
    }
}

fn with_path(error: io::Error, path: &Path, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

#[cfg(target_os = "linux")]
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let Ok(len) = libc::off_t::try_from(bytes) else {
        return Err(io::ErrorKind::FileTooLarge.into());
    };
    if len == 0 {
        return Ok(());
    }
    // SAFETY: the descriptor is open for as long as `file` is borrowed.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, len) } {
        0 => Ok(()),
        // Some file systems (over a network, mostly) can't reserve.
        libc::EOPNOTSUPP | libc::EINVAL => file.set_len(bytes),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    file.set_len(bytes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_one_map_writes_another_reads() {
        let home = tempfile::tempdir().unwrap();
        let folder = SharedFolder::of(home.path()).unwrap();
        let mut weights = folder.create("weights", 12).unwrap();
        assert_eq!(weights.as_f32(), [0.0; 3]);
        weights.as_f32_mut()[1] = 1.5;
        let seen = folder.open("weights").unwrap().unwrap();
        assert_eq!(seen.as_f32(), [0.0, 1.5, 0.0]);
        assert_eq!(seen.bytes()[4..8], 1.5f32.to_le_bytes());
        folder.remove("weights").unwrap();
        assert!(folder.open("weights").unwrap().is_none());
        folder.remove_all().unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn shared_memory_of_a_home_that_is_gone_is_given_back_unless_it_is_in_use() {
        let all = tempfile::tempdir().unwrap();
        let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let folders = ["opengpu-gone", "opengpu-there"].map(|name| all.path().join(name));
        let mut in_use = Vec::new();
        for (folder, home) in folders.iter().zip(&homes) {
            in_use.push(claim(folder, home.path()).unwrap());
            std::fs::write(folder.join("weights"), [0; 4]).unwrap();
        }
        let [gone, _there] = homes;
        gone.close().unwrap();
        forget_lost(all.path());
        assert!(folders[0].exists() && folders[1].exists());
        in_use.clear();
        forget_lost(all.path());
        assert!(!folders[0].exists() && folders[1].exists());
    }

    #[test]
    fn two_homes_share_nothing() {
        let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let folders = homes
            .each_ref()
            .map(|home| SharedFolder::of(home.path()).unwrap());
        folders[0].create("weights", 4).unwrap();
        assert!(folders[1].find("weights").is_none());
        folders
            .into_iter()
            .for_each(|folder| folder.remove_all().unwrap());
    }

    #[test]
    fn making_a_file_again_gives_zeros_and_leaves_the_old_map_alone() {
        let home = tempfile::tempdir().unwrap();
        let folder = SharedFolder::on_disk(home.path()).unwrap();
        let mut old = folder.create("weights", 4).unwrap();
        old.as_f32_mut()[0] = 7.0;
        let new = folder.create("weights", 8).unwrap();
        assert_eq!(old.as_f32(), [7.0]);
        assert_eq!(new.as_f32(), [0.0, 0.0]);
        assert!(new.path().starts_with(home.path().canonicalize().unwrap()));
    }

    #[test]
    fn too_large_a_file_is_refused_with_its_path_and_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("weights");
        let error = SharedFile::create(&path, 1 << 60).unwrap_err().to_string();
        assert!(
            error.contains("weights") && error.contains("1152921504606846976"),
            "{error}"
        );
        assert!(!path.exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_others_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let open = home.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(private_folder(&open).is_err());
        let link = home.path().join("link");
        std::os::unix::fs::symlink(home.path(), &link).unwrap();
        assert!(private_folder(&link).is_err());
    }
}
