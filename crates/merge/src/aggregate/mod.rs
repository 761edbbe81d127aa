//! Robust aggregation: how much each update of a round counts.
//!
//! All rules but the trimmed mean only *weigh* whole updates: they answer with a coefficient
//! for each, from nothing but the angles and lengths between them. A coordinate's step is
//! then the weighted sum over its senders over the larger of their weight and τ, whatever
//! the rule ([`crate::merge_round`]); so with every rule a coordinate that is not sent is
//! *absent*, and a lone sender is held down by τ. Only where updates are compared as wholes
//! does absence count as zero, because an update that sends elsewhere is indeed elsewhere.
//!
//! | rule | hostile part of the weight that it bears | what it then bounds | source |
//! |---|---|---|---|
//! | mean | none (one update is enough, but for clipping and τ) | | |
//! | trimmed mean | up to the part that is cut off | the value | Yin et al. 2018 |
//! | geometric median | less than 1/2 | the distance | Pillutla et al. 2019 |
//! | centred clipping | less than 1/2 | the distance | Karimireddy et al. 2021 |
//! | trust-weighted | less than 1/2, where the honest agree pair by pair | the direction; clipping bounds the length | RoDiLoCo; here with medians of cosines |
//!
//! Before a rule other than the mean looks at lengths and distances, *directions* are looked at
//! ([`crate::OuterSettings::direction`]): who points away from most of its round counts less or
//! nothing ([`trust`]). The trust-weighted rule is the mean of what that leaves. The table is
//! about the rules alone.
//!
//! [`Aggregator::breakdown_point`] is this column as a number. The trimmed mean's is one of a
//! coordinate's senders, whom an attacker can choose in sparse updates; the others' is one of
//! the round. A bound on the distance says little about the direction where honest updates
//! are nearly at right angles: the centre of a round is then shorter than the bound.
//!
//! What none of them sees: an update that lies where honest updates lie. That is found by
//! training its assignment again.

mod agreement;
mod centred_clipping;
mod copies;
mod geometric_median;
mod geometry;
mod sketch;
mod trimmed_mean;
mod trust;

use agreement::agreement;
use copies::Copies;
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
    /// Median of its cosines with the updates of the round, by weight, −1 to 1: above 0 where
    /// more than half of the weight, its own included, points its way. None if it says
    /// nothing or fewer than [`LEAST_TO_COMPARE`] different updates say anything, for then no
    /// majority can be told.
    pub agreement: Option<f32>,
    /// The running agreement of its worker, this update included. Without an agreement: the
    /// one from before if the update was weighed by it, else None.
    pub record: Option<f32>,
    /// What agreement and record must both reach for an update of this round to count in
    /// full; None where the rule does not ask.
    pub needed: Option<f32>,
    /// The other update that it is nearly the same as, and their cosine, if it is beyond
    /// [`TWIN_COSINE`].
    pub twin: Option<(usize, f32)>,
}

/// Different updates that a comparison needs.
pub const LEAST_TO_COMPARE: usize = 3;

/// Cosine above which two updates are taken for one. It is for copies, which the codecs
/// change a little, and not for updates that agree: two workers train different blocks, and
/// yet dense updates of the first rounds can have much in common.
pub const TWIN_COSINE: f32 = 0.99;

impl Aggregator {
    /// The part of a round's weight that may be hostile before the rule has nothing left to
    /// promise: it bears every part *below* this.
    pub fn breakdown_point(self) -> f32 {
        match self {
            Self::Mean => 0.0,
            Self::TrimmedMean { part } => part,
            Self::GeometricMedian | Self::CentredClipping | Self::TrustWeighted => 0.5,
        }
    }

    /// Weighs the updates of a round. `direction` is [`crate::OuterSettings::direction`],
    /// `shares` are their parts of its weight, `records` the running agreements of their
    /// workers, where there are any.
    pub(crate) fn weigh(
        self,
        direction: bool,
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
        let copies = Copies::among(&geometry, shares);
        copies.mark(&geometry, &mut regards);
        // A pile of copies pulls like one update.
        let counts = copies.counts(shares);
        if copies.spoken(&geometry) >= LEAST_TO_COMPARE {
            for (update, regard) in regards.iter_mut().enumerate() {
                let found = agreement(&geometry, &copies, &counts, update);
                regard.agreement = found.map(|found| found as f32);
                let found = regard.agreement;
                regard.record = found.map(|found| record(records[update], found));
            }
        }
        let directed = match self {
            Self::Mean => return regards,
            Self::TrustWeighted => true,
            _ => direction,
        };
        let weights = match directed {
            true => trust::coefficients(&geometry, &counts, records, &mut regards),
            false => counts.clone(),
        };
        let coefficients = match self {
            Self::GeometricMedian => geometric_median::coefficients(&geometry, &weights),
            Self::CentredClipping => centred_clipping::coefficients(&geometry, &weights),
            // The trimmed mean leaves out by coordinate, when values are summed.
            _ if directed => weights,
            _ => return regards,
        };
        let total: f64 = counts.iter().sum();
        for ((regard, coefficient), count) in regards.iter_mut().zip(coefficients).zip(&counts) {
            let most = if directed {
                trust::MOST_RAISED * count / total
            } else {
                1.0
            };
            regard.share = coefficient.min(most) as f32;
        }
        regards
    }
}
