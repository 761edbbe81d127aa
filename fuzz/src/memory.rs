//! An allocator that counts. libFuzzer's own limit on allocations needs a sanitizer, and its
//! limit on resident memory does not see what was asked for and not yet touched.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// No target needs as much; what asks for more gets nothing, and that ends the program.
const MOST: usize = 1 << 30;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

// SAFETY: all is handed on to the system's allocator; counting touches no block.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        took(layout.size(), || unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        took(layout.size(), || unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are held while the one is copied to the other.
        // SAFETY: the caller's promise.
        let moved = took(size, || unsafe { System.realloc(block, layout, size) });
        if !moved.is_null() {
            HELD.fetch_sub(layout.size(), Relaxed);
        }
        moved
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) };
        HELD.fetch_sub(layout.size(), Relaxed);
    }
}

fn took(bytes: usize, allocate: impl FnOnce() -> *mut u8) -> *mut u8 {
    if bytes > MOST {
        return std::ptr::null_mut();
    }
    let block = allocate();
    if !block.is_null() {
        let held = HELD.fetch_add(bytes, Relaxed) + bytes;
        PEAK.fetch_max(held, Relaxed);
    }
    block
}

/// Does `work`, which may hold at most `bytes` of new memory at any one time.
///
/// # Panics
/// When it held more.
pub fn within<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = work();
    let most = PEAK.load(Relaxed) - before;
    assert!(
        most <= bytes,
        "{most} bytes were held at once; {bytes} are allowed"
    );
    result
}
