//! AdamW with decoupled weight decay (Loshchilov and Hutter 2019) on a model's tensors.

use burn::tensor::Tensor;
use opengpu_trainer_protocol::InnerSettings;

use crate::compute::Form;
use crate::gradient::Gradient;
use crate::kernels::adamw::Step;
use crate::model::{Llama, Visitor, numbers};
use crate::ops::{self, plain};

/// Optimiser state of one model.
#[derive(Default)]
pub struct AdamW {
    /// First and second moment of each tensor in canonical order; none before the first
    /// step.
    moments: Vec<[Tensor<1>; 2]>,
    steps: i32,
}

impl AdamW {
    /// One step: clips the gradient to the norm `settings.gradient_clip`, then updates.
    /// One-dimensional tensors (norm gains) don't decay. Returns the norm before clipping;
    /// where that is no finite number, nothing is changed.
    pub fn step(
        &mut self,
        llama: &mut Llama,
        gradient: Gradient,
        settings: &InnerSettings,
        rate: f64,
    ) -> f64 {
        let form = llama.compute().forms.optimiser;
        let norm = norm(&gradient, form);
        if !norm.is_finite() {
            return norm;
        }
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
        if self.moments.is_empty() {
            let zeros = |tensor: &Tensor<1>| [tensor.zeros_like(), tensor.zeros_like()];
            self.moments = gradient.tensors().iter().map(zeros).collect();
        }
        let moments = std::mem::take(&mut self.moments);
        let mut update = Update {
            before: moments.into_iter().zip(gradient.into_tensors()),
            after: Vec::new(),
            step,
            decaying,
            form,
        };
        llama.visit(&mut update);
        self.moments = update.after;
        norm
    }
}

/// Updates each tensor with its moments and gradient.
struct Update<I> {
    before: I,
    after: Vec<[Tensor<1>; 2]>,
    step: Step,
    decaying: Step,
    form: Form,
}

impl<I: Iterator<Item = ([Tensor<1>; 2], Tensor<1>)>> Visitor for Update<I> {
    fn visit<const D: usize>(&mut self, tensor: &mut Tensor<D>) {
        let ([first, second], gradient) = self
            .before
            .next()
            .expect("every tensor has moments and a gradient");
        let shape = tensor.shape();
        let step = if D > 1 { self.decaying } else { self.step };
        let count = shape.num_elements();
        // The model lets go of its tensor, so that it can be updated where it lies.
        let nothing = Tensor::empty([0; D], &gradient.device());
        let weights = std::mem::replace(tensor, nothing).inner().reshape([count]);
        let adamw = match self.form {
            Form::Fused => ops::adamw,
            Form::Plain => plain::adamw,
        };
        let [weights, first, second] = adamw([weights, first, second], gradient, step);
        *tensor = Tensor::from_inner(weights.reshape(shape)).require_grad();
        self.after.push([first, second]);
    }
}

/// Euclidean norm of the whole gradient.
fn norm(gradient: &Gradient, form: Form) -> f64 {
    let squares = match form {
        Form::Fused => ops::squares,
        Form::Plain => plain::squares,
    };
    // One transfer from the device, not one per tensor.
    let sums = gradient.tensors().iter().cloned().map(squares).collect();
    let sums = numbers(Tensor::cat(sums, 0));
    sums.into_iter().map(f64::from).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::Compute;
    use opengpu_trainer_protocol::ModelConfig;

    fn model() -> ModelConfig {
        ModelConfig {
            vocab_size: 300,
            ..ModelConfig::preset("pico").unwrap()
        }
    }

    /// Flat numbers as the gradient of a model's tensors.
    fn gradient_of(model: &ModelConfig, numbers: &[f32]) -> Gradient {
        struct Sizes(Vec<usize>);
        impl Visitor for Sizes {
            fn visit<const D: usize>(&mut self, tensor: &mut Tensor<D>) {
                self.0.push(tensor.shape().num_elements());
            }
        }
        let mut sizes = Sizes(Vec::new());
        Llama::new(model, numbers, &Compute::float32()).visit(&mut sizes);
        let mut rest = numbers;
        let mut tensors = Vec::new();
        for size in sizes.0 {
            let (here, after) = rest.split_at(size);
            rest = after;
            let device = Compute::float32().device;
            tensors.push(Tensor::from_data(here, &device));
        }
        Gradient::new(tensors)
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
        let mut optimiser = AdamW::default();
        let weights: Vec<f32> = (0..count).map(|i| (i as f32 * 0.013).sin()).collect();
        let mut llama = Llama::new(&model, &weights, &Compute::float32());
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
            optimiser.step(&mut llama, gradient_of(&model, &gradient), &settings, rate);
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
        for (place, (got, exact)) in llama.weights().iter().zip(&exact).enumerate() {
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
                let mut llama = Llama::new(&model, &vec![0.1; count], &Compute::float32());
                let gradient: Vec<f32> = (0..count).map(|i| (i as f32).sin()).collect();
                let gradient = gradient_of(&model, &gradient);
                let settings = InnerSettings::default();
                let norm = AdamW::default().step(&mut llama, gradient, &settings, 1e-3);
                (norm.to_bits(), llama.weights())
            })
        };
        assert_eq!(run(1), run(3));
    }
}
