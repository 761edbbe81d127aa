//! In which numbers matrix products are computed, and what this processor can do.

use opengpu_trainer_protocol::Precision as Wanted;

use super::product::Instructions;

/// The numbers that are multiplied. Sums, norms, softmax, losses and the weights
/// themselves are float32 in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 24 bits of precision.
    Float32,
    /// bfloat16: float32's range with 8 bits of precision.
    Bfloat16,
}

impl Precision {
    /// What `wanted` means on a device that has products of bfloat16 or has not, and a
    /// sentence where that is not what was asked for.
    pub fn of(wanted: Wanted, has_bfloat16: bool) -> (Self, Option<&'static str>) {
        match wanted {
            Wanted::Float32 => (Self::Float32, None),
            Wanted::Auto | Wanted::Bfloat16 if has_bfloat16 => (Self::Bfloat16, None),
            Wanted::Auto => (Self::Float32, None),
            Wanted::Bfloat16 => (
                Self::Float32,
                Some(
                    "This device has no bfloat16 arithmetic that works (a processor needs AVX512-BF16 or \
                     AMX); products are computed in float32, more slowly.",
                ),
            ),
        }
    }

    /// For people and numerics classes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
        }
    }
}

/// Whether products of bfloat16 run natively here.
pub fn has_bfloat16() -> bool {
    Instructions::of(Precision::Bfloat16).precision() == Precision::Bfloat16
}

/// The instructions that decide how products of `precision` round.
pub fn instruction_set(precision: Precision) -> &'static str {
    Instructions::of(precision).name()
}
