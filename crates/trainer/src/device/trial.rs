//! A note of which GPU is being tried, kept while it is: a driver that ends the process, or
//! hangs until the process is killed, is found out by the next start.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long a GPU that failed so is passed over: drivers are updated.
const PASSED_OVER: Duration = Duration::from_secs(24 * 3600);

/// The note; it goes when the trial ends, however well.
pub struct Trial {
    note: PathBuf,
}

impl Trial {
    /// Begins one, with a note in `folder`, unless the last trial of the GPU of this name never
    /// ended; then it says so in a clause for people.
    pub fn begin(folder: &Path, gpu: &str, now: SystemTime) -> Result<Self, String> {
        let plain = |letter: char| match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' => letter,
            _ => '-',
        };
        let name: String = gpu.chars().take(100).map(plain).collect();
        let note = folder.join(format!("trying-{name}"));
        let written = std::fs::metadata(&note).and_then(|about| about.modified());
        let recent = written.is_ok_and(|at| {
            let since = now.duration_since(at).unwrap_or_default();
            since < PASSED_OVER
        });
        if recent {
            return Err(format!(
                "the trainer ended when it was tried last; it is tried again a day later, or at \
                 once if you remove {}",
                note.display()
            ));
        }
        // Without a note the trial goes on all the same, and only a crash is not remembered.
        let _ = std::fs::create_dir_all(folder);
        let _ = std::fs::write(&note, gpu);
        Ok(Self { note })
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.note);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_whose_trial_never_ended_is_passed_over_for_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("kernels");
        let now = SystemTime::now();
        let (gpu, other) = ("Some GPU (Vulkan)", "Another/../GPU");
        drop(Trial::begin(&folder, gpu, now).unwrap());
        // The process ends in the middle of it.
        std::mem::forget(Trial::begin(&folder, gpu, now).unwrap());
        let later = now + Duration::from_secs(60);
        let reason = Trial::begin(&folder, gpu, later).err().unwrap();
        assert!(
            reason.contains("remove") && !reason.contains('\n'),
            "{reason}"
        );
        drop(Trial::begin(&folder, other, later).unwrap());
        let tomorrow = now + PASSED_OVER + Duration::from_secs(60);
        drop(Trial::begin(&folder, gpu, tomorrow).unwrap());
        assert!(Trial::begin(&folder, gpu, later).is_ok());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }
}
