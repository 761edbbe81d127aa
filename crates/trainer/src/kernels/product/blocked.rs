//! The loops around the kernels: which part of the factors is packed when.

use std::cell::RefCell;

use super::{Factor, Sizes, Target};
use crate::kernels::buffer::Buffer;

/// Rows of a kernel's result.
pub const ROWS: usize = 8;
/// Columns of a kernel's result.
pub const COLUMNS: usize = 32;
/// Rows in a packed panel of the left factor: two kernels', for whole cache lines.
pub const PANEL_ROWS: usize = 2 * ROWS;

/// Words of the inner dimension in a packed panel, at most: with 16 rows 16 KiB, half of
/// the first cache.
const INNER_WORDS: usize = 256;
/// Words of the right factor that are packed at a time: half a MiB, a part of the second
/// cache.
const RIGHT_WORDS: usize = 1 << 17;

/// Arithmetic of one number format. A word is 32 bits: a float32, or two neighbours of the
/// inner dimension in bfloat16.
pub trait Kernel {
    /// Terms of the inner dimension in a word.
    const TERMS: usize;

    /// Packs `lanes` (at most `WIDTH`) by `inner` terms into `to`, one row of `WIDTH` words
    /// per word of the inner dimension; what is missing becomes zero.
    ///
    /// # Safety
    /// `from` must cover lanes and terms, `to` the packed words; the processor must have
    /// the kernel's instructions.
    unsafe fn pack<const WIDTH: usize>(to: *mut u32, from: Factor, lanes: usize, inner: usize);

    /// Multiplies packed panels of `words` into the first `rows` and `columns` at `target`;
    /// rows of the left one are [`PANEL_ROWS`] wide, of which eight are taken.
    ///
    /// # Safety
    /// As above.
    unsafe fn multiply(
        words: usize,
        left: *const u32,
        right: *const u32,
        target: Target,
        rows: usize,
        columns: usize,
    );
}

thread_local! {
    /// Packed panels: one block of the right factor, then one panel of the left.
    static PANELS: RefCell<Option<Buffer>> = const { RefCell::new(None) };
}

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
        let words = (wide + PANEL_ROWS) * block_words;
        if panels.as_ref().is_none_or(|panels| panels.len() < words) {
            *panels = None;
            *panels = Some(Buffer::take(
                words.max(RIGHT_WORDS + PANEL_ROWS * INNER_WORDS),
            ));
        }
        let panels = panels.as_mut().expect("panels were just made");
        let right_panels: *mut u32 = panels.as_mut_ptr().cast();
        // SAFETY: `panels` holds `wide` packed columns and after them one panel of rows;
        // all offsets into factors and target stay within `sizes`.
        unsafe {
            let left_panel = right_panels.add(wide * block_words);
            for column in (0..columns).step_by(wide) {
                let here = wide.min(columns - column);
                for term in (0..inner).step_by(block) {
                    let terms = block.min(inner - term);
                    let words = terms.div_ceil(K::TERMS);
                    for panel in (0..here).step_by(COLUMNS) {
                        let from = at(right, column + panel, term);
                        let to = right_panels.add(panel * words);
                        K::pack::<COLUMNS>(to, from, COLUMNS.min(here - panel), terms);
                    }
                    let add = target.add || term > 0;
                    for row in (0..rows).step_by(PANEL_ROWS) {
                        let count = PANEL_ROWS.min(rows - row);
                        K::pack::<PANEL_ROWS>(left_panel, at(left, row, term), count, terms);
                        for panel in (0..here).step_by(COLUMNS) {
                            let width = COLUMNS.min(here - panel);
                            for half in (0..count).step_by(ROWS) {
                                let place = (row + half) * target.row_stride + column + panel;
                                let target = Target {
                                    data: target.data.add(place),
                                    add,
                                    ..target
                                };
                                let left = left_panel.add(half);
                                let right = right_panels.add(panel * words);
                                let height = ROWS.min(count - half);
                                K::multiply(words, left, right, target, height, width);
                            }
                        }
                    }
                }
            }
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
