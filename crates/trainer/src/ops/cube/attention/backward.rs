//! Gradients of rotated queries, keys and values.

use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::{Layout, mixed_rows, packed_rows};
use crate::kernels::attention::Heads;
use crate::ops::cube::buffer::{argument, element, empty, empty_f32, shape, units, workgroup};
use crate::ops::cube::tile::{
    COLUMNS, PITCH, ROWS, Rows, SIDE, STAGE, UNIT_COLUMNS, UNIT_ROWS, mix, scores, unit_depth,
};

/// `along[sequence, head, position]`: sum of `dout · out` over the head.
#[cube(launch)]
fn dot_rows<F: Float>(
    dmixed: &[F],
    mixed: &[F],
    along: &mut [f32],
    positions: usize,
    count: usize,
    #[comptime] layout: Layout,
    #[define(F)] _element: ElemType,
) {
    // Units that follow each other take the heads of one row, which lie side by side.
    let place = ABSOLUTE_POS;
    if place >= count {
        terminate!();
    }
    let (row, head) = (place / layout.heads, place % layout.heads);
    let mut total = 0.0f32;
    for d in 0..layout.depth {
        let at = place * layout.depth + d;
        total += f32::cast_from(dmixed[at]) * f32::cast_from(mixed[at]);
    }
    let line = (row / positions) * layout.heads + head;
    along[line * positions + row % positions] = total;
}

/// A workgroup owns [`ROWS`] queries of one head of one sequence:
/// `dq = sum over keys of p (dp - along) · scale · k`.
#[cube(launch)]
fn query_gradient<F: Float, I: Int>(
    packed: &[F],
    visible_from: &[I],
    dmixed: &[F],
    log_sums: &[f32],
    along: &[f32],
    dpacked: &mut [F],
    positions: usize,
    scale: f32,
    #[comptime] layout: Layout,
    #[define(F, I)] _elements: [ElemType; 2],
) {
    let depth = comptime!(layout.depth);
    let held = comptime!(unit_depth(depth));
    let mut stage = Shared::<[f32]>::new_slice(STAGE);
    let mut tile = Shared::<[f32]>::new_slice(ROWS * PITCH);
    let mut raw = Array::<f32>::new(comptime!(UNIT_ROWS * UNIT_COLUMNS));
    let mut dprobability = Array::<f32>::new(comptime!(UNIT_ROWS * UNIT_COLUMNS));
    let mut result = Array::<f32>::new(comptime!(UNIT_ROWS * held));
    let mut row_log_sums = Array::<f32>::new(UNIT_ROWS);
    let mut row_along = Array::<f32>::new(UNIT_ROWS);
    let mut from = Array::<u32>::new(UNIT_ROWS);

    let unit = UNIT_POS as usize;
    let (line, column) = (unit / SIDE, unit % SIDE);
    let first_query = CUBE_POS_X as usize * ROWS;
    let head = CUBE_POS_Y as usize;
    let start = CUBE_POS_Z as usize * positions;
    let rows_at = (CUBE_POS_Z as usize * layout.heads + head) * positions;
    let kv_head = head / comptime!(layout.group());
    let queries = packed_rows(start, first_query, positions, head, layout);
    let dout = mixed_rows(start, first_query, positions, head, layout);
    #[unroll]
    for i in 0..UNIT_ROWS * held {
        result[i] = 0.0f32;
    }
    #[unroll]
    for i in 0..UNIT_ROWS {
        let query = min(first_query + line * UNIT_ROWS + i, positions - 1);
        row_log_sums[i] = log_sums[rows_at + query];
        row_along[i] = along[rows_at + query];
        from[i] = u32::cast_from(visible_from[start + query]);
    }

    let end = min(first_query + ROWS, positions);
    let mut first_key = 0usize;
    while first_key < end {
        let keys = packed_rows(start, first_key, positions, layout.heads + kv_head, layout);
        let value_part = layout.heads + layout.kv_heads + kv_head;
        let values = packed_rows(start, first_key, positions, value_part, layout);
        scores::<F>(&mut raw, &mut stage, packed, &queries, packed, &keys, depth);
        scores::<F>(
            &mut dprobability,
            &mut stage,
            dmixed,
            &dout,
            packed,
            &values,
            depth,
        );
        #[unroll]
        for i in 0..UNIT_ROWS {
            let row = line * UNIT_ROWS + i;
            #[unroll]
            for j in 0..UNIT_COLUMNS {
                let within = column * UNIT_COLUMNS + j;
                let place = i * UNIT_COLUMNS + j;
                let probability = (raw[place] * scale - row_log_sums[i]).exp();
                let key = first_key + within;
                tile[row * PITCH + within] = select(
                    key <= first_query + row && key >= from[i] as usize,
                    probability * (dprobability[place] - row_along[i]) * scale,
                    0.0f32,
                );
            }
        }
        mix::<F>(&mut result, &tile, &mut stage, packed, &keys, depth);
        first_key += COLUMNS;
    }
    write::<F>(dpacked, &queries, &result, depth);
}

/// A workgroup owns [`ROWS`] keys and values of one sequence and goes over the queries of
/// all heads that share them: `dv = sum of p · dout`, `dk = sum of p (dp - along) · scale · q`.
#[cube(launch)]
fn key_value_gradient<F: Float, I: Int>(
    packed: &[F],
    visible_from: &[I],
    dmixed: &[F],
    log_sums: &[f32],
    along: &[f32],
    dpacked: &mut [F],
    positions: usize,
    scale: f32,
    #[comptime] layout: Layout,
    #[define(F, I)] _elements: [ElemType; 2],
) {
    let depth = comptime!(layout.depth);
    let held = comptime!(unit_depth(depth));
    let group = comptime!(layout.group());
    let mut stage = Shared::<[f32]>::new_slice(STAGE);
    let mut tile = Shared::<[f32]>::new_slice(ROWS * PITCH);
    let mut raw = Array::<f32>::new(comptime!(UNIT_ROWS * UNIT_COLUMNS));
    let mut dprobability = Array::<f32>::new(comptime!(UNIT_ROWS * UNIT_COLUMNS));
    let mut dkeys = Array::<f32>::new(comptime!(UNIT_ROWS * held));
    let mut dvalues = Array::<f32>::new(comptime!(UNIT_ROWS * held));

    let unit = UNIT_POS as usize;
    let (line, column) = (unit / SIDE, unit % SIDE);
    let first_key = CUBE_POS_X as usize * ROWS;
    let kv_head = CUBE_POS_Y as usize;
    let start = CUBE_POS_Z as usize * positions;
    let keys = packed_rows(start, first_key, positions, layout.heads + kv_head, layout);
    let value_part = layout.heads + layout.kv_heads + kv_head;
    let values = packed_rows(start, first_key, positions, value_part, layout);
    #[unroll]
    for i in 0..UNIT_ROWS * held {
        dkeys[i] = 0.0f32;
        dvalues[i] = 0.0f32;
    }

    for member in 0..group {
        let head = kv_head * group + member;
        let rows_at = (CUBE_POS_Z as usize * layout.heads + head) * positions;
        // Queries before the first key see none of these keys; both blocks start at a
        // multiple of COLUMNS.
        let mut first_query = first_key;
        while first_query < positions {
            let queries = packed_rows(start, first_query, positions, head, layout);
            let dout = mixed_rows(start, first_query, positions, head, layout);
            scores::<F>(&mut raw, &mut stage, packed, &keys, packed, &queries, depth);
            scores::<F>(
                &mut dprobability,
                &mut stage,
                packed,
                &values,
                dmixed,
                &dout,
                depth,
            );
            #[unroll]
            for j in 0..UNIT_COLUMNS {
                let within = column * UNIT_COLUMNS + j;
                let query = first_query + within;
                let row_at = rows_at + min(query, positions - 1);
                let log_sum = log_sums[row_at];
                let row_along = along[row_at];
                let from = u32::cast_from(visible_from[start + min(query, positions - 1)]);
                #[unroll]
                for i in 0..UNIT_ROWS {
                    let row = line * UNIT_ROWS + i;
                    let place = i * UNIT_COLUMNS + j;
                    let key = first_key + row;
                    let seen = key <= query && query < positions && key >= from as usize;
                    let probability = select(seen, (raw[place] * scale - log_sum).exp(), 0.0f32);
                    tile[row * PITCH + within] = probability;
                    raw[place] = probability * (dprobability[place] - row_along) * scale;
                }
            }
            mix::<F>(&mut dvalues, &tile, &mut stage, dmixed, &dout, depth);
            sync_cube();
            #[unroll]
            for i in 0..UNIT_ROWS {
                #[unroll]
                for j in 0..UNIT_COLUMNS {
                    let within = column * UNIT_COLUMNS + j;
                    tile[(line * UNIT_ROWS + i) * PITCH + within] = raw[i * UNIT_COLUMNS + j];
                }
            }
            mix::<F>(&mut dkeys, &tile, &mut stage, packed, &queries, depth);
            first_query += COLUMNS;
        }
    }
    write::<F>(dpacked, &keys, &dkeys, depth);
    write::<F>(dpacked, &values, &dvalues, depth);
}

/// Writes the result that the units hold to its rows.
#[cube]
fn write<F: Float>(to: &mut [F], rows: &Rows, result: &Array<f32>, #[comptime] depth: usize) {
    let held = comptime!(unit_depth(depth));
    let unit = UNIT_POS as usize;
    let (line, column) = (unit / SIDE, unit % SIDE);
    #[unroll]
    for i in 0..UNIT_ROWS {
        let row = line * UNIT_ROWS + i;
        #[unroll]
        for j in 0..held {
            let at = column + j * SIDE;
            if row < rows.count && at < depth {
                to[rows.start + row * rows.stride + at] = F::cast_from(result[i * held + j]);
            }
        }
    }
}

/// Gradient `[N, packed_width]` of dense rotated `packed`, from dense `dmixed[N, heads·D]`
/// and what the forward pass was given and left, for sequences of `positions` tokens.
pub fn backward(
    dmixed: &CubeTensor,
    mixed: &CubeTensor,
    log_sums: &CubeTensor,
    packed: &CubeTensor,
    visible_from: &CubeTensor,
    positions: usize,
    sizes: Heads,
) -> CubeTensor {
    let [rows, packed_width] = shape(packed);
    let sequences = rows / positions;
    let layout = Layout::from(sizes);
    let along = empty_f32(packed, [sequences, sizes.heads, positions]);
    let count = rows * sizes.heads;
    dot_rows::launch(
        &packed.client,
        units(count),
        workgroup(),
        argument(dmixed),
        argument(mixed),
        argument(&along),
        positions,
        count,
        layout,
        element(packed),
    );
    let dpacked = empty(packed, [rows, packed_width]);
    let blocks = positions.div_ceil(ROWS) as u32;
    query_gradient::launch(
        &packed.client,
        CubeCount::Static(blocks, sizes.heads as u32, sequences as u32),
        workgroup(),
        argument(packed),
        argument(visible_from),
        argument(dmixed),
        argument(log_sums),
        argument(&along),
        argument(&dpacked),
        positions,
        sizes.scale(),
        layout,
        [element(packed), element(visible_from)],
    );
    key_value_gradient::launch(
        &packed.client,
        CubeCount::Static(blocks, sizes.kv_heads as u32, sequences as u32),
        workgroup(),
        argument(packed),
        argument(visible_from),
        argument(dmixed),
        argument(log_sums),
        argument(&along),
        argument(&dpacked),
        positions,
        sizes.scale(),
        layout,
        [element(packed), element(visible_from)],
    );
    dpacked
}

#[cfg(all(test, feature = "cuda", feature = "rocm"))]
mod tests {
    use super::super::super::offline::{
        BUFFER, assert_compiles, float_and_int, properties, settings, target,
    };
    use super::*;

    #[test]
    fn gpu_attention_gradients_compile_for_both_makers() {
        assert_compiles(&query_gradient::QueryGradient::new(
            settings(),
            properties(),
            target(),
            BUFFER,
            BUFFER,
            BUFFER,
            BUFFER,
            BUFFER,
            BUFFER,
            (),
            (),
            Layout::EXAMPLE,
            float_and_int(),
        ));
        assert_compiles(&key_value_gradient::KeyValueGradient::new(
            settings(),
            properties(),
            target(),
            BUFFER,
            BUFFER,
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
