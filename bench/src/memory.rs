//! Memory of this process.

use anyhow::{Context, Result};

/// The most memory that this process ever held, in bytes.
#[cfg(unix)]
pub fn peak_bytes() -> Result<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the struct that it is given.
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) != 0 {
            return Err(std::io::Error::last_os_error()).context("getrusage");
        }
        usage.assume_init()
    };
    // Linux counts in KiB, macOS in bytes.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    Ok(u64::try_from(usage.ru_maxrss)? * unit)
}

/// Unknown here.
#[cfg(not(unix))]
pub fn peak_bytes() -> Result<u64> {
    anyhow::bail!("this system does not tell a process's peak of memory")
}
