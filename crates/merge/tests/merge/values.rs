//! Values as updates have them, made of integers alone so that they are the same on every
//! machine: the golden files depend on them (see `docs/codec.md`, "Golden files").

use opengpu_merge::{Codec, Layout};

/// Every codec, at several k.
pub const CODECS: [Codec; 9] = [
    Codec::Sparse { k: 1 },
    Codec::Sparse { k: 64 },
    Codec::Sparse { k: 128 },
    Codec::Sparse { k: 512 },
    Codec::Sparse { k: 4096 },
    Codec::Int8,
    Codec::Int4,
    Codec::Int2,
    Codec::Float32,
];

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below a limit.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// The sum of four 16-bit parts of a draw, centred: near a bell curve from -2 to 2.
    pub fn bell(&mut self) -> f32 {
        let draw = self.next();
        let sum: i32 = (0..4)
            .map(|part| (draw >> (16 * part) & 0xFFFF) as i32)
            .sum();
        (sum - 131_070) as f32 / 65_536.0
    }

    /// The product of two of them: a narrow peak and heavy tails, as updates have.
    pub fn heavy(&mut self) -> f32 {
        self.bell() * self.bell()
    }
}

/// Heavy-tailed values for a layout, each tensor at another scale, with zeros, equal
/// magnitudes and subnormal numbers among them.
pub fn update(seed: u64, layout: &Layout) -> Vec<f32> {
    let mut random = Random(seed);
    let mut values = Vec::with_capacity(layout.len());
    for (tensor, &len) in layout.tensors().iter().enumerate() {
        let scale = [0.01, 1.0, 0.0001, 30.0][tensor % 4];
        for index in 0..len {
            let value = scale * random.heavy();
            values.push(match index % 97 {
                13 => 0.0,
                14 => -0.0,
                20 | 21 => scale * 0.5,
                22 => -scale * 0.5,
                30 => f32::from_bits(1 + (index as u32)),
                _ => value,
            });
        }
    }
    values
}

/// What a payload says of every weight.
pub fn decode(layout: &Layout, payload: &[u8]) -> Vec<f32> {
    let mut decoded = vec![0.0; layout.len()];
    opengpu_merge::add_scaled(layout, payload, 1.0, &mut decoded).unwrap();
    decoded
}

pub fn energy(values: &[f32]) -> f64 {
    values
        .iter()
        .map(|value| f64::from(*value) * f64::from(*value))
        .sum()
}
