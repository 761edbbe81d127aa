//! RMSNorm (Zhang and Sennrich 2019): `y = x / sqrt(mean(x²) + eps) * gain`, per row.

use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::buffer::{UNITS, argument, element, empty, empty_f32, grid, shape, workgroup};
use super::reduce::sum;

/// Rows whose part of the gain's gradient one workgroup adds up.
const GAIN_ROWS: usize = 64;

#[cube(launch)]
fn normalise<F: Float>(
    x: &[F],
    gain: &[F],
    out: &mut [F],
    width: usize,
    rows: usize,
    eps: f32,
    #[define(F)] _element: ElemType,
) {
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let start = row * width;
    let mut squares = 0.0f32;
    let mut column = UNIT_POS as usize;
    while column < width {
        let number = f32::cast_from(x[start + column]);
        squares += number * number;
        column += UNITS;
    }
    let mean = sum(squares, &mut shared) / f32::cast_from(width as u32);
    let scale = 1.0f32 / (mean + eps).sqrt();
    let mut column = UNIT_POS as usize;
    while column < width {
        let number = f32::cast_from(x[start + column]) * scale;
        out[start + column] = F::cast_from(number * f32::cast_from(gain[column]));
        column += UNITS;
    }
}

/// RMSNorm of the rows of dense `x[N, C]` with dense `gain[C]`.
pub fn forward(x: &CubeTensor, gain: &CubeTensor, eps: f32) -> CubeTensor {
    let [rows, width] = shape(x);
    let out = empty(x, [rows, width]);
    normalise::launch(
        &x.client,
        grid(rows),
        workgroup(),
        argument(x),
        argument(gain),
        argument(&out),
        width,
        rows,
        eps,
        element(x),
    );
    out
}

/// `dx = bypass + scale (a - n · mean(a·n))` with `n = x·scale` and `a = dy·gain`; keeps the
/// scale of every row.
#[cube(launch)]
fn input_gradient<F: Float>(
    bypass: &[F],
    dy: &[F],
    x: &[F],
    gain: &[F],
    dx: &mut [F],
    scales: &mut [f32],
    width: usize,
    rows: usize,
    eps: f32,
    #[comptime] bypassed: bool,
    #[define(F)] _element: ElemType,
) {
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let start = row * width;
    let mut squares = 0.0f32;
    let mut products = 0.0f32;
    let mut column = UNIT_POS as usize;
    while column < width {
        let number = f32::cast_from(x[start + column]);
        squares += number * number;
        products += f32::cast_from(dy[start + column]) * f32::cast_from(gain[column]) * number;
        column += UNITS;
    }
    let count = f32::cast_from(width as u32);
    let scale = 1.0f32 / (sum(squares, &mut shared) / count + eps).sqrt();
    let along = sum(products, &mut shared) * scale / count;
    let mut column = UNIT_POS as usize;
    while column < width {
        let place = start + column;
        let a = f32::cast_from(dy[place]) * f32::cast_from(gain[column]);
        let mut gradient = scale * (a - f32::cast_from(x[place]) * scale * along);
        if bypassed {
            gradient += f32::cast_from(bypass[place]);
        }
        dx[place] = F::cast_from(gradient);
        column += UNITS;
    }
    if UNIT_POS == 0 {
        scales[row] = scale;
    }
}

/// `parts[block, column]`: the sum of `dy·x·scale` over the rows of a block.
#[cube(launch)]
fn gain_parts<F: Float>(
    dy: &[F],
    x: &[F],
    scales: &[f32],
    parts: &mut [f32],
    width: usize,
    rows: usize,
    #[define(F)] _element: ElemType,
) {
    let column = CUBE_POS_X as usize * UNITS + UNIT_POS as usize;
    if column >= width {
        terminate!();
    }
    let block = CUBE_POS_Y as usize;
    let mut row = block * GAIN_ROWS;
    let end = min(row + GAIN_ROWS, rows);
    let mut total = 0.0f32;
    while row < end {
        let place = row * width + column;
        total += f32::cast_from(dy[place]) * (f32::cast_from(x[place]) * scales[row]);
        row += 1;
    }
    parts[block * width + column] = total;
}

/// `dgain[column]`: the sum of the blocks' parts, in their order.
#[cube(launch)]
fn gain_total<F: Float>(
    parts: &[f32],
    dgain: &mut [F],
    width: usize,
    blocks: usize,
    #[define(F)] _element: ElemType,
) {
    let column = ABSOLUTE_POS;
    if column >= width {
        terminate!();
    }
    let mut total = 0.0f32;
    let mut block = 0usize;
    while block < blocks {
        total += parts[block * width + column];
        block += 1;
    }
    dgain[column] = F::cast_from(total);
}

/// Gradients of dense `x[N, C]`, with `bypass[N, C]` added to it, and of `gain[C]`, given
/// dense `dy = dL/dy`.
pub fn backward(
    bypass: Option<&CubeTensor>,
    dy: &CubeTensor,
    x: &CubeTensor,
    gain: &CubeTensor,
    eps: f32,
) -> [CubeTensor; 2] {
    let [rows, width] = shape(x);
    let (dx, scales) = (empty(x, [rows, width]), empty_f32(x, [rows]));
    input_gradient::launch(
        &x.client,
        grid(rows),
        workgroup(),
        argument(bypass.unwrap_or(dy)),
        argument(dy),
        argument(x),
        argument(gain),
        argument(&dx),
        argument(&scales),
        width,
        rows,
        eps,
        bypass.is_some(),
        element(x),
    );
    let blocks = rows.div_ceil(GAIN_ROWS);
    let parts = empty_f32(x, [blocks, width]);
    gain_parts::launch(
        &x.client,
        CubeCount::Static(width.div_ceil(UNITS) as u32, blocks as u32, 1),
        workgroup(),
        argument(dy),
        argument(x),
        argument(&scales),
        argument(&parts),
        width,
        rows,
        element(x),
    );
    let dgain = empty(gain, [width]);
    gain_total::launch(
        &x.client,
        grid(width.div_ceil(UNITS)),
        workgroup(),
        argument(&parts),
        argument(&dgain),
        width,
        blocks,
        element(gain),
    );
    [dx, dgain]
}

#[cfg(all(test, feature = "cuda", feature = "rocm"))]
mod tests {
    use super::super::offline::{
        BUFFER, assert_compiles, float_and_int, properties, settings, target,
    };
    use super::*;

    #[test]
    fn gpu_norms_compile_for_both_makers() {
        assert_compiles(&normalise::Normalise::new(
            settings(),
            properties(),
            target(),
            BUFFER,
            BUFFER,
            BUFFER,
            (),
            (),
            (),
            float_and_int()[0],
        ));
    }
}
