//! A measured number that JSON can carry: never NaN, never infinite.

use serde::{Deserialize, Serialize};

/// A finite float64. Its unit is that of the check that measured it.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64")]
pub struct Finite(f64);

/// A number that is NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{0} is not finite, and cannot be written to the ledger")]
pub struct NotFinite(pub f64);

impl Finite {
    /// This number, if it is finite.
    pub fn new(number: f64) -> Result<Self, NotFinite> {
        if number.is_finite() {
            Ok(Self(number))
        } else {
            Err(NotFinite(number))
        }
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Finite {
    type Error = NotFinite;
    fn try_from(number: f64) -> Result<Self, NotFinite> {
        Self::new(number)
    }
}
