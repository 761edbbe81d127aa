//! How many files, and so connections, this process may have open.

/// Raises the soft limit of open files to the hard one. A soft limit is low (often 1024) for
/// the sake of programs that call `select`, which none of ours does; a coordinator needs one
/// for each connection, and more for blobs and the database. Children inherit it.
pub fn allow_many() {
    #[cfg(unix)]
    {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the kernel fills the struct that it is given.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
            return;
        }
        limit.rlim_cur = limit.rlim_max;
        // macOS says that there is no limit, and then takes no more than its OPEN_MAX.
        if cfg!(target_os = "macos") {
            limit.rlim_cur = limit.rlim_cur.min(10_240);
        }
        // SAFETY: the kernel reads the struct. Where it refuses, the old limit stays, and the
        // server makes do with it.
        let _ = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}
