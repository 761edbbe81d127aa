//! AdamW with decoupled weight decay (Loshchilov and Hutter 2019) on flat weights.

use opengpu_trainer_protocol::{InnerSettings, ModelConfig};
use rayon::prelude::*;

use crate::kernels::simd::{sum_of, vectorised};

/// Weights that one task updates.
const TASK: usize = 1 << 15;

/// Optimiser state of one model.
pub struct AdamW {
    first: Vec<f32>,
    second: Vec<f32>,
    steps: i32,
    /// Ranges of the flat weights, and whether they decay.
    spans: Vec<(usize, usize, bool)>,
}

impl AdamW {
    /// Zero moments for `model`. One-dimensional tensors (norm gains) don't decay.
    pub fn new(model: &ModelConfig) -> Self {
        let mut spans = Vec::new();
        let mut start = 0;
        for tensor in model.tensors() {
            let end = start + tensor.len();
            let decays = tensor.shape.len() > 1;
            for from in (start..end).step_by(TASK) {
                spans.push((from, end.min(from + TASK), decays));
            }
            start = end;
        }
        Self {
            first: vec![0.0; start],
            second: vec![0.0; start],
            steps: 0,
            spans,
        }
    }

    /// One step: clips the gradient to the norm `settings.gradient_clip`, then updates.
    /// Returns the norm before clipping.
    pub fn step(
        &mut self,
        weights: &mut [f32],
        gradient: &[f32],
        settings: &InnerSettings,
        rate: f64,
    ) -> f64 {
        let norm = norm(gradient);
        let clip = settings.gradient_clip;
        let factor = if clip > 0.0 && norm > clip {
            clip / norm
        } else {
            1.0
        };
        self.steps = self.steps.saturating_add(1);
        // Both corrections in one rate: m̂ / (√v̂ + ε) = (√c2 / c1) m / (√v + ε √c2).
        let correct1 = 1.0 - settings.beta1.powi(self.steps);
        let correct2 = (1.0 - settings.beta2.powi(self.steps)).sqrt();
        let step = Step {
            factor: factor as f32,
            beta1: settings.beta1 as f32,
            beta2: settings.beta2 as f32,
            rate: (rate * correct2 / correct1) as f32,
            epsilon: (settings.epsilon * correct2) as f32,
            keep: 1.0,
        };
        let decaying = Step {
            keep: (1.0 - rate * settings.weight_decay) as f32,
            ..step
        };

        let mut tasks = Vec::with_capacity(self.spans.len());
        let (mut weights, mut first, mut second) = (
            weights,
            self.first.as_mut_slice(),
            self.second.as_mut_slice(),
        );
        for &(start, end, decays) in &self.spans {
            let (w, m, v);
            (w, weights) = weights.split_at_mut(end - start);
            (m, first) = first.split_at_mut(end - start);
            (v, second) = second.split_at_mut(end - start);
            tasks.push((
                w,
                m,
                v,
                &gradient[start..end],
                if decays { decaying } else { step },
            ));
        }
        tasks
            .into_par_iter()
            .for_each(|(w, m, v, g, step)| update(w, m, v, g, step));
        norm
    }
}

#[derive(Clone, Copy)]
struct Step {
    factor: f32,
    beta1: f32,
    beta2: f32,
    rate: f32,
    epsilon: f32,
    keep: f32,
}

vectorised! {
    fn update(weights: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32], step: Step) {
        let Step { factor, beta1, beta2, rate, epsilon, keep } = step;
        let all = weights.iter_mut().zip(first).zip(second).zip(gradient);
        for (((weight, first), second), &gradient) in all {
            let gradient = gradient * factor;
            *first = *first * beta1 + gradient * (1.0 - beta1);
            *second = *second * beta2 + gradient * gradient * (1.0 - beta2);
            *weight = *weight * keep - rate * *first / (second.sqrt() + epsilon);
        }
    }
}

/// Euclidean norm, summed in a fixed order.
pub fn norm(numbers: &[f32]) -> f64 {
    numbers
        .par_chunks(TASK)
        .map(squares)
        .collect::<Vec<_>>()
        .iter()
        .sum::<f64>()
        .sqrt()
}

vectorised! {
    fn squares(numbers: &[f32]) -> f64 {
        f64::from(sum_of(numbers, numbers, |a, b| a * b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> ModelConfig {
        ModelConfig {
            vocab_size: 300,
            ..ModelConfig::preset("pico").unwrap()
        }
    }

    /// The textbook, in double precision, weight by weight.
    #[test]
    fn follows_the_published_algorithm_and_spares_the_gains_of_decay() {
        let model = model();
        let count = model.parameters();
        let settings = InnerSettings {
            gradient_clip: 0.5,
            weight_decay: 0.3,
            ..Default::default()
        };
        let mut optimiser = AdamW::new(&model);
        let mut weights: Vec<f32> = (0..count).map(|i| (i as f32 * 0.013).sin()).collect();
        let mut exact: Vec<[f64; 3]> = weights
            .iter()
            .map(|&weight| [f64::from(weight), 0.0, 0.0])
            .collect();
        let mut decays = Vec::new();
        for tensor in model.tensors() {
            decays.extend(std::iter::repeat_n(tensor.shape.len() > 1, tensor.len()));
        }
        for step in 1..=5 {
            let gradient: Vec<f32> = (0..count)
                .map(|i| ((i * step) as f32 * 0.07).cos() * 0.01)
                .collect();
            let rate = 0.01 * step as f64;
            optimiser.step(&mut weights, &gradient, &settings, rate);
            let norm: f64 = gradient
                .iter()
                .map(|&g| f64::from(g).powi(2))
                .sum::<f64>()
                .sqrt();
            let clip = (settings.gradient_clip / norm).min(1.0);
            for ((state, &gradient), &decays) in exact.iter_mut().zip(&gradient).zip(&decays) {
                let g = f64::from(gradient) * clip;
                state[1] = settings.beta1 * state[1] + (1.0 - settings.beta1) * g;
                state[2] = settings.beta2 * state[2] + (1.0 - settings.beta2) * g * g;
                let m = state[1] / (1.0 - settings.beta1.powi(step as i32));
                let v = state[2] / (1.0 - settings.beta2.powi(step as i32));
                if decays {
                    state[0] *= 1.0 - rate * settings.weight_decay;
                }
                state[0] -= rate * m / (v.sqrt() + settings.epsilon);
            }
        }
        for (place, (got, exact)) in weights.iter().zip(&exact).enumerate() {
            assert!(
                (f64::from(*got) - exact[0]).abs() < 1e-5,
                "weight {place}: {got} {}",
                exact[0]
            );
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| {
                let model = model();
                let count = model.parameters();
                let mut weights = vec![0.1; count];
                let gradient: Vec<f32> = (0..count).map(|i| (i as f32).sin()).collect();
                let norm = AdamW::new(&model).step(
                    &mut weights,
                    &gradient,
                    &InnerSettings::default(),
                    1e-3,
                );
                (norm.to_bits(), weights)
            })
        };
        assert_eq!(run(1), run(3));
    }
}
