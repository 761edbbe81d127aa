//! How much memory a training step takes, and how to cut a batch so that it fits.

use std::sync::atomic::{AtomicU64, Ordering};

use opengpu_trainer_protocol::{InnerSettings, ModelConfig, Optimizer};

use crate::kernels::buffer;

/// How a batch is worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Sequences at a time; gradients of several are added up.
    pub micro_batch: usize,
    /// Whether each layer's forward pass is computed again for its gradient.
    pub recompute: bool,
}

impl Plan {
    /// The least work that fits into `budget` bytes: whole batches first, then smaller and
    /// smaller parts, then parts of one sequence with recomputation. Where nothing fits
    /// that is the plan, and the step will tell.
    pub fn fitting(model: &ModelConfig, settings: &InnerSettings, budget: u64) -> Self {
        let mut plan = Self {
            micro_batch: settings.batch_sequences.max(1),
            recompute: settings.recompute,
        };
        while plan.bytes(model, settings) > budget {
            match plan.smaller() {
                Some(smaller) => plan = smaller,
                None => break,
            }
        }
        plan
    }

    /// The next plan to try when this one did not fit.
    pub fn smaller(self) -> Option<Self> {
        match self {
            Self {
                micro_batch: 1,
                recompute: true,
            } => None,
            Self { micro_batch: 1, .. } => Some(Self {
                recompute: true,
                ..self
            }),
            _ => Some(Self {
                micro_batch: self.micro_batch.div_ceil(2),
                ..self
            }),
        }
    }

    /// About the bytes of a step: weights, moments and gradient, and what the forward pass keeps
    /// or, after it, the optimiser takes.
    pub fn bytes(self, model: &ModelConfig, settings: &InnerSettings) -> u64 {
        let summing = u128::from(self.micro_batch < settings.batch_sequences);
        let weights = wide(model.parameters()) * (2 + summing) + moments(model, settings.optimizer);
        let length = wide(model.max_position_embeddings);
        let rows = wide(self.micro_batch) * length;
        let (width, hidden) = (wide(model.hidden_size), wide(model.intermediate_size));
        let heads = wide(model.num_attention_heads);
        let kv_width = width / heads * wide(model.num_key_value_heads);
        // Input, queries, keys and values, mixed values, row sums, middle, gate and up.
        let layer = rows * (4 * width + 2 * kv_width + heads + 2 * hidden);
        let layers = wide(model.num_hidden_layers);
        let kept = match self.recompute {
            true => layers * rows * width + layer,
            false => layers * layer,
        };
        // Gradients of one layer's values, and each thread's block of scores; the logits of
        // a slice of rows.
        let scores = wide(rayon::current_num_threads()) * 2 * 128 * length;
        let passing = rows * (5 * width + 2 * kv_width + 2 * hidden) + scores;
        let logits = (1 << 21).max(128 * wide(model.vocab_size)) + 3 * rows * width;
        // Direction and next iterate of the largest matrix, and two squares of its shorter side.
        let optimising = match settings.optimizer {
            Optimizer::AdamW => 0,
            Optimizer::Muon => 2 * width * (width.max(hidden) + width.min(hidden)),
        };
        let working = (kept + passing.max(logits)).max(optimising);
        u64::try_from(4 * (weights + working)).unwrap_or(u64::MAX)
    }
}

/// Numbers that the optimiser keeps from step to step: two for each weight, and one where it is
/// Muon's.
fn moments(model: &ModelConfig, optimizer: Optimizer) -> u128 {
    let both = 2 * wide(model.parameters());
    let (width, hidden) = (wide(model.hidden_size), wide(model.intermediate_size));
    let kv_width = width / wide(model.num_attention_heads) * wide(model.num_key_value_heads);
    let layer = width * (2 * width + 2 * kv_width + 3 * hidden);
    match optimizer {
        Optimizer::AdamW => both,
        Optimizer::Muon => both.saturating_sub(wide(model.num_hidden_layers) * layer),
    }
}

/// Sizes of a hostile model multiply to more than 64 bits.
fn wide(size: usize) -> u128 {
    size as u128
}

/// Bytes that a step may take: most of what this machine, or the group that the process is
/// confined to, has free, and no more than the owner allows. Without a limit where the
/// system does not tell.
pub fn budget() -> u64 {
    // What earlier work has left in the pool counts as free.
    buffer::release_idle();
    free().unwrap_or(u64::MAX).min(allowed())
}

/// Bytes that the owner lets a step take, on whichever device.
pub fn allowed() -> u64 {
    ALLOWED.load(Ordering::Relaxed)
}

/// Holds the pool to a step of `model` within `budget` bytes: weights and moments lie beside
/// it.
pub fn hold_to(budget: u64, model: &ModelConfig, optimizer: Optimizer) {
    let beside = 4 * (wide(model.parameters()) + moments(model, optimizer));
    let beside = u64::try_from(beside).unwrap_or(u64::MAX);
    let room = usize::try_from(budget.saturating_sub(beside)).unwrap_or(usize::MAX);
    buffer::limit(buffer::held().saturating_add(room));
}

/// What the owner allows.
static ALLOWED: AtomicU64 = AtomicU64::new(u64::MAX);

/// Lets training steps of this process take so many bytes and no more.
pub fn limit_memory(bytes: u64) {
    ALLOWED.store(bytes, Ordering::Relaxed);
    buffer::limit(usize::try_from(bytes).unwrap_or(usize::MAX));
}

fn free() -> Option<u64> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    let free = match system.cgroup_limits() {
        // Not its free memory, which counts pages of files that were read as used.
        Some(limits) => {
            let free = limits.total_memory.saturating_sub(limits.rss);
            free.min(system.available_memory())
        }
        None => system.available_memory(),
    };
    Some(most_of(free))
}

/// What of free memory is taken: the rest is for others, and for what an estimate misses.
pub fn most_of(bytes: u64) -> u64 {
    bytes / 10 * 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_shrinks_with_the_budget_until_one_sequence_is_computed_twice() {
        let model = ModelConfig::preset("mini").unwrap();
        let settings = InnerSettings::default();
        let mut last = Plan::fitting(&model, &settings, u64::MAX);
        assert_eq!(
            last,
            Plan {
                micro_batch: 8,
                recompute: false
            }
        );
        let mut seen = vec![last];
        for budget in (0..2000).rev().map(|megabytes| megabytes << 20) {
            let plan = Plan::fitting(&model, &settings, budget);
            assert!(plan.bytes(&model, &settings) <= budget || plan.smaller().is_none());
            if plan != last {
                seen.push(plan);
                last = plan;
            }
        }
        let shapes: Vec<_> = seen
            .iter()
            .map(|plan| (plan.micro_batch, plan.recompute))
            .collect();
        assert_eq!(
            shapes,
            [(8, false), (4, false), (2, false), (1, false), (1, true)]
        );
    }

    #[test]
    fn muon_keeps_one_number_less_for_each_weight_of_a_hidden_matrix() {
        for preset in ["pico", "mini", "base"] {
            let model = ModelConfig::preset(preset).unwrap();
            let hidden = model
                .tensors()
                .into_iter()
                .filter(|tensor| tensor.shape.len() > 1 && tensor.name.contains(".layers."));
            let matrices: usize = hidden.map(|tensor| tensor.len()).sum();
            let [both, fewer] = [Optimizer::AdamW, Optimizer::Muon].map(|of| moments(&model, of));
            assert_eq!(both, 2 * wide(model.parameters()));
            assert_eq!(both - fewer, wide(matrices), "{preset}");
        }
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(budget() > 1 << 20);
    }
}
