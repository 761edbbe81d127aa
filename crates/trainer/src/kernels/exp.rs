//! The exponential function, written so that it vectorises.
//!
//! The system's `expf` is called one number at a time and differs between platforms; this
//! one is the same everywhere. Range reduction by ln 2 in two parts and a polynomial of
//! degree 6, as in Cephes (Moshier); relative error below 2e-7.

const LOG2_E: f32 = std::f32::consts::LOG2_E;
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Adding and subtracting 1.5 x 2^23 rounds to the nearest integer.
const ROUND: f32 = 12_582_912.0;

/// e^x; 1.2e-38 below -87.3, 2.4e38 above 88.4, NaN of NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Written as selections so that NaN passes through; f32::clamp does too but panics.
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.3 { 88.3 } else { x };
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let p = p * (r * r) + r + 1.0;
    // The integer n sits in the low bits of `shifted`; it becomes the exponent of 2^n.
    let exponent = (shifted.to_bits() as i32)
        .wrapping_sub(ROUND.to_bits() as i32)
        .wrapping_add(127);
    p * f32::from_bits((exponent as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn agrees_with_double_precision_over_its_range() {
        let mut worst = 0.0f64;
        for step in -87_000..88_000 {
            let x = step as f32 * 1e-3;
            let exact = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - exact) / exact).abs());
        }
        assert!(worst < 2e-7, "relative error {worst:e}");
    }

    #[test]
    fn keeps_nan_and_stays_finite() {
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::INFINITY).is_finite());
        assert!(exp(f32::NEG_INFINITY) >= 0.0 && exp(f32::NEG_INFINITY) < 1e-37);
        assert_eq!(exp(0.0), 1.0);
    }
}
