//! In steady state a training step takes nothing large from the system: its buffers are
//! those of the step before. A test process of its own, since it counts every allocation.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use opengpu_trainer::{InnerLoop, Pair, fresh_weights};
use opengpu_trainer_protocol::{InnerSettings, ModelConfig, Optimizer, Precision};

/// Allocations at least this long are counted.
const LARGE: usize = 64 << 10;

static COUNT: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE {
            COUNT.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller's.
        unsafe { System.dealloc(memory, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_step_uses_the_memory_of_the_step_before() {
    let model = ModelConfig::preset("nano").unwrap();
    let length = model.max_position_embeddings;
    for precision in [Precision::Float32, Precision::Bfloat16] {
        for (micro_batch, recompute, optimizer) in [
            (8, false, Optimizer::AdamW),
            (2, false, Optimizer::AdamW),
            (8, true, Optimizer::AdamW),
            (8, false, Optimizer::Muon),
        ] {
            let settings = InnerSettings {
                optimizer,
                precision,
                recompute,
                ..InnerSettings::default()
            };
            let count = settings.batch_sequences * length;
            let token = |i: usize| (i * i % model.vocab_size) as u32;
            let batch = Pair {
                inputs: (0..count).map(token).collect(),
                targets: (1..=count).map(token).collect(),
            };
            let mut training = InnerLoop::new(&model, &settings).with_micro_batch(micro_batch);
            let mut llama = training.place(&fresh_weights(&model, 1));
            let mut allocations = Vec::new();
            for _ in 0..5 {
                let before = COUNT.load(Ordering::Relaxed);
                training.step(&mut llama, &batch, 1e-3).unwrap();
                allocations.push(COUNT.load(Ordering::Relaxed) - before);
            }
            let what = format!(
                "{optimizer:?}, {precision:?}, {micro_batch} at a time, recompute {recompute}"
            );
            assert!(allocations[0] > 0, "{what}: {allocations:?}");
            assert_eq!(allocations[3..], [0, 0], "{what}: {allocations:?}");
        }
    }
}
