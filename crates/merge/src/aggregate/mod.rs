//! Robust aggregation: how much each update of a round counts.
//!
//! All rules but the trimmed mean only *weigh* whole updates: they answer with a coefficient
//! for each, from nothing but the angles and lengths between them. A coordinate's step is
//! then the weighted sum over its senders over the larger of their weight and τ, whatever
//! the rule ([`crate::merge_round`]); so with every rule a coordinate that is not sent is
//! *absent*, and a lone sender is held down by τ. Only where updates are compared as wholes
//! does absence count as zero, because an update that sends elsewhere is indeed elsewhere.
//!
//! | rule | a hostile share below … cannot move the result arbitrarily | source |
//! |---|---|---|
//! | mean | 0 (one update is enough, but for clipping and τ) | |
//! | trimmed mean | the part that is cut off | Yin et al. 2018 |
//! | geometric median | 1/2 | Pillutla et al. 2019 |
//! | centred clipping | 1/2 | Karimireddy et al. 2021 |
//! | trust-weighted | 1/2, while honest updates agree more than hostile ones among themselves | RoDiLoCo; here with the geometric median as the reference |
//!
//! The trimmed mean's bound is one of a coordinate's senders, whom an attacker can choose in
//! sparse updates; the others' is one of the round.
//!
//! What none of them sees: an update that lies where honest updates lie. That is found by
//! training its assignment again.

mod centred_clipping;
mod geometric_median;
mod geometry;
mod sketch;
mod trimmed_mean;
mod trust;

use geometry::Geometry;
pub(crate) use trimmed_mean::{Sent, Trimmed};
pub use trust::{FULL_AGREEMENT, RECORD_DECAY, record};

use crate::clip::Clipping;
use crate::{Layout, Payload};

/// A rule of aggregation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aggregator {
    /// The weighted mean: the control.
    Mean,
    /// Per coordinate: the weighted mean without this part of its senders' weight at either end,
    /// above 0 and below 0.5.
    TrimmedMean {
        /// Cut off at each end.
        part: f32,
    },
    /// The point with the least sum of distances to the updates.
    GeometricMedian,
    /// The mean of what each update differs from the centre, no longer than the median.
    CentredClipping,
    /// The mean, in which an update counts by how well it and those that its worker sent
    /// before agree with what most others say.
    TrustWeighted,
}

/// What was found about an update by comparing it with the others of its round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Regard {
    /// Part of the round's weight that it counted with in the end.
    pub share: f32,
    /// Cosine with the robust centre of the others, −1 to 1; None if fewer than
    /// [`LEAST_TO_COMPARE`] updates say anything, for then no majority can be told.
    pub agreement: Option<f32>,
    /// The running agreement of its worker, this update included; None without an agreement.
    pub record: Option<f32>,
    /// The running agreement from which on an update of this round counts in full; None where
    /// the rule does not ask.
    pub needed: Option<f32>,
    /// The other update that it is nearly the same as, and their cosine, if it is beyond
    /// [`TWIN_COSINE`].
    pub twin: Option<(usize, f32)>,
}

/// Updates that a comparison needs.
pub const LEAST_TO_COMPARE: usize = 3;

/// Cosine above which two updates are taken for one. Two workers train different blocks;
/// what they send has been seen to reach a cosine of 0.6 where they agree most.
pub const TWIN_COSINE: f32 = 0.9;

impl Aggregator {
    /// Weighs the updates of a round. `shares` are their parts of its weight, `records` the
    /// running agreements of their workers, where there are any.
    pub(crate) fn weigh(
        self,
        layout: &Layout,
        payloads: &[Payload],
        clipping: &Clipping,
        shares: &[f32],
        records: &[Option<f32>],
    ) -> Vec<Regard> {
        let plain = |share: &f32| Regard {
            share: *share,
            agreement: None,
            record: None,
            needed: None,
            twin: None,
        };
        let mut regards: Vec<Regard> = shares.iter().map(plain).collect();
        if payloads.len() < 2 {
            return regards;
        }
        let geometry = Geometry::of(&sketch::sketches(layout, payloads, clipping));
        geometry.mark_twins(&mut regards);
        // A pile of copies pulls like one update.
        let counts = geometry.without_copies(shares);
        let centre = geometric_median::coefficients(&geometry, &counts);
        let comparable = geometry.spoken() >= LEAST_TO_COMPARE;
        if comparable {
            for (update, regard) in regards.iter_mut().enumerate() {
                regard.agreement = geometry.agreement(&centre, update).map(|a| a as f32);
                let agreement = regard.agreement;
                regard.record = agreement.map(|agreement| record(records[update], agreement));
            }
        }
        let coefficients = match self {
            Self::Mean | Self::TrimmedMean { .. } => return regards,
            Self::GeometricMedian => centre,
            Self::CentredClipping => centred_clipping::coefficients(&geometry, &counts),
            Self::TrustWeighted => trust::coefficients(&counts, &mut regards),
        };
        for (regard, coefficient) in regards.iter_mut().zip(coefficients) {
            regard.share = coefficient as f32;
        }
        regards
    }
}
