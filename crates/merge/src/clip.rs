//! Median-norm clipping: in each tensor, no update may be longer than the median update.
//!
//! The median is that of the updates that send anything to the tensor, by their weight in the
//! round; of two middle ones the lower, so that half of the weight cannot raise it, however
//! many updates it comes in. (It says nothing about directions.)

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
    /// No clipping of updates with these norms, by update and tensor, and these weights.
    pub(crate) fn none(norms: &[Vec<f64>], weights: &[f32]) -> Self {
        let tensors = norms.first().map_or(0, Vec::len);
        let median = |tensor| median(norms, weights, tensor);
        Self {
            median_norms: (0..tensors).map(median).collect(),
            tensor_factors: norms.iter().map(|norms| vec![1.0; norms.len()]).collect(),
            factors: vec![1.0; norms.len()],
        }
    }

    /// Clips updates with these norms and weights.
    pub(crate) fn to_median(norms: &[Vec<f64>], weights: &[f32]) -> Self {
        let mut clipping = Self::none(norms, weights);
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

/// The weighted lower median of the norms above zero.
fn median(norms: &[Vec<f64>], weights: &[f32], tensor: usize) -> f64 {
    let (sent, weights): (Vec<f64>, Vec<f64>) = norms
        .iter()
        .zip(weights)
        .map(|(norms, weight)| (norms[tensor], f64::from(*weight)))
        .filter(|(norm, _)| *norm > 0.0)
        .unzip();
    weighted_median(&sent, &weights)
}

/// The least value up to which at least half of the weight lies; 0 if there is no value.
pub(crate) fn weighted_median(values: &[f64], weights: &[f64]) -> f64 {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let total: f64 = weights.iter().sum();
    let mut reached = 0.0;
    for index in order {
        reached += weights[index];
        // A half that rounding took a little from is a half.
        if reached >= total * (0.5 - 1e-9) {
            return values[index];
        }
    }
    0.0
}
