//! Fresh weights: a pure function of model and seed, the same bytes on every platform.

use opengpu_trainer_protocol::ModelConfig;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Standard deviation of matrices, as in GPT-2 and Llama.
const DEVIATION: f64 = 0.02;

/// Flat weights. Gains are 1; matrices are normal with deviation 0.02; projections back
/// into the residual stream have it divided by the root of their number, so that the
/// stream's size does not grow with depth (Radford et al. 2019).
///
/// Each tensor draws from a stream of its own: ChaCha8 keyed by the seed, with the tensor's
/// place in canonical order as stream. Pairs come from the Box-Muller transform with the
/// functions of the `libm` crate, because the system's differ in the last bit.
pub fn weights(model: &ModelConfig, seed: u64) -> Vec<f32> {
    let mut weights = Vec::with_capacity(model.parameters());
    let residual = DEVIATION / ((2 * model.num_hidden_layers) as f64).sqrt();
    for (place, tensor) in model.tensors().iter().enumerate() {
        if tensor.shape.len() == 1 {
            weights.extend(std::iter::repeat_n(1.0f32, tensor.len()));
            continue;
        }
        let back = tensor.name.contains(".o_proj.") || tensor.name.contains(".down_proj.");
        let deviation = if back { residual } else { DEVIATION };
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(place as u64);
        let end = weights.len() + tensor.len();
        while weights.len() < end {
            let (a, b) = normal_pair(&mut generator);
            weights.push((a * deviation) as f32);
            if weights.len() < end {
                weights.push((b * deviation) as f32);
            }
        }
    }
    weights
}

/// Two independent normal numbers of mean 0 and deviation 1.
fn normal_pair(generator: &mut ChaCha8Rng) -> (f64, f64) {
    let radius = libm::sqrt(-2.0 * libm::log(1.0 - uniform(generator)));
    let angle = std::f64::consts::TAU * uniform(generator);
    (radius * libm::cos(angle), radius * libm::sin(angle))
}

/// A number in [0, 1) with 53 random bits.
pub fn uniform(generator: &mut ChaCha8Rng) -> f64 {
    (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_seed_7_are_known() {
        let model = ModelConfig::preset("pico").unwrap();
        let weights = weights(&model, 7);
        let bytes: Vec<u8> = weights
            .iter()
            .flat_map(|weight| weight.to_le_bytes())
            .collect();
        assert_eq!(
            blake3::hash(&bytes).to_hex().as_str(),
            "f32abb7f30b6f395b6f24ad7fc9df09c80ff9ab79e8cac6396f4f2686b07a1bc",
        );
    }

    #[test]
    fn deviations_are_as_stated() {
        let model = ModelConfig::preset("nano").unwrap();
        let weights = weights(&model, 1);
        let mut start = 0;
        for tensor in model.tensors() {
            let part = &weights[start..start + tensor.len()];
            start += tensor.len();
            let count = part.len() as f64;
            let mean = part.iter().map(|&w| f64::from(w)).sum::<f64>() / count;
            let square = part.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>() / count;
            if tensor.shape.len() == 1 {
                assert!(part.iter().all(|&weight| weight == 1.0));
                continue;
            }
            let expected = match tensor.name.as_str() {
                name if name.contains("o_proj") || name.contains("down_proj") => 0.02 / 8f64.sqrt(),
                _ => 0.02,
            };
            assert!(mean.abs() < expected * 0.05, "{}: mean {mean}", tensor.name);
            let ratio = square.sqrt() / expected;
            assert!(
                (ratio - 1.0).abs() < 0.02,
                "{}: deviation {ratio} of it",
                tensor.name
            );
        }
    }
}
