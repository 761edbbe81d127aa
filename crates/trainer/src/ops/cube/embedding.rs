//! Rows of the embedding table, and the table's gradient.

use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::buffer::{UNITS, argument, element, empty, grid, len, shape, units, workgroup};

#[cube(launch)]
fn gather<F: Float, I: Int>(
    table: &[F],
    tokens: &[I],
    out: &mut [F],
    width: usize,
    count: usize,
    #[define(F, I)] _elements: [ElemType; 2],
) {
    let place = ABSOLUTE_POS;
    if place >= count {
        terminate!();
    }
    let token = u32::cast_from(tokens[place / width]) as usize;
    out[place] = table[token * width + place % width];
}

/// `out[N, C]`: rows of dense `table[V, C]` at dense `tokens[N]`.
pub fn forward(table: &CubeTensor, tokens: &CubeTensor) -> CubeTensor {
    let ([_, width], rows) = (shape::<2>(table), len(tokens));
    let out = empty(table, [rows, width]);
    gather::launch(
        &table.client,
        units(rows * width),
        workgroup(),
        argument(table),
        argument(tokens),
        argument(&out),
        width,
        rows * width,
        [element(table), element(tokens)],
    );
    out
}

/// A workgroup owns one row of the table and adds up the gradients of its token in the order
/// of the positions, so the result has no choice of order, unlike one made with atomics.
#[cube(launch)]
fn scatter<F: Float, I: Int>(
    dy: &[F],
    tokens: &[I],
    dtable: &mut [F],
    width: usize,
    vocabulary: usize,
    positions: usize,
    #[define(F, I)] _elements: [ElemType; 2],
) {
    let mut matches = Shared::<[u32]>::new_slice(UNITS);
    let mut found = Shared::<[u32]>::new_slice(1usize);
    let row = CUBE_POS;
    if row >= vocabulary {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let mut column = unit;
    while column < width {
        dtable[row * width + column] = F::new(0.0);
        column += UNITS;
    }
    let mut first = 0usize;
    while first < positions {
        sync_cube();
        let mut same = 0u32;
        if first + unit < positions && u32::cast_from(tokens[first + unit]) as usize == row {
            same = 1u32;
        }
        matches[unit] = same;
        if unit == 0 {
            found[0] = 0u32;
        }
        sync_cube();
        if same == 1u32 {
            found[0] = 1u32;
        }
        sync_cube();
        if found[0] == 1u32 {
            let mut column = unit;
            while column < width {
                let mut total = f32::cast_from(dtable[row * width + column]);
                for other in 0..UNITS {
                    if matches[other] == 1u32 {
                        total += f32::cast_from(dy[(first + other) * width + column]);
                    }
                }
                dtable[row * width + column] = F::cast_from(total);
                column += UNITS;
            }
        }
        first += UNITS;
    }
}

/// Gradient `[V, C]` of the table from dense `dy[N, C]` and dense `tokens[N]`.
pub fn backward(dy: &CubeTensor, tokens: &CubeTensor, vocabulary: usize) -> CubeTensor {
    let [positions, width] = shape(dy);
    let dtable = empty(dy, [vocabulary, width]);
    scatter::launch(
        &dy.client,
        grid(vocabulary),
        workgroup(),
        argument(dy),
        argument(tokens),
        argument(&dtable),
        width,
        vocabulary,
        positions,
        [element(dy), element(tokens)],
    );
    dtable
}
