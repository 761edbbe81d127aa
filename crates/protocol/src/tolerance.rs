//! How far two trainings of one assignment may be apart. The figures, and what it means that a
//! node says itself of which numerics class it is, are in `docs/audits.md`.

use opengpu_trainer_protocol::Precision;

use crate::RunSpec;

/// Tolerances by precision, and what is added to them divided by the number of steps: well above
/// what honest trainings differ by, most of all at the end of a run, where progress is small; in
/// float32 below what a worker differs by that leaves out a tenth of its steps, in bfloat16 that
/// leaves out a quarter.
const FLOAT32: (f64, f64) = (0.01, 0.06);
const BFLOAT16: (f64, f64) = (0.15, 0.2);
/// Inside one numerics class, where the distance is 0. Above all that other float32 arithmetic was
/// measured to differ by (2.2e-4, in a single step), so that two builds that call themselves the
/// same accuse nobody.
const SAME_CLASS: f64 = 1e-3;
/// A word of classes that promise results close to each other and no more.
const NOT_EXACT: &str = "approximately";

impl RunSpec {
    /// How far a worker's progress over so many blocks may be from another training of them, where
    /// nothing is known of their numerics classes. In float32 two machines differ by rounding alone;
    /// where each may choose bfloat16, by that, and over the first few steps of an optimiser
    /// that starts at zero by more.
    pub fn audit_tolerance(&self, blocks: u64) -> f64 {
        self.audit_tolerance_between("", "", blocks)
    }

    /// The same between devices of these numerics classes (empty: not known). What a run file
    /// states holds between classes; inside one, it can only be lower.
    pub fn audit_tolerance_between(&self, one: &str, other: &str, blocks: u64) -> f64 {
        let batch = self.inner.batch_sequences.max(1);
        let steps = (blocks as f64 * (self.block_sequences / batch) as f64).max(1.0);
        let pinned = self.inner.precision == Precision::Float32;
        let float32 = pinned || (is_exact_float32(one) && is_exact_float32(other));
        let (long, few_steps) = if float32 { FLOAT32 } else { BFLOAT16 };
        let stated = self.trust.audit_tolerance;
        let between = stated.unwrap_or(long + few_steps / steps);
        match one == other && is_exact(one) {
            true => between.min(SAME_CLASS),
            false => between,
        }
    }
}

/// Whether the same work gives the same bytes in this class.
fn is_exact(class: &str) -> bool {
    !class.is_empty() && !class.contains(NOT_EXACT)
}

fn is_exact_float32(class: &str) -> bool {
    is_exact(class) && class.split_whitespace().any(|word| word == "float32")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    const FLOAT: &str = "opengpu 0.1.0 linux x86_64 avx2 threads 2 float32 micro-batch 8";
    const OTHER: &str = "opengpu 0.1.0 linux aarch64 neon threads 4 float32 micro-batch 8";
    const BRAIN: &str = "opengpu 0.1.0 linux x86_64 amx threads 2 bfloat16 micro-batch 8";
    const GPU: &str = "opengpu 0.1.0 Some GPU, approximately float32 micro-batch 8";

    fn spec(inner: &str, trust: &str) -> RunSpec {
        let text = format!(
            "name = \"a\"\ndataset = \"b\"\npreset = \"pico\"\nblock_sequences = 8\n[round]\nrounds = 1\n[inner]\nbatch_sequences = 8\n{inner}\n[trust]\n{trust}\n"
        );
        RunSpec::from_toml(&text).unwrap()
    }

    #[test]
    fn inside_one_class_hardly_anything_is_allowed() {
        for class in [FLOAT, BRAIN] {
            let allowed = spec("", "").audit_tolerance_between(class, class, 20);
            assert_eq!(allowed, SAME_CLASS);
        }
        // Its letters are the same, its bytes need not be.
        let of_gpu = spec("", "").audit_tolerance_between(GPU, GPU, 20);
        assert_eq!(of_gpu, spec("", "").audit_tolerance(20));
        assert!((of_gpu - 0.16).abs() < 1e-12);
    }

    #[test]
    fn between_classes_rounding_is_allowed_as_precision_has_it() {
        let run = spec("", "");
        let float32 = run.audit_tolerance_between(FLOAT, OTHER, 20);
        assert!((float32 - 0.013).abs() < 1e-12, "{float32}");
        let wide = run.audit_tolerance(20);
        assert_eq!(run.audit_tolerance_between(FLOAT, BRAIN, 20), wide);
        assert_eq!(run.audit_tolerance_between(FLOAT, GPU, 20), wide);
        assert_eq!(run.audit_tolerance_between(FLOAT, "", 20), wide);
        let pinned = spec("precision = \"float32\"", "");
        assert_eq!(pinned.audit_tolerance(20), float32);
        assert_eq!(pinned.audit_tolerance_between(FLOAT, GPU, 20), float32);
    }

    /// Saying to be of another class than one is never gives less than is allowed to whoever says
    /// nothing, and never more.
    #[test]
    fn no_class_allows_more_than_none() {
        let classes = [FLOAT, OTHER, BRAIN, GPU, "", "anything at all"];
        for run in [spec("", ""), spec("precision = \"float32\"", "")] {
            for one in classes {
                for other in classes {
                    let allowed = run.audit_tolerance_between(one, other, 5);
                    assert!(allowed <= run.audit_tolerance(5), "{one:?} {other:?}");
                }
            }
        }
    }

    #[test]
    fn what_a_run_file_states_holds_between_classes() {
        let stated = spec("", "audit_tolerance = 0.5");
        assert_eq!(stated.audit_tolerance_between(FLOAT, OTHER, 20), 0.5);
        assert_eq!(stated.audit_tolerance_between(FLOAT, FLOAT, 20), SAME_CLASS);
        let low = spec("", "audit_tolerance = 1e-6");
        assert_eq!(low.audit_tolerance_between(FLOAT, FLOAT, 20), 1e-6);
    }
}
