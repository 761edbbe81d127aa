//! The optimiser on a model's tensors: AdamW with decoupled weight decay (Loshchilov and Hutter
//! 2019), and Muon (Jordan et al. 2024) on the matrices of the hidden layers if the run says so.

use burn::tensor::Tensor;
use opengpu_trainer_protocol::{InnerSettings, Optimizer};

use crate::compute::Form;
use crate::gradient::Gradient;
use crate::kernels::adamw;
use crate::kernels::muon::{self, Stack};
use crate::model::{Llama, Visitor, numbers};
use crate::ops::{self, plain};

/// Optimiser state of one model.
#[derive(Default)]
pub struct Optimiser {
    /// Of each tensor in canonical order; none before the first step.
    moments: Vec<Moments>,
    steps: i32,
}

/// What is remembered of a tensor's gradients, by whoever updates it.
#[expect(
    clippy::large_enum_variant,
    reason = "the larger is the usual one, and a step moves each once"
)]
enum Moments {
    /// First and second moment.
    AdamW([Tensor<1>; 2]),
    /// Momentum of a stack of matrices.
    Muon(Tensor<1>, Stack),
}

impl Optimiser {
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
        let compute = llama.compute();
        let form = compute.forms.optimiser;
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
        let step = adamw::Step {
            factor: factor as f32,
            beta1: settings.beta1 as f32,
            beta2: settings.beta2 as f32,
            rate: (rate * correct2 / correct1) as f32,
            epsilon: (settings.epsilon * correct2) as f32,
            keep: 1.0,
        };
        let keep = (1.0 - rate * settings.weight_decay) as f32;
        let decaying = adamw::Step { keep, ..step };
        let muon = muon::Step {
            factor: factor as f32,
            rate: rate as f32,
            keep,
            precision: compute.precision,
        };
        let forms = [form, compute.muon_form()];
        if self.moments.is_empty() {
            let stacks = llama.stacks().into_iter();
            self.moments = gradient
                .tensors()
                .iter()
                .zip(stacks)
                .map(|(tensor, stack)| Moments::zero(tensor, stack, settings.optimizer))
                .collect();
        }
        let moments = std::mem::take(&mut self.moments);
        let mut update = Update {
            before: moments.into_iter().zip(gradient.into_tensors()),
            after: Vec::new(),
            adamw: step,
            decaying,
            muon,
            forms,
        };
        llama.visit(&mut update);
        self.moments = update.after;
        norm
    }
}

impl Moments {
    /// At the start, for a tensor of this gradient.
    fn zero(gradient: &Tensor<1>, stack: Option<Stack>, optimizer: Optimizer) -> Self {
        match (optimizer, stack) {
            (Optimizer::Muon, Some(stack)) => Self::Muon(gradient.zeros_like(), stack),
            _ => Self::AdamW([gradient.zeros_like(), gradient.zeros_like()]),
        }
    }
}

/// Updates each tensor with its moments and gradient.
struct Update<I> {
    before: I,
    after: Vec<Moments>,
    adamw: adamw::Step,
    decaying: adamw::Step,
    muon: muon::Step,
    /// Of AdamW and of Muon.
    forms: [Form; 2],
}

impl<I: Iterator<Item = (Moments, Tensor<1>)>> Visitor for Update<I> {
    fn visit<const D: usize>(&mut self, tensor: &mut Tensor<D>) {
        let (moments, gradient) = self
            .before
            .next()
            .expect("every tensor has moments and a gradient");
        let shape = tensor.shape();
        let count = shape.num_elements();
        // The model lets go of its tensor, so that it can be updated where it lies.
        let nothing = Tensor::empty([0; D], &gradient.device());
        let weights = std::mem::replace(tensor, nothing).inner().reshape([count]);
        let (weights, moments) = match moments {
            Moments::AdamW([first, second]) => {
                let step = if D > 1 { self.decaying } else { self.adamw };
                let adamw = match self.forms[0] {
                    Form::Fused => ops::adamw,
                    Form::Plain => plain::adamw,
                };
                let [weights, first, second] = adamw([weights, first, second], gradient, step);
                (weights, Moments::AdamW([first, second]))
            }
            Moments::Muon(momentum, stack) => {
                let muon = match self.forms[1] {
                    Form::Fused => ops::muon,
                    Form::Plain => plain::muon,
                };
                let [weights, momentum] = muon([weights, momentum], gradient, stack, self.muon);
                (weights, Moments::Muon(momentum, stack))
            }
        };
        *tensor = Tensor::from_inner(weights.reshape(shape)).require_grad();
        self.after.push(moments);
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
    use crate::compute::{Compute, Forms};
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
        let mut optimiser = Optimiser::default();
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

    /// A matrix in double precision, `rows` of them one after the other.
    struct Exact {
        numbers: Vec<f64>,
        rows: usize,
    }

    impl Exact {
        fn columns(&self) -> usize {
            self.numbers.len() / self.rows
        }
        fn turned(&self) -> Self {
            let (rows, columns) = (self.rows, self.columns());
            let at = |i: usize| self.numbers[i % rows * columns + i / rows];
            Self {
                numbers: (0..rows * columns).map(at).collect(),
                rows: columns,
            }
        }
        fn times(&self, other: &Self) -> Self {
            let (inner, columns) = (self.columns(), other.columns());
            let at = |i: usize| {
                let row = &self.numbers[i / columns * inner..][..inner];
                let column = other.numbers[i % columns..].iter().step_by(columns);
                row.iter().zip(column).map(|(a, b)| a * b).sum()
            };
            Self {
                numbers: (0..self.rows * columns).map(at).collect(),
                rows: self.rows,
            }
        }
        /// `a · self + b · other`.
        fn plus(&self, a: f64, b: f64, other: &Self) -> Self {
            let pairs = self.numbers.iter().zip(&other.numbers);
            Self {
                numbers: pairs.map(|(x, y)| a * x + b * y).collect(),
                rows: self.rows,
            }
        }
    }

    /// Newton–Schulz as published, in double precision.
    fn orthogonal(matrix: Exact) -> Exact {
        if matrix.rows > matrix.columns() {
            return orthogonal(matrix.turned()).turned();
        }
        let length = matrix.numbers.iter().map(|x| x * x).sum::<f64>().sqrt();
        let mut x = matrix.plus(1.0 / length, 0.0, &matrix);
        for _ in 0..5 {
            let square = x.times(&x.turned());
            let sum = square.plus(-4.775, 2.0315, &square.times(&square));
            x = x.plus(3.4445, 1.0, &sum.times(&x));
        }
        x
    }

    #[test]
    fn muon_makes_each_hidden_matrix_orthogonal_and_leaves_the_rest_to_adamw() {
        let model = model();
        let count = model.parameters();
        let settings = |optimizer| InnerSettings {
            gradient_clip: 0.5,
            weight_decay: 0.3,
            optimizer,
            ..Default::default()
        };
        let weights: Vec<f32> = (0..count).map(|i| (i as f32 * 0.013).sin()).collect();
        // Quadratic, so that matrices have full rank.
        let gradient = |step: usize| -> Vec<f32> {
            let phase = |i: usize| (i * i % 10_007 * step) as f32 * 0.37;
            (0..count).map(|i| phase(i).cos() * 0.01).collect()
        };
        let rate = |step: usize| 0.01 * step as f64;
        let train = |optimizer, form| {
            let compute = Compute {
                forms: Forms::all(form),
                ..Compute::float32()
            };
            let mut llama = Llama::new(&model, &weights, &compute);
            let (mut optimiser, settings) = (Optimiser::default(), settings(optimizer));
            for step in 1..=3 {
                let gradient = gradient_of(&model, &gradient(step));
                optimiser.step(&mut llama, gradient, &settings, rate(step));
            }
            llama.weights()
        };
        let adamw = train(Optimizer::AdamW, Form::Fused);
        let muon = train(Optimizer::Muon, Form::Fused);
        let plain = train(Optimizer::Muon, Form::Plain);
        let mut start = 0;
        for tensor in model.tensors() {
            let range = start..start + tensor.len();
            start = range.end;
            if tensor.shape.len() == 1 || !tensor.name.contains(".layers.") {
                assert_eq!(muon[range.clone()], adamw[range], "{}", tensor.name);
                continue;
            }
            let exact = |numbers: &[f32]| Exact {
                numbers: numbers.iter().map(|&x| f64::from(x)).collect(),
                rows: tensor.shape[0],
            };
            let mut expected = exact(&weights[range.clone()]);
            let mut momentum = exact(&vec![0.0; tensor.len()]);
            for step in 1..=3 {
                let whole = gradient(step);
                let squares = whole.iter().map(|&g| f64::from(g).powi(2));
                let clip = (0.5 / squares.sum::<f64>().sqrt()).min(1.0);
                let gradient = exact(&whole[range.clone()]);
                momentum = momentum.plus(0.95, 0.05 * clip, &gradient);
                let direction = orthogonal(momentum.plus(0.95, 0.05 * clip, &gradient));
                let longest = tensor.shape[0].max(tensor.shape[1]) as f64;
                let (rate, scale) = (rate(step), 0.2 * longest.sqrt());
                expected = expected.plus(1.0 - rate * 0.3, -rate * scale, &direction);
            }
            for (form, got) in [("fused", &muon), ("plain", &plain)] {
                for (got, expected) in got[range.clone()].iter().zip(&expected.numbers) {
                    let error = (f64::from(*got) - expected).abs();
                    let name = &tensor.name;
                    assert!(error < 1e-4, "{name}, {form}: {got}, not {expected}");
                }
            }
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
                let norm = Optimiser::default().step(&mut llama, gradient, &settings, 1e-3);
                (norm.to_bits(), llama.weights())
            })
        };
        assert_eq!(run(1), run(3));
    }
}
