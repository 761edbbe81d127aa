//! Rotary position embeddings (Su et al. 2021) in Hugging Face's convention: element `d`
//! of a head is paired with element `d + D/2`.

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

vectorised! {
    /// Rotates the first `heads` heads of each row of `packed[T, row_width]` in place, row
    /// `t` by position `t`; `direction` is 1 forwards and -1 for the gradient.
    pub fn rotate(
        packed: &mut [f32],
        row_width: usize,
        heads: usize,
        table: &[f32],
        head_width: usize,
        direction: f32,
    ) {
        let half = head_width / 2;
        for (row, angles) in packed.chunks_exact_mut(row_width).zip(table.chunks_exact(head_width)) {
            let (cosines, sines) = angles.split_at(half);
            for head in row[..heads * head_width].chunks_exact_mut(head_width) {
                let (first, second) = head.split_at_mut(half);
                let pairs = first.iter_mut().zip(second).zip(cosines).zip(sines);
                for (((first, second), &cosine), &sine) in pairs {
                    let (a, b, sine) = (*first, *second, sine * direction);
                    *first = a * cosine - b * sine;
                    *second = b * cosine + a * sine;
                }
            }
        }
    }
}
