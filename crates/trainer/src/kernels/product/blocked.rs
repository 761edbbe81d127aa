//! The loops around the kernels: which part of the factors is packed when.

use std::cell::RefCell;

use super::{Factor, Sizes, Target};
use crate::kernels::buffer::Buffer;

/// Columns of a kernel's result, and of a packed panel of the right factor.
pub const COLUMNS: usize = 32;

/// Words of the inner dimension in a packed panel, at most: 16 KiB with 16 rows, 32 with
/// 32: half of the first cache of the processors that have either.
const INNER_WORDS: usize = 256;
/// Words of the right factor that are packed at a time: half a MiB, a part of the second
/// cache.
const RIGHT_WORDS: usize = 1 << 17;

/// Arithmetic of one number format on one set of instructions. A word is 32 bits: a float32,
/// or two neighbours of the inner dimension in bfloat16.
pub trait Kernel {
    /// Terms of the inner dimension in a word.
    const TERMS: usize;
    /// Words that are multiplied at a time: packed panels are filled up with zeros to whole
    /// steps. Divides 16.
    const STEP: usize;
    /// Rows of a result.
    const ROWS: usize;
    /// Rows in a packed panel of the left factor, a multiple of `ROWS`.
    const PANEL_ROWS: usize;

    /// Packs `rows` (at most `PANEL_ROWS`) by `inner` terms of the left factor into `to`, in
    /// whichever order [`Self::multiply`] reads; what is missing becomes zero.
    ///
    /// # Safety
    /// `from` must cover rows and terms, `to` have room for `PANEL_ROWS` times the words;
    /// the processor must have the kernel's instructions.
    unsafe fn pack_left(to: *mut u32, from: Factor, rows: usize, inner: usize);

    /// Packs `columns` (at most [`COLUMNS`]) by `inner` terms of the right factor into `to`:
    /// one row of `COLUMNS` words per word of the inner dimension.
    ///
    /// # Safety
    /// As above.
    unsafe fn pack_right(to: *mut u32, from: Factor, columns: usize, inner: usize);

    /// Multiplies packed panels of `words` into the first `rows` (at most `ROWS`) and
    /// `columns` at `target`. `left` points at the first
    /// of these rows in its panel.
    ///
    /// # Safety
    /// As above, on a thread that is between [`Self::begin`] and [`Self::end`].
    unsafe fn multiply(
        words: usize,
        left: *const u32,
        right: *const u32,
        target: Target,
        rows: usize,
        columns: usize,
    );

    /// Prepares the thread for [`Self::multiply`].
    ///
    /// # Safety
    /// The processor must have the kernel's instructions.
    unsafe fn begin() {}

    /// Ends what [`Self::begin`] began.
    ///
    /// # Safety
    /// As above.
    unsafe fn end() {}
}

thread_local! {
    /// Packed panels: one block of the right factor, then one panel of the left.
    static PANELS: RefCell<Option<Buffer>> = const { RefCell::new(None) };
}

/// The largest panel of left rows, for room that fits every kernel.
const MOST_ROWS: usize = 32;

/// The product on this thread.
///
/// # Safety
/// As for [`super::run`], and the processor must have the kernel's instructions.
pub unsafe fn product<K: Kernel>(target: Target, left: Factor, right: Factor, sizes: Sizes) {
    let Sizes {
        rows,
        columns,
        inner,
    } = sizes;
    // Blocks of the inner dimension are of one size, but for the last, and whole vectors.
    let blocks = inner.div_ceil(INNER_WORDS * K::TERMS).max(1);
    let block = inner.div_ceil(blocks).next_multiple_of(32);
    let block_words = block / K::TERMS;
    let wide = (RIGHT_WORDS / block_words / COLUMNS) * COLUMNS;
    let wide = wide.min(columns.next_multiple_of(COLUMNS));

    PANELS.with_borrow_mut(|panels| {
        let words = (wide + K::PANEL_ROWS) * block_words;
        if panels.as_ref().is_none_or(|panels| panels.len() < words) {
            *panels = None;
            *panels = Some(Buffer::take(
                words.max(RIGHT_WORDS + MOST_ROWS * INNER_WORDS),
            ));
        }
        let panels = panels.as_mut().expect("panels were just made");
        let right_panels: *mut u32 = panels.as_mut_ptr().cast();
        // SAFETY: `panels` holds `wide` packed columns and after them one panel of rows;
        // all offsets into factors and target stay within `sizes`.
        unsafe {
            let left_panel = right_panels.add(wide * block_words);
            K::begin();
            for column in (0..columns).step_by(wide) {
                let here = wide.min(columns - column);
                for term in (0..inner).step_by(block) {
                    let terms = block.min(inner - term);
                    let words = terms.div_ceil(K::TERMS).next_multiple_of(K::STEP);
                    for panel in (0..here).step_by(COLUMNS) {
                        let from = at(right, column + panel, term);
                        let to = right_panels.add(panel * words);
                        K::pack_right(to, from, COLUMNS.min(here - panel), terms);
                    }
                    let add = target.add || term > 0;
                    for row in (0..rows).step_by(K::PANEL_ROWS) {
                        let count = K::PANEL_ROWS.min(rows - row);
                        K::pack_left(left_panel, at(left, row, term), count, terms);
                        for panel in (0..here).step_by(COLUMNS) {
                            let width = COLUMNS.min(here - panel);
                            for part in (0..count).step_by(K::ROWS) {
                                let place = (row + part) * target.row_stride + column + panel;
                                let target = Target {
                                    data: target.data.add(place),
                                    add,
                                    ..target
                                };
                                let left = left_panel.add(part);
                                let right = right_panels.add(panel * words);
                                let height = K::ROWS.min(count - part);
                                K::multiply(words, left, right, target, height, width);
                            }
                        }
                    }
                }
            }
            K::end();
        }
    });
}

/// The part of `factor` that begins at a lane and a term.
unsafe fn at(factor: Factor, lane: usize, term: usize) -> Factor {
    let offset = lane * factor.lane_stride + term * factor.inner_stride;
    Factor {
        // SAFETY: the caller's lane and term lie inside the factor.
        data: unsafe { factor.data.add(offset) },
        ..factor
    }
}
