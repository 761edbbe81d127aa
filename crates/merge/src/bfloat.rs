//! Scales travel as bfloat16, the upper half of a float32: its whole range in two bytes
//! and an exact conversion by shifting. Half precision was rejected: it has no numbers
//! below 6e-8, and late in a run updates are that small. Three digits suffice, because the
//! encoder picks its codes with the rounded scale in hand and the rest stays in the error
//! feedback.

/// No decoded value is larger than 2^64. With bounded values no sum over a round can
/// overflow, so a merge that passed the checks cannot fail half-way.
pub(crate) const MAX_VALUE: f32 = 18_446_744_073_709_551_616.0;

/// bfloat16 of 2^64, 2^61 and 2^57: the largest scales whose largest code is within
/// [`MAX_VALUE`] for 2-bit levels, 4-bit and 8-bit integers.
pub(crate) const MAX_LEVEL: u16 = 0x5F80;
pub(crate) const MAX_SCALE_4: u16 = 0x5E00;
pub(crate) const MAX_SCALE_8: u16 = 0x5C00;

/// The nearest bfloat16 (ties to even) of a finite value that is not negative, at most
/// `max`.
pub(crate) fn round(value: f32, max: u16) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    (rounded as u16).min(max)
}

/// The float32 that a bfloat16 stands for.
pub(crate) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Reads a scale; refuses negative ones, NaN, infinities and what is above `max`, which is
/// one comparison, because floats that are not negative are ordered like their bits.
pub(crate) fn read_scale(bytes: [u8; 2], max: u16) -> Option<f32> {
    let bits = u16::from_le_bytes(bytes);
    (bits <= max).then(|| widen(bits))
}
