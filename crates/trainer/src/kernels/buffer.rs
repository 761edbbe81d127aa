//! Memory that is used again: training steps ask for the same sizes over and over, and
//! fresh pages from the system cost more than the arithmetic on them.
//!
//! A [`Buffer`] goes back to the process's pool when it is dropped; [`release_idle`] gives
//! what lies there back to the system. What a new buffer holds is not defined: mostly what
//! its last user left.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::OutOfMemory;

/// A cache line, so that vectors of sixteen numbers never straddle two.
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

const LINE: usize = 16;

/// Idle memory by its number of lines.
static POOL: Mutex<BTreeMap<usize, Vec<Vec<Line>>>> = Mutex::new(BTreeMap::new());

/// Bytes that the pool has from the system, lent or idle.
static HELD: AtomicUsize = AtomicUsize::new(0);
/// Bytes that it may have.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// From now on the pool takes no more from the system than this. Systems promise memory that
/// they don't have and then end whoever uses it, so a limit must be kept by oneself.
pub fn limit(bytes: usize) {
    LIMIT.store(bytes, Ordering::Relaxed);
    release_idle();
}

fn pool() -> MutexGuard<'static, BTreeMap<usize, Vec<Vec<Line>>>> {
    // No code that can panic runs while the pool is locked.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Numbers in memory from the pool, at the start of a cache line.
pub struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl Buffer {
    /// Room for `len` numbers of any value.
    ///
    /// Unwinds with [`OutOfMemory`] where the system has no memory left to give.
    pub fn take(len: usize) -> Self {
        let count = len.div_ceil(LINE);
        let idle = {
            let mut pool = pool();
            let found = pool.get_mut(&count).and_then(Vec::pop);
            if pool.get(&count).is_some_and(Vec::is_empty) {
                pool.remove(&count);
            }
            found
        };
        let lines = idle.unwrap_or_else(|| fresh(count));
        Self { lines, len }
    }

    /// Room for `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let mut buffer = Self::take(len);
        buffer.fill(0.0);
        buffer
    }

    /// A copy of `numbers`.
    pub fn copy_of(numbers: &[f32]) -> Self {
        let mut buffer = Self::take(numbers.len());
        buffer.copy_from_slice(numbers);
        buffer
    }
}

fn fresh(count: usize) -> Vec<Line> {
    let bytes = count.saturating_mul(size_of::<Line>());
    // Sizes that are not asked for again, as of a text that grows, must not pile up.
    if idle_bytes(&pool()) > HELD.load(Ordering::Relaxed) / 2 + MOST_IDLE {
        release_idle();
    }
    if !within_limit(bytes) {
        // Perhaps what lies idle is enough.
        release_idle();
        if !within_limit(bytes) {
            OutOfMemory::unwind(bytes);
        }
    }
    let mut lines = Vec::new();
    if lines.try_reserve_exact(count).is_err() {
        HELD.fetch_sub(bytes, Ordering::Relaxed);
        OutOfMemory::unwind(bytes);
    }
    lines.resize(count, Line([0.0; LINE]));
    lines
}

/// Counts `bytes` as held, if there is room for them.
fn within_limit(bytes: usize) -> bool {
    let limit = LIMIT.load(Ordering::Relaxed);
    let add = |held: usize| held.checked_add(bytes).filter(|&held| held <= limit);
    let order = Ordering::Relaxed;
    HELD.fetch_update(order, order, add).is_ok()
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        pool().entry(lines.len()).or_default().push(lines);
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // A line is sixteen numbers without padding.
        let numbers: &[f32] = bytemuck::cast_slice(&self.lines);
        &numbers[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        let numbers: &mut [f32] = bytemuck::cast_slice_mut(&mut self.lines);
        &mut numbers[..self.len]
    }
}

/// Idle memory that is kept without question.
const MOST_IDLE: usize = 64 << 20;

fn idle_bytes(pool: &BTreeMap<usize, Vec<Vec<Line>>>) -> usize {
    let lines: usize = pool.iter().map(|(count, idle)| count * idle.len()).sum();
    lines * size_of::<Line>()
}

/// Gives idle memory back to the system.
pub fn release_idle() {
    let idle = {
        let mut pool = pool();
        // Before it is given back, which takes a while in which others may ask.
        HELD.fetch_sub(idle_bytes(&pool), Ordering::Relaxed);
        std::mem::take(&mut *pool)
    };
    drop(idle);
}

/// Bytes that the pool has from the system.
pub fn held() -> usize {
    HELD.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again_and_lies_on_a_cache_line() {
        // A size that no other test of this process takes.
        let first = Buffer::take(123_457);
        let place = first.as_ptr();
        assert_eq!(place as usize % 64, 0);
        drop(first);
        let second = Buffer::take(123_457);
        assert_eq!(second.as_ptr(), place);
        assert_eq!(second.len(), 123_457);
        let third = Buffer::zeros(123_457);
        assert_ne!(third.as_ptr(), place);
        assert!(third.iter().all(|&number| number == 0.0));
    }

    #[test]
    fn more_memory_than_there_is_unwinds_with_its_size() {
        let panic = std::panic::catch_unwind(|| Buffer::take(1 << 60))
            .err()
            .unwrap();
        assert_eq!(panic.downcast_ref(), Some(&OutOfMemory { bytes: 1 << 62 }));
    }
}
