//! Attention's result, and the logarithms of the softmax sums.

use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::{HIDDEN, Layout, mixed_rows, packed_rows};
use crate::kernels::attention::Heads;
use crate::ops::cube::buffer::{argument, element, empty, empty_f32, shape, workgroup};
use crate::ops::cube::tile::{
    COLUMNS, PITCH, ROWS, SIDE, STAGE, UNIT_COLUMNS, UNIT_ROWS, mix, scores, unit_depth,
};

/// Space for the parts of a row that the units of its line found.
const LINE_PITCH: usize = SIDE + 1;

/// A workgroup owns [`ROWS`] queries of one head of one sequence.
#[cube(launch)]
fn attend<F: Float, I: Int>(
    packed: &[F],
    visible_from: &[I],
    mixed: &mut [F],
    log_sums: &mut [f32],
    positions: usize,
    scale: f32,
    #[comptime] layout: Layout,
    #[define(F, I)] _elements: [ElemType; 2],
) {
    let depth = comptime!(layout.depth);
    let held = comptime!(unit_depth(depth));
    let mut stage = Shared::<[f32]>::new_slice(STAGE);
    let mut tile = Shared::<[f32]>::new_slice(ROWS * PITCH);
    // Of each row the maximum so far, and the factor for what was added up under the last.
    let mut most = Shared::<[f32]>::new_slice(ROWS);
    let mut factors = Shared::<[f32]>::new_slice(ROWS);
    let mut raw = Array::<f32>::new(comptime!(UNIT_ROWS * UNIT_COLUMNS));
    let mut result = Array::<f32>::new(comptime!(UNIT_ROWS * held));

    let unit = UNIT_POS as usize;
    let (line, column) = (unit / SIDE, unit % SIDE);
    let first_query = CUBE_POS_X as usize * ROWS;
    let head = CUBE_POS_Y as usize;
    let start = CUBE_POS_Z as usize * positions;
    let kv_head = head / comptime!(layout.group());
    let queries = packed_rows(start, first_query, positions, head, layout);
    #[unroll]
    for i in 0..UNIT_ROWS * held {
        result[i] = 0.0f32;
    }
    let mut from = Array::<u32>::new(UNIT_ROWS);
    #[unroll]
    for i in 0..UNIT_ROWS {
        let query = min(first_query + line * UNIT_ROWS + i, positions - 1);
        from[i] = u32::cast_from(visible_from[start + query]);
    }
    // Of the row that this unit looks after, one of the first ROWS units'.
    let mut row_most = f32::new(HIDDEN);
    let mut row_sum = 0.0f32;

    let end = min(first_query + ROWS, positions);
    let mut first_key = 0usize;
    while first_key < end {
        let keys = packed_rows(start, first_key, positions, layout.heads + kv_head, layout);
        scores::<F>(&mut raw, &mut stage, packed, &queries, packed, &keys, depth);
        sync_cube();
        #[unroll]
        for i in 0..UNIT_ROWS {
            let query = first_query + line * UNIT_ROWS + i;
            let mut largest = f32::new(HIDDEN);
            #[unroll]
            for j in 0..UNIT_COLUMNS {
                let key = first_key + column * UNIT_COLUMNS + j;
                let place = i * UNIT_COLUMNS + j;
                let seen = key <= query && key >= from[i] as usize;
                raw[place] = select(seen, raw[place] * scale, f32::new(HIDDEN));
                largest = max(largest, raw[place]);
            }
            stage[(line * UNIT_ROWS + i) * LINE_PITCH + column] = largest;
        }
        sync_cube();
        let mut factor = 0.0f32;
        if unit < ROWS {
            let mut largest = row_most;
            for other in 0..SIDE {
                largest = max(largest, stage[unit * LINE_PITCH + other]);
            }
            factor = (row_most - largest).exp();
            row_most = largest;
            most[unit] = largest;
            factors[unit] = factor;
        }
        sync_cube();
        #[unroll]
        for i in 0..UNIT_ROWS {
            let row = line * UNIT_ROWS + i;
            let query = first_query + row;
            let mut sum = 0.0f32;
            #[unroll]
            for j in 0..UNIT_COLUMNS {
                let within = column * UNIT_COLUMNS + j;
                let key = first_key + within;
                let share = select(
                    key <= query && key >= from[i] as usize,
                    (raw[i * UNIT_COLUMNS + j] - most[row]).exp(),
                    0.0f32,
                );
                tile[row * PITCH + within] = share;
                sum += share;
            }
            stage[row * LINE_PITCH + column] = sum;
            #[unroll]
            for j in 0..held {
                result[i * held + j] *= factors[row];
            }
        }
        sync_cube();
        if unit < ROWS {
            let mut sum = 0.0f32;
            for other in 0..SIDE {
                sum += stage[unit * LINE_PITCH + other];
            }
            row_sum = row_sum * factor + sum;
        }
        let values = packed_rows(
            start,
            first_key,
            positions,
            layout.heads + layout.kv_heads + kv_head,
            layout,
        );
        mix::<F>(&mut result, &tile, &mut stage, packed, &values, depth);
        first_key += COLUMNS;
    }

    sync_cube();
    if unit < ROWS {
        factors[unit] = 1.0f32 / row_sum;
        let query = first_query + unit;
        if query < positions {
            let line = CUBE_POS_Z as usize * layout.heads + head;
            log_sums[line * positions + query] = row_most + row_sum.ln();
        }
    }
    sync_cube();
    let out = mixed_rows(start, first_query, positions, head, layout);
    #[unroll]
    for i in 0..UNIT_ROWS {
        let row = line * UNIT_ROWS + i;
        #[unroll]
        for j in 0..held {
            let at = column + j * SIDE;
            if row < out.count && at < depth {
                mixed[out.start + row * out.stride + at] =
                    F::cast_from(result[i * held + j] * factors[row]);
            }
        }
    }
}

/// From dense rotated `packed[N, packed_width]` of sequences of `positions` tokens, each of
/// which sees its sequence from position `visible_from[N]` to itself:
/// `mixed[N, heads·D]` and `log_sums[sequences, heads, positions]`.
pub fn forward(
    packed: &CubeTensor,
    visible_from: &CubeTensor,
    positions: usize,
    sizes: Heads,
) -> (CubeTensor, CubeTensor) {
    let [rows, _] = shape(packed);
    let sequences = rows / positions;
    let mixed = empty(packed, [rows, sizes.width()]);
    let log_sums = empty_f32(packed, [sequences, sizes.heads, positions]);
    attend::launch(
        &packed.client,
        CubeCount::Static(
            positions.div_ceil(ROWS) as u32,
            sizes.heads as u32,
            sequences as u32,
        ),
        workgroup(),
        argument(packed),
        argument(visible_from),
        argument(&mixed),
        argument(&log_sums),
        positions,
        sizes.scale(),
        Layout::from(sizes),
        [element(packed), element(visible_from)],
    );
    (mixed, log_sums)
}

#[cfg(all(test, feature = "cuda", feature = "rocm"))]
mod tests {
    use super::super::super::offline::{
        BUFFER, assert_compiles, float_and_int, properties, settings, target,
    };
    use super::*;

    #[test]
    fn gpu_attention_compiles_for_both_makers() {
        assert_compiles(&attend::Attend::new(
            settings(),
            properties(),
            target(),
            BUFFER,
            BUFFER,
            BUFFER,
            BUFFER,
            (),
            (),
            Layout::EXAMPLE,
            float_and_int(),
        ));
    }
}
