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
    let rates = (0..PAIRS).map(|_| rate(|| _ = black_box(opengpu_merge::digest(&values))));
    println!("digest {:.2}", median(rates.collect()));
}

/// Whole rounds: decode all updates, aggregate, step, encode, apply, digest.
fn rounds(layout: &Layout, values: &[f32]) {
    let sparse = (Codec::Sparse { k: 128 }, Codec::Sparse { k: 512 });
    let mut cases = vec![
        (sparse, 8, Aggregator::Mean),
        (sparse, 32, Aggregator::Mean),
        ((Codec::Int4, Codec::Int4), 8, Aggregator::Mean),
    ];
    let others = [
        Aggregator::TrimmedMean { part: 0.25 },
        Aggregator::GeometricMedian,
        Aggregator::CentredClipping,
        Aggregator::TrustWeighted,
    ];
    cases.extend(others.map(|aggregator| (sparse, 32, aggregator)));
    println!("merge_round    updates   GB/s");
    for ((up, down), updates, aggregator) in cases {
        let payloads: Vec<_> = (0..updates)
            .map(|update| {
                let mut values = values.to_vec();
                values.rotate_left(4096 * update + 17 * update);
                opengpu_merge::encode(up, layout, &mut values).expect("finite")
            })
            .collect();
        let weighted: Vec<_> = payloads
            .iter()
            .map(|payload| Weighted {
                payload,
                weight: 1.0,
                record: None,
            })
            .collect();
        let settings = OuterSettings {
            down,
            down_feedback_decay: 1.0,
            tau: 0.25,
            outer_rate: 1.5,
            outer_momentum: 0.0,
            nesterov: false,
            clip_to_median_norm: true,
            aggregator,
        };
        let mut state = OuterState::new(layout, &settings);
        let mut weights = vec![0f32; layout.len()];
        let rates = (0..5).map(|_| {
            rate(|| {
                opengpu_merge::merge_round(layout, &settings, &weighted, &mut state, &mut weights)
                    .expect("valid");
            })
        });
        println!(
            "{up:?} to {down:?} {updates:>4} {:>8.3}  {aggregator:?}",
            median(rates.collect())
        );
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
