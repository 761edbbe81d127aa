//! A rate that was counted, and what it can be.

/// How often something happened among so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub happened: usize,
    pub of: usize,
}

impl Rate {
    /// How many of these distances are above what is allowed.
    pub fn above(distances: &[f64], allowed: f64) -> Self {
        Self {
            happened: distances.iter().filter(|one| **one > allowed).count(),
            of: distances.len(),
        }
    }

    /// How many are not.
    pub fn within(distances: &[f64], allowed: f64) -> Self {
        let above = Self::above(distances, allowed);
        Self {
            happened: above.of - above.happened,
            of: above.of,
        }
    }
}

/// In percent. Of what never happened the upper bound of its rate with 95 %: 3 / n, the rule of
/// three (Hanley and Lippman-Hand 1983).
impl std::fmt::Display for Rate {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = self.of.max(1) as f64;
        match self.happened {
            0 => write!(out, "0 (< {:.2} %)", 300.0 / of),
            some => write!(out, "{:.1} %", 100.0 * some as f64 / of),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_happened_has_a_bound_and_what_did_a_part() {
        let distances = [0.0, 0.1, 0.2, f64::INFINITY];
        let above = Rate::above(&distances, 0.1);
        assert_eq!((above.happened, above.of), (2, 4));
        assert_eq!(above.to_string(), "50.0 %");
        assert_eq!(Rate::within(&distances, 0.1).to_string(), "50.0 %");
        let never = Rate {
            happened: 0,
            of: 3000,
        };
        assert_eq!(never.to_string(), "0 (< 0.10 %)");
    }
}
