//! Products of tiles in shared memory, which attention is made of.
//!
//! A workgroup is a square of 16 by 16 units. A tile of scores has [`ROWS`] by [`COLUMNS`]
//! numbers, of which a unit holds 4 by 2 in registers; a tile of results has [`ROWS`] rows as
//! wide as a head, of which a unit holds every 16th column of its 4 rows. Operands pass
//! through a stage in shared memory, a part of the depth at a time, so that heads of any
//! width fit the 16 KiB that WebGPU guarantees. Rows are padded by one number to spread them
//! over the memory's banks.

use cubecl::prelude::*;

use super::buffer::UNITS;

/// Rows of a tile.
pub const ROWS: usize = 64;
/// Columns of a tile of scores.
pub const COLUMNS: usize = 32;
/// Numbers between two rows of a tile of scores in shared memory.
pub const PITCH: usize = COLUMNS + 1;
/// Units along a side of the workgroup.
pub const SIDE: usize = 16;
/// Rows of a tile that one unit holds.
pub const UNIT_ROWS: usize = ROWS / SIDE;
/// Columns of a tile of scores that one unit holds.
pub const UNIT_COLUMNS: usize = COLUMNS / SIDE;
/// Depth that passes through the stage at a time.
const SLICE: usize = 16;
const SLICE_PITCH: usize = SLICE + 1;
/// Numbers in the stage: a slice of the rows and one of the columns.
pub const STAGE: usize = (ROWS + COLUMNS) * SLICE_PITCH;

/// Where the rows of a tile lie in a buffer.
#[derive(CubeType)]
pub struct Rows {
    /// Place of the first row's first number.
    pub start: usize,
    /// Numbers from one row to the next.
    pub stride: usize,
    /// Rows that exist; those beyond count as zeros.
    pub count: usize,
}

/// Columns of a result that one unit holds.
pub fn unit_depth(depth: usize) -> usize {
    depth.div_ceil(SIDE)
}

/// Rows of `depth` numbers that the stage takes at a time.
fn staged_rows(depth: usize) -> usize {
    let mut rows = COLUMNS;
    while rows > 1 && rows * depth > STAGE {
        rows /= 2;
    }
    rows
}

#[cube]
fn stage_slice<F: Float>(
    stage: &mut Shared<[f32]>,
    at: usize,
    from: &[F],
    rows: &Rows,
    first: usize,
    #[comptime] count: usize,
    #[comptime] depth: usize,
) {
    let mut place = UNIT_POS as usize;
    while place < count * SLICE {
        let row = place / SLICE;
        let column = place % SLICE;
        let mut number = 0.0f32;
        if row < rows.count && first + column < depth {
            number = f32::cast_from(from[rows.start + row * rows.stride + first + column]);
        }
        stage[at + row * SLICE_PITCH + column] = number;
        place += UNITS;
    }
}

/// `scores[ROWS, COLUMNS] = a[ROWS, depth] · b[COLUMNS, depth]ᵀ`, each unit's part in its
/// registers.
#[cube]
pub fn scores<F: Float>(
    scores: &mut Array<f32>,
    stage: &mut Shared<[f32]>,
    a: &[F],
    a_rows: &Rows,
    b: &[F],
    b_rows: &Rows,
    #[comptime] depth: usize,
) {
    let b_at = comptime!(ROWS * SLICE_PITCH);
    let unit = UNIT_POS as usize;
    let row = (unit / SIDE) * UNIT_ROWS * SLICE_PITCH;
    let column = b_at + (unit % SIDE) * UNIT_COLUMNS * SLICE_PITCH;
    #[unroll]
    for i in 0..UNIT_ROWS * UNIT_COLUMNS {
        scores[i] = 0.0f32;
    }
    let mut first = 0usize;
    while first < depth {
        sync_cube();
        stage_slice::<F>(stage, 0usize, a, a_rows, first, ROWS, depth);
        stage_slice::<F>(stage, b_at, b, b_rows, first, COLUMNS, depth);
        sync_cube();
        for d in 0..SLICE {
            let left = stage[column + d];
            let right = stage[column + SLICE_PITCH + d];
            #[unroll]
            for i in 0..UNIT_ROWS {
                let number = stage[row + i * SLICE_PITCH + d];
                scores[i * UNIT_COLUMNS] += number * left;
                scores[i * UNIT_COLUMNS + 1] += number * right;
            }
        }
        first += SLICE;
    }
}

/// `result[ROWS, depth] += tile[ROWS, COLUMNS] · values[COLUMNS, depth]`, each unit's part in
/// its registers.
#[cube]
pub fn mix<F: Float>(
    result: &mut Array<f32>,
    tile: &Shared<[f32]>,
    stage: &mut Shared<[f32]>,
    values: &[F],
    rows: &Rows,
    #[comptime] depth: usize,
) {
    let staged = comptime!(staged_rows(depth));
    let held = comptime!(unit_depth(depth));
    let unit = UNIT_POS as usize;
    let row = (unit / SIDE) * UNIT_ROWS * PITCH;
    let column = unit % SIDE;
    let mut first = 0usize;
    while first < COLUMNS {
        sync_cube();
        let mut place = unit;
        while place < staged * depth {
            let from = first + place / depth;
            let mut number = 0.0f32;
            if from < rows.count {
                number = f32::cast_from(values[rows.start + from * rows.stride + place % depth]);
            }
            stage[place] = number;
            place += UNITS;
        }
        sync_cube();
        for k in 0..staged {
            #[unroll]
            for j in 0..held {
                if column + j * SIDE < depth {
                    let value = stage[k * depth + column + j * SIDE];
                    #[unroll]
                    for i in 0..UNIT_ROWS {
                        result[i * held + j] += tile[row + i * PITCH + first + k] * value;
                    }
                }
            }
        }
        first += staged;
    }
}
