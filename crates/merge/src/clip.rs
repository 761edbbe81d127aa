//! Median-norm clipping: in each tensor, no update may be longer than the median update.
//!
//! The median is that of the updates that send anything to the tensor; of an even number
//! the lower middle one, so that half of the fleet cannot raise it. (It protects as long
//! as more than half is honest; it says nothing about directions.)

/// What clipping does to the updates of a round.
#[derive(Clone, Debug, PartialEq)]
pub struct Clipping {
    /// For each tensor the median norm of the updates; 0 if none sends anything to it.
    pub median_norms: Vec<f64>,
    /// For each update and tensor the factor it is scaled by, 0 to 1.
    pub tensor_factors: Vec<Vec<f32>>,
    /// For each update one factor that stands for those of its tensors: their mean,
    /// weighted with the squared norms, which is the best single factor by squared error.
    /// Exactly 1 if and only if nothing was clipped.
    pub factors: Vec<f32>,
}

impl Clipping {
    /// No clipping.
    pub(crate) fn none(norms: &[Vec<f64>]) -> Self {
        let tensors = norms.first().map_or(0, Vec::len);
        Self {
            median_norms: (0..tensors).map(|tensor| median(norms, tensor)).collect(),
            tensor_factors: norms.iter().map(|norms| vec![1.0; norms.len()]).collect(),
            factors: vec![1.0; norms.len()],
        }
    }

    /// Clips updates with these norms, by update and tensor.
    pub(crate) fn to_median(norms: &[Vec<f64>]) -> Self {
        let mut clipping = Self::none(norms);
        for (update, norms) in norms.iter().enumerate() {
            let factors = &mut clipping.tensor_factors[update];
            let (mut kept, mut total, mut clipped) = (0f64, 0f64, false);
            for (tensor, &norm) in norms.iter().enumerate() {
                let median = clipping.median_norms[tensor];
                if norm > median {
                    factors[tensor] = (median / norm) as f32;
                    clipped |= factors[tensor] < 1.0;
                }
                kept += f64::from(factors[tensor]) * norm * norm;
                total += norm * norm;
            }
            if clipped {
                // Not 1, however little was clipped: 1 says that nothing is to be put back.
                let just_below_one = 1.0 - f32::EPSILON / 2.0;
                clipping.factors[update] = ((kept / total) as f32).min(just_below_one);
            }
        }
        clipping
    }
}

/// The lower median of the norms above zero.
fn median(norms: &[Vec<f64>], tensor: usize) -> f64 {
    let mut sent: Vec<f64> = norms
        .iter()
        .map(|n| n[tensor])
        .filter(|norm| *norm > 0.0)
        .collect();
    if sent.is_empty() {
        return 0.0;
    }
    let middle = (sent.len() - 1) / 2;
    *sent.select_nth_unstable_by(middle, f64::total_cmp).1
}
