//! Rotary position embeddings (Su et al. 2021) in Hugging Face's convention: element `d` of
//! a head is paired with element `d + D/2`.

use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::buffer::{argument, element, shape, units, workgroup};
use crate::ops::LayerSettings;

#[cube(launch)]
fn rotate_pairs<F: Float>(
    packed: &mut [F],
    table: &[F],
    pairs: usize,
    sequence: usize,
    packed_width: usize,
    direction: f32,
    #[comptime] turned: usize,
    #[comptime] half: usize,
    #[define(F)] _element: ElemType,
) {
    let pair = ABSOLUTE_POS;
    if pair >= pairs {
        terminate!();
    }
    let row = pair / (turned * half);
    let within = pair % (turned * half);
    let column = within % half;
    let first = row * packed_width + (within / half) * (2 * half) + column;
    let angle = (row % sequence) * (2 * half) + column;
    let cosine = f32::cast_from(table[angle]);
    let sine = f32::cast_from(table[angle + half]) * direction;
    let a = f32::cast_from(packed[first]);
    let b = f32::cast_from(packed[first + half]);
    packed[first] = F::cast_from(a * cosine - b * sine);
    packed[first + half] = F::cast_from(b * cosine + a * sine);
}

/// Rotates the queries and keys of dense `packed[N, packed_width]` in place, each row by its
/// position in its sequence; `direction` is 1 forwards and -1 for the gradient.
pub fn rotate(packed: &CubeTensor, table: &CubeTensor, sizes: LayerSettings, direction: f32) {
    let [rows, packed_width] = shape(packed);
    let (turned, half) = (
        sizes.heads.heads + sizes.heads.kv_heads,
        sizes.heads.head_width / 2,
    );
    let pairs = rows * turned * half;
    rotate_pairs::launch(
        &packed.client,
        units(pairs),
        workgroup(),
        argument(packed),
        argument(table),
        pairs,
        sizes.sequence,
        packed_width,
        direction,
        turned,
        half,
        element(packed),
    );
}
