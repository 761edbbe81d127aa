//! The figures behind the choices of the codec, beside those of the alternatives:
//! `cargo run --release -p opengpu-merge --example choices`.
//!
//! Values are a bell curve, a heavy-tailed product of two, and heavy-tailed values whose
//! rows and columns differ in scale, as those of a weight matrix do.

use opengpu_merge::{Codec, Layout, encode};

const ROWS: usize = 512;
const COLUMNS: usize = 2048;

/// The error that a rule for levels makes on magnitudes.
type Rule = fn(&[f32]) -> f64;

fn main() {
    let layout = Layout::new([ROWS * COLUMNS]);
    let kinds = ["bell", "heavy", "heavy, rows and columns"];
    println!("{} weights\n", layout.len());

    println!("bytes for each weight");
    for k in [64, 128, 192, 256, 384, 512, 768, 1024, 1280, 1536] {
        let bytes = [0, 1, 2].map(|kind| {
            let codec = Codec::Sparse { k };
            let payload = encode(codec, &layout, &mut values(kind)).expect("finite");
            payload.len() as f64 / layout.len() as f64
        });
        let plain = f64::from(6 + 14 * u32::from(k) / 8) / 4096.0;
        println!(
            "k = {k:<4}  12 bits {plain:.4}, Rice {bytes:.4?} ({})",
            kinds.join("; ")
        );
    }

    println!("\nbits for each index          k:      64     128     256     512");
    print_row("12 bits", [64, 128, 256, 512].map(|_| 12.0));
    print_row("Elias-Fano", [64, 128, 256, 512].map(elias_fano));
    for (kind, name) in kinds.into_iter().enumerate() {
        let values = values(kind);
        let spent = [64, 128, 256, 512].map(|k| {
            let mut rest = values.clone();
            let bytes = encode(Codec::Sparse { k }, &layout, &mut rest)
                .expect("finite")
                .len();
            let chunks = layout.chunk_count();
            // Without the header, and without head, levels and codes of each chunk.
            8.0 * (bytes - 24 - chunks * (6 + usize::from(k) / 4)) as f64
                / (chunks * usize::from(k)) as f64
        });
        print_row(&format!("Rice, {name}"), spent);
    }
    print_row(
        "entropy of independent ones",
        [64, 128, 256, 512].map(entropy),
    );

    println!("\nsquared error of the values sent, relative to their squares (all: int2)");
    println!("                             k:      64     128     512     all");
    for (kind, name) in kinds.into_iter().enumerate() {
        let values = values(kind);
        let rules: [(&str, Rule); 4] = [
            ("one level", |kept| error_of_split(kept, 0.0)),
            ("split at the median", |kept| {
                let mut sorted = kept.to_vec();
                sorted.sort_by(f32::total_cmp);
                error_of_split(kept, sorted[kept.len() / 2])
            }),
            ("split at the mean", |kept| error_of_split(kept, mean(kept))),
            ("best split", |kept| {
                let mut sorted = kept.to_vec();
                sorted.sort_by(f32::total_cmp);
                let borders = sorted.iter().step_by(kept.len().div_ceil(128));
                borders
                    .map(|border| error_of_split(kept, *border))
                    .fold(f64::MAX, f64::min)
            }),
        ];
        for (rule_name, rule) in rules {
            let errors = [64, 128, 512, 4096].map(|k| error_of_kept(&values, k, rule));
            print_row(&format!("{name}: {rule_name}"), errors);
        }
        let errors = [64, 128, 512, 4096].map(|k| {
            let codec = if k == 4096 {
                Codec::Int2
            } else {
                Codec::Sparse { k }
            };
            let mut rest = values.clone();
            encode(codec, &layout, &mut rest).expect("finite");
            let sent = |(value, rest): &(&f32, &f32)| value != rest;
            let pairs: Vec<_> = values.iter().zip(&rest).filter(sent).collect();
            let squares = |value: &f32| f64::from(*value) * f64::from(*value);
            pairs.iter().map(|pair| squares(pair.1)).sum::<f64>()
                / pairs.iter().map(|pair| squares(pair.0)).sum::<f64>()
        });
        print_row(&format!("{name}: this codec"), errors);
    }

    println!("\nsquared error of 4-bit integers, relative to all squares");
    println!("                                  largest     this   int8");
    for (kind, name) in kinds.into_iter().enumerate() {
        let values = values(kind);
        let squares = |values: &[f32]| {
            values
                .iter()
                .map(|value| f64::from(*value) * f64::from(*value))
                .sum::<f64>()
        };
        let by_largest: f64 = values
            .chunks(4096)
            .map(|chunk| {
                let scale = chunk.iter().fold(0f32, |most, value| most.max(value.abs())) / 7.0;
                let rest: Vec<f32> = chunk
                    .iter()
                    .map(|value| value - (value / scale).round() * scale)
                    .collect();
                squares(&rest)
            })
            .sum();
        let of = |codec| {
            let mut rest = values.clone();
            encode(codec, &layout, &mut rest).expect("finite");
            squares(&rest) / squares(&values)
        };
        let (four, eight) = (of(Codec::Int4), of(Codec::Int8));
        println!(
            "{name:<33} {:>7.4}  {four:>7.4} {eight:>7.5}",
            by_largest / squares(&values)
        );
    }
}

fn print_row(name: &str, cells: [f64; 4]) {
    let cells = cells.map(|cell| format!("{cell:>7.3}"));
    println!("{name:<33} {}", cells.join(" "));
}

/// Values of one kind, in rows.
fn values(kind: usize) -> Vec<f32> {
    let mut seed = 1u64;
    let mut uniform = move || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut bell = move || (0..6).map(|_| uniform()).sum::<f32>();
    let scale = |bell: f32| 1.0 + 3.0 * bell * bell;
    let rows: Vec<f32> = (0..ROWS).map(|_| scale(bell())).collect();
    let columns: Vec<f32> = (0..COLUMNS).map(|_| scale(bell())).collect();
    let value = |index: usize| match kind {
        0 => bell(),
        1 => bell() * bell(),
        _ => bell() * bell() * rows[index / COLUMNS] * columns[index % COLUMNS],
    };
    (0..ROWS * COLUMNS).map(value).collect()
}

/// Mean over chunks of the error that a rule makes on the `k` largest magnitudes.
fn error_of_kept(values: &[f32], k: u16, rule: impl Fn(&[f32]) -> f64) -> f64 {
    let chunks = values.chunks(4096);
    let count = chunks.len() as f64;
    let errors = chunks.map(|chunk| {
        let mut magnitudes: Vec<f32> = chunk.iter().map(|value| value.abs()).collect();
        magnitudes.sort_by(|a, b| b.total_cmp(a));
        rule(&magnitudes[..usize::from(k)])
    });
    errors.sum::<f64>() / count
}

fn mean(values: &[f32]) -> f32 {
    values.iter().sum::<f32>() / values.len().max(1) as f32
}

/// Relative squared error if magnitudes below and not below a border are sent as their means.
fn error_of_split(magnitudes: &[f32], border: f32) -> f64 {
    let (upper, lower): (Vec<f32>, Vec<f32>) = magnitudes
        .iter()
        .partition(|magnitude| **magnitude >= border);
    let error = |bin: &[f32]| {
        let mean = mean(bin);
        bin.iter()
            .map(|magnitude| f64::from((magnitude - mean).powi(2)))
            .sum::<f64>()
    };
    let squares: f64 = magnitudes
        .iter()
        .map(|magnitude| f64::from(magnitude.powi(2)))
        .sum();
    (error(&upper) + error(&lower)) / squares
}

/// Bits for each of k of 4096 with the best split in upper and lower bits.
fn elias_fano(k: u16) -> f64 {
    let k = usize::from(k);
    let bits = |lower: usize| k * lower + k + (4096 >> lower);
    (0..12).map(bits).min().unwrap_or_default() as f64 / k as f64
}

/// Bits for each of k of 4096 if all choices are equally likely: log2 of their number.
fn entropy(k: u16) -> f64 {
    let k = u32::from(k);
    let bits: f64 = (0..k)
        .map(|i| (f64::from(4096 - i) / f64::from(i + 1)).log2())
        .sum();
    bits / f64::from(k)
}
