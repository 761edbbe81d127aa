//! A note of which GPU is being tried, kept while it is: a driver that ends the process, or
//! hangs until the process is killed, is found out by later starts.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// Trials in a row that may fail to end: a machine that loses power is not the GPU's fault.
const MOST_UNENDED: u32 = 2;

/// How long a GPU that failed so is passed over: drivers are updated.
const PASSED_OVER: Duration = Duration::from_secs(24 * 3600);

/// The note; it goes when the trial ends, however well.
pub struct Trial;

/// The note of the trial under way; there is one at a time.
static NOTE: Mutex<Option<PathBuf>> = Mutex::new(None);

impl Trial {
    /// Begins one, with a note in `folder`, unless the last trials of the GPU of this name never
    /// ended; then it says so in a clause for people.
    pub fn begin(folder: &Path, gpu: &str, now: SystemTime) -> Result<Self, String> {
        let plain = |letter: char| match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' => letter,
            _ => '-',
        };
        let name: String = gpu.chars().take(100).map(plain).collect();
        let path = folder.join(format!("trying-{name}"));
        let unended = unended(&path, now);
        if unended >= MOST_UNENDED {
            return Err(format!(
                "the trainer ended each time it was tried; it is tried again a day later, or at \
                 once if you remove {}",
                path.display()
            ));
        }
        // Without a note the trial goes on all the same, and only a crash is not remembered.
        let _ = std::fs::create_dir_all(folder);
        let _ = std::fs::write(&path, (unended + 1).to_string());
        *note() = Some(path);
        Ok(Self)
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        forget();
    }
}

/// Forgets a trial under way, because the process ends for another reason.
pub fn forget() {
    if let Some(path) = note().take() {
        let _ = std::fs::remove_file(path);
    }
}

fn note() -> MutexGuard<'static, Option<PathBuf>> {
    NOTE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many trials in a row never ended, as a note says that is not too old.
fn unended(path: &Path, now: SystemTime) -> u32 {
    let written = std::fs::metadata(path).and_then(|about| about.modified());
    let recent = written.is_ok_and(|at| {
        let since = now.duration_since(at).unwrap_or_default();
        since < PASSED_OVER
    });
    let text = std::fs::read_to_string(path).unwrap_or_default();
    if recent { text.parse().unwrap_or(0) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_whose_trials_never_end_is_passed_over_for_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("kernels");
        let now = SystemTime::now();
        let gpu = "Some/../GPU (Vulkan)";
        // The process ends in the middle of it.
        let crash = || std::mem::forget(Trial::begin(&folder, gpu, now).unwrap());
        let is_tried = |seconds| {
            let later = now + Duration::from_secs(seconds);
            Trial::begin(&folder, gpu, later).map(drop)
        };
        assert_eq!(is_tried(0), Ok(()));
        crash();
        assert_eq!(is_tried(60), Ok(()), "once is chance");
        crash();
        forget();
        crash();
        crash();
        let reason = is_tried(60).unwrap_err();
        assert!(
            reason.contains("remove") && !reason.contains('\n'),
            "{reason}"
        );
        assert!(Trial::begin(&folder, "Another GPU", now).is_ok());
        assert_eq!(is_tried(24 * 3600 + 60), Ok(()));
        assert_eq!(is_tried(60), Ok(()));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }
}
