//! Throughput of every codec on one core, in GB of weights (float32) per second, beside
//! memcpy in the same minute: `cargo build --release --workspace && target/release/throughput`.
//!
//! Each measurement is paired with a memcpy of the same weights right before it, so that a
//! noisy machine slows both; printed are medians over the pairs. Time is the processor's
//! time of this process (with one thread), so that other work on the machine does not count;
//! where there is no such clock, it is the time that passed.

use opengpu_bench::turns::median;
use opengpu_merge::{Aggregator, Codec, Layout, OuterSettings, OuterState, Payload, Weighted};
use std::hint::black_box;

const WEIGHTS: usize = 1 << 24;
const PAIRS: usize = 9;

fn main() {
    // One thread does all parallel loops: the figures are per core.
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build_global()
        .expect("the first pool");
    let layout = Layout::new([WEIGHTS]);
    let values = heavy_tailed(WEIGHTS);
    let mut copy = vec![0f32; WEIGHTS];
    let mut weights = vec![0f32; WEIGHTS];
    println!("{WEIGHTS} weights, one thread, medians of {PAIRS} pairs, GB of weights per second");
    println!("codec          bytes/weight   memcpy   encode    check  subtract  add_scaled");
    for codec in [
        Codec::Sparse { k: 64 },
        Codec::Sparse { k: 128 },
        Codec::Sparse { k: 256 },
        Codec::Sparse { k: 512 },
        Codec::Int8,
        Codec::Int4,
        Codec::Int2,
        Codec::Float32,
    ] {
        let payload = opengpu_merge::encode(codec, &layout, &mut values.clone()).expect("finite");
        let mut rates = [const { Vec::new() }; 5];
        for _ in 0..PAIRS {
            let mut pair = |column: usize, work: &mut dyn FnMut()| {
                rates[0].push(rate(|| {
                    black_box(&mut copy).copy_from_slice(black_box(&values))
                }));
                rates[column].push(rate(work));
            };
            let mut rest = values.clone();
            pair(1, &mut || {
                black_box(opengpu_merge::encode(codec, &layout, &mut rest).expect("finite"));
            });
            pair(2, &mut || {
                opengpu_merge::check(codec, &layout, black_box(&payload)).expect("valid")
            });
            let checked = Payload::parse(&layout, &payload).expect("valid");
            pair(3, &mut || {
                checked.subtract(&layout, &mut weights).expect("valid")
            });
            pair(4, &mut || {
                checked
                    .add_scaled(&layout, 0.5, &mut weights)
                    .expect("valid")
            });
        }
        let [memcpy, encode, check, subtract, add] = rates.map(median);
        println!(
            "{:<14} {:>12.4} {memcpy:>8.2} {encode:>8.2} {check:>8.2} {subtract:>9.2} {add:>11.2}",
            format!("{codec:?}")
                .replace("Sparse { k: ", "sparse ")
                .replace(" }", ""),
            payload.len() as f64 / WEIGHTS as f64,
        );
    }
    rounds(&layout, &values);
    rules(&values);
    let rates = (0..PAIRS).map(|_| rate(|| _ = black_box(opengpu_merge::digest(&values))));
    println!("digest {:.2}", median(rates.collect()));
}

/// Whole rounds: decode all updates, aggregate, step, encode, apply, digest.
fn rounds(layout: &Layout, values: &[f32]) {
    let sparse = (Codec::Sparse { k: 128 }, Codec::Sparse { k: 512 });
    let dense = (Codec::Int4, Codec::Int4);
    println!("merge_round    updates   GB/s");
    for ((up, down), updates) in [(sparse, 8), (sparse, 32), (dense, 8)] {
        let payloads = payloads(layout, values, up, updates);
        let mut merging = Merging::new(layout, Aggregator::Mean, down, &payloads);
        let rates = (0..5).map(|_| rate(|| merging.merge()));
        println!(
            "{up:?} to {down:?} {updates:>4} {:>8.3}",
            median(rates.collect())
        );
    }
}

/// Each rule of aggregation against the mean, in turns: what slows the machine for a while
/// slows all of them.
fn rules(values: &[f32]) {
    const SMALL: usize = 1 << 22;
    const TURNS: usize = 5;
    let layout = Layout::new([SMALL]);
    let values = &values[..SMALL];
    let rules = [
        Aggregator::Mean,
        Aggregator::TrimmedMean { part: 0.25 },
        Aggregator::GeometricMedian,
        Aggregator::CentredClipping,
        Aggregator::TrustWeighted,
    ];
    println!("rule of aggregation, {SMALL} weights, seconds a merge (times the mean's)");
    for updates in [8, 32, 128] {
        let payloads = payloads(&layout, values, Codec::Sparse { k: 224 }, updates);
        let down = Codec::Sparse { k: 1500 };
        let mut all = rules.map(|rule| Merging::new(&layout, rule, down, &payloads));
        let mut seconds = [const { Vec::new() }; 5];
        for _ in 0..TURNS {
            for (merging, seconds) in all.iter_mut().zip(&mut seconds) {
                let start = processor_seconds();
                merging.merge();
                seconds.push(processor_seconds() - start);
            }
        }
        let medians = seconds.map(median);
        for (rule, seconds) in rules.iter().zip(medians) {
            let times = seconds / medians[0];
            println!("{updates:>4} updates {seconds:>8.3} ({times:.2}) {rule:?}");
        }
    }
}

/// Updates that differ.
fn payloads(layout: &Layout, values: &[f32], up: Codec, updates: usize) -> Vec<Vec<u8>> {
    let turned = (0..updates).map(|update| {
        let mut values = values.to_vec();
        values.rotate_left(4096 * update + 17 * update);
        opengpu_merge::encode(up, layout, &mut values).expect("finite")
    });
    turned.collect()
}

/// Merges of the same updates, again and again.
struct Merging<'a> {
    layout: &'a Layout,
    settings: OuterSettings,
    weighted: Vec<Weighted<'a>>,
    state: OuterState,
    weights: Vec<f32>,
}

impl<'a> Merging<'a> {
    fn new(
        layout: &'a Layout,
        aggregator: Aggregator,
        down: Codec,
        payloads: &'a [Vec<u8>],
    ) -> Self {
        let settings = OuterSettings {
            down,
            down_feedback_decay: 1.0,
            tau: 0.25,
            outer_rate: 1.5,
            outer_momentum: 0.0,
            nesterov: false,
            clip_to_median_norm: true,
            aggregator,
            direction: true,
        };
        let weighted = payloads.iter().map(|payload| Weighted {
            payload,
            weight: 1.0,
            record: None,
        });
        Self {
            layout,
            state: OuterState::new(layout, &settings),
            settings,
            weighted: weighted.collect(),
            weights: vec![0f32; layout.len()],
        }
    }

    fn merge(&mut self) {
        opengpu_merge::merge_round(
            self.layout,
            &self.settings,
            &self.weighted,
            &mut self.state,
            &mut self.weights,
        )
        .expect("valid");
    }
}

fn rate(work: impl FnOnce()) -> f64 {
    let start = processor_seconds();
    work();
    4.0 * WEIGHTS as f64 / 1e9 / (processor_seconds() - start)
}

/// Seconds that this process has used a processor.
#[cfg(unix)]
fn processor_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec that lives through the call.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(status, 0, "the system has a clock of processor time");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Seconds since some moment.
#[cfg(not(unix))]
fn processor_seconds() -> f64 {
    static START: std::sync::LazyLock<std::time::Instant> =
        std::sync::LazyLock::new(std::time::Instant::now);
    START.elapsed().as_secs_f64()
}

/// Values as updates have them: a narrow peak and heavy tails (the product of two sums of
/// uniform numbers), at a different scale every few chunks.
fn heavy_tailed(count: usize) -> Vec<f32> {
    let mut seed = 1u64;
    let mut uniform = move || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut bell = move || uniform() + uniform() + uniform();
    (0..count)
        .map(|i| bell() * bell() * (1.0 + (i / 30_000 % 7) as f32))
        .collect()
}
