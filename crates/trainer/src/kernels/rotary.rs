//! Rotary position embeddings (Su et al. 2021) in Hugging Face's convention: element `d`
//! of a head is paired with element `d + D/2`.

use super::attention::Heads;
use super::matrix::{ROWS_PER_TASK, for_tasks};
use super::simd::vectorised;

/// For each position a row of `D` numbers: the cosines of the `D/2` angles, then the sines.
///
/// Angles are rounded to float32 where `transformers` rounds them: at position 2000 the
/// exact angle and the rounded one already differ by 1e-4.
pub fn table(positions: usize, head_width: usize, theta: f64) -> Vec<f32> {
    let half = head_width / 2;
    let mut table = Vec::with_capacity(positions * head_width);
    let inverse: Vec<f32> = (0..half)
        .map(|pair| {
            let power = (2 * pair) as f32 / head_width as f32;
            (1.0 / libm::pow(theta, f64::from(power))) as f32
        })
        .collect();
    for position in 0..positions {
        let angle = |inverse: &f32| f64::from(position as f32 * inverse);
        table.extend(
            inverse
                .iter()
                .map(|inverse| libm::cos(angle(inverse)) as f32),
        );
        table.extend(
            inverse
                .iter()
                .map(|inverse| libm::sin(angle(inverse)) as f32),
        );
    }
    table
}

/// Rotates queries and keys of `packed[N, packed_width]` in place, each row by its position
/// in its sequence of `length` rows; `direction` is 1 forwards and -1 for the gradient.
pub fn rotate(packed: &mut [f32], sizes: Heads, table: &[f32], length: usize, direction: f32) {
    let width = sizes.packed_width();
    for_tasks(packed, ROWS_PER_TASK * width, |part, packed| {
        for (row, packed) in (part * ROWS_PER_TASK..).zip(packed.chunks_exact_mut(width)) {
            let angles = &table[row % length * sizes.head_width..][..sizes.head_width];
            let turned = (sizes.heads + sizes.kv_heads) * sizes.head_width;
            rotate_row(&mut packed[..turned], angles, direction);
        }
    });
}

vectorised! {
    fn rotate_row(heads: &mut [f32], angles: &[f32], direction: f32) {
        let (cosines, sines) = angles.split_at(angles.len() / 2);
        for head in heads.chunks_exact_mut(angles.len()) {
            let (first, second) = head.split_at_mut(cosines.len());
            let pairs = first.iter_mut().zip(second).zip(cosines).zip(sines);
            for (((first, second), &cosine), &sine) in pairs {
                let (a, b, sine) = (*first, *second, sine * direction);
                *first = a * cosine - b * sine;
                *second = b * cosine + a * sine;
            }
        }
    }
}
