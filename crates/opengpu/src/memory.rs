//! How the kernel backs this process's memory.

/// Whether the kernel may back this process's memory with huge pages (2 MiB on x86-64). A
/// trainer is faster with them. A process that holds little pays for its few bytes in each
/// with the whole page: an agent takes half as much memory without. Children inherit it.
/// Other systems than Linux have their own way, and are left to it.
pub fn allow_huge_pages(allow: bool) {
    #[cfg(target_os = "linux")]
    {
        let none: libc::c_ulong = 0;
        // SAFETY: this option of prctl takes a number and touches no memory of ours. It can
        // only fail on kernels that don't know it, where there is nothing to do about it.
        unsafe {
            libc::prctl(
                libc::PR_SET_THP_DISABLE,
                libc::c_ulong::from(!allow),
                none,
                none,
                none,
            );
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = allow;
}
