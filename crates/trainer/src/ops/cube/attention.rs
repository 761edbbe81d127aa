//! Causal grouped-query attention over packed rows of queries, keys and values.
//!
//! Scores are made a tile at a time and never stored: forwards with a running maximum and
//! sum per row, backwards again from the saved logarithms of the sums, as in FlashAttention
//! (Dao et al. 2022). The gradient of the queries and that of the keys and values come from
//! two kernels, each of whose workgroups owns what it writes, so no atomics are needed and
//! every sum has one order (FlashAttention-2, Dao 2023, section 3.2).

mod backward;
mod forward;

pub use backward::backward;
pub use forward::forward;

use cubecl::prelude::*;

use super::tile::Rows;
use crate::kernels::attention::Heads;

/// A score that no sum notices. Negative infinity has no literal in every shader language.
const HIDDEN: f32 = -1.0e30;

/// Numbers of an attention that are compiled into its kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    heads: usize,
    kv_heads: usize,
    depth: usize,
}

#[cfg(all(test, feature = "cuda", feature = "rocm"))]
impl Layout {
    const EXAMPLE: Self = Self {
        heads: 4,
        kv_heads: 2,
        depth: 64,
    };
}

impl From<Heads> for Layout {
    fn from(sizes: Heads) -> Self {
        Self {
            heads: sizes.heads,
            kv_heads: sizes.kv_heads,
            depth: sizes.head_width,
        }
    }
}

impl Layout {
    fn packed_width(self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.depth
    }

    fn width(self) -> usize {
        self.heads * self.depth
    }

    fn group(self) -> usize {
        self.heads / self.kv_heads
    }
}

/// Rows of packed queries, keys or values: those of head `part` of all three together, from
/// position `first` of the sequence that starts at row `start`.
#[cube]
fn packed_rows(
    start: usize,
    first: usize,
    positions: usize,
    part: usize,
    #[comptime] layout: Layout,
) -> Rows {
    Rows {
        start: (start + first) * comptime!(layout.packed_width()) + part * layout.depth,
        stride: comptime!(layout.packed_width()).runtime(),
        count: positions - first,
    }
}

/// Rows of attention's result, or of its gradient, for head `head`.
#[cube]
fn mixed_rows(
    start: usize,
    first: usize,
    positions: usize,
    head: usize,
    #[comptime] layout: Layout,
) -> Rows {
    Rows {
        start: (start + first) * comptime!(layout.width()) + head * layout.depth,
        stride: comptime!(layout.width()).runtime(),
        count: positions - first,
    }
}
