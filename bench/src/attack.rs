//! What a hostile worker sends instead of its progress.
//!
//! All but the data poisoner see everything: the progress of every honest worker of the
//! round, before they send their own. That is more than a stranger can see, for only the
//! coordinator reads payloads.

use opengpu_merge::Layout;
use serde::{Deserialize, Serialize};

/// Hostile workers: the last ones of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hostile {
    /// How many.
    pub workers: u64,
    /// What they do.
    pub attack: Attack,
}

/// An attack. Progress is global minus local weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attack {
    /// Its own progress times −10.
    SignFlip,
    /// Gaussian noise, ten times as long as progress.
    Noise,
    /// "A little is enough" (Baruch et al. 2019): the honest mean minus 1.5 standard
    /// deviations in each coordinate.
    Little,
    /// Min-max (Shejwalkar and Houmansadr 2021): the honest mean minus as many standard
    /// deviations as leave it no farther from any honest update than two of them are apart.
    MinMax,
    /// Inner-product manipulation (Xie et al. 2019): minus half of the honest mean.
    InnerProduct,
    /// The progress of an honest worker, times 0.9: credit without work.
    Copy,
    /// Nothing at all.
    Zeros,
    /// Its own progress of the round before.
    Stale,
    /// Noise as long as progress.
    Random,
    /// Its own progress after a quarter of the steps, times 4.
    FewerSteps,
    /// Its own progress on other text: each token replaced by another.
    PoisonedData,
    /// Minus the honest mean, all the same, under a fresh identity each round.
    FreshIdentities,
    /// Its own progress, and a fixed direction of the same length in its error feedback.
    HiddenPoison,
}

/// All of them.
pub const ATTACKS: [Attack; 13] = [
    Attack::SignFlip,
    Attack::Noise,
    Attack::Little,
    Attack::MinMax,
    Attack::InnerProduct,
    Attack::Copy,
    Attack::Zeros,
    Attack::Stale,
    Attack::Random,
    Attack::FewerSteps,
    Attack::PoisonedData,
    Attack::FreshIdentities,
    Attack::HiddenPoison,
];

impl Attack {
    /// Part of its steps that it trains.
    pub fn effort(self) -> f64 {
        match self {
            Self::FewerSteps => 0.25,
            _ => 1.0,
        }
    }

    /// Whether its worker comes under another name each round.
    pub fn is_fresh(self) -> bool {
        self == Self::FreshIdentities
    }

    /// What it sends for progress. `own` is what its worker made this round, `before` the
    /// round before, `honest` what each honest worker made; `seed` decides all draws.
    pub fn forge(
        self,
        layout: &Layout,
        own: &[f32],
        before: &[f32],
        honest: &[&[f32]],
        seed: u64,
    ) -> Vec<f32> {
        let scaled = |values: &[f32], factor: f32| -> Vec<f32> {
            values.iter().map(|value| value * factor).collect()
        };
        match self {
            Self::SignFlip => scaled(own, -10.0),
            Self::Noise => noise(layout, own, 10.0, seed),
            Self::Random => noise(layout, own, 1.0, seed),
            Self::Little => away(&mean(honest), &deviation(honest), 1.5),
            Self::MinMax => min_max(honest),
            Self::InnerProduct => scaled(&mean(honest), -0.5),
            Self::Copy => scaled(honest[0], 0.9),
            Self::Zeros => vec![0.0; own.len()],
            Self::Stale => before.to_vec(),
            Self::FewerSteps => scaled(own, 4.0),
            Self::PoisonedData => own.to_vec(),
            Self::FreshIdentities => scaled(&mean(honest), -1.0),
            Self::HiddenPoison => {
                // The same direction every round: it adds up.
                let poison = noise(layout, own, 1.0, 0);
                own.iter().zip(poison).map(|(own, p)| own + p).collect()
            }
        }
    }
}

fn mean(updates: &[&[f32]]) -> Vec<f32> {
    let mut mean = vec![0f32; updates[0].len()];
    for update in updates {
        mean.iter_mut().zip(*update).for_each(|(m, u)| *m += u);
    }
    mean.iter_mut().for_each(|m| *m /= updates.len() as f32);
    mean
}

fn deviation(updates: &[&[f32]]) -> Vec<f32> {
    let mean = mean(updates);
    let mut squares = vec![0f32; mean.len()];
    for update in updates {
        for ((square, m), u) in squares.iter_mut().zip(&mean).zip(*update) {
            *square += (u - m) * (u - m);
        }
    }
    let count = updates.len() as f32;
    squares
        .iter()
        .map(|square| (square / count).sqrt())
        .collect()
}

fn away(mean: &[f32], deviation: &[f32], times: f32) -> Vec<f32> {
    let pairs = mean.iter().zip(deviation);
    pairs.map(|(m, d)| m - times * d).collect()
}

fn min_max(honest: &[&[f32]]) -> Vec<f32> {
    let apart = |a: &[f32], b: &[f32]| -> f64 {
        let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let pairs = honest
        .iter()
        .flat_map(|a| honest.iter().map(|b| apart(a, b)));
    let most = pairs.fold(0.0, f64::max);
    let (mean, deviation) = (mean(honest), deviation(honest));
    let fits = |times: f32| {
        let forged = away(&mean, &deviation, times);
        honest.iter().all(|update| apart(&forged, update) <= most)
    };
    let (mut low, mut high) = (0f32, 100f32);
    for _ in 0..30 {
        let middle = 0.5 * (low + high);
        if fits(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    away(&mean, &deviation, low)
}

/// Gaussian noise, in each tensor `times` as long as `like`.
fn noise(layout: &Layout, like: &[f32], times: f64, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = move || {
        // SplitMix64 (Steele et al. 2014).
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    // Box and Muller 1958.
    let mut normal = move || {
        let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * uniform()).cos()
    };
    let mut values = Vec::with_capacity(like.len());
    for &len in layout.tensors() {
        let part = &like[values.len()..values.len() + len];
        let square: f64 = part.iter().map(|v| f64::from(*v).powi(2)).sum();
        let scale = times * (square / len.max(1) as f64).sqrt();
        values.extend((0..len).map(|_| (scale * normal()) as f32));
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn honest() -> Vec<Vec<f32>> {
        let layout = Layout::new([400]);
        let shared = noise(&layout, &[1.0; 400], 1.0, 1);
        let with_noise = |seed| {
            let own = noise(&layout, &[1.0; 400], 1.0, seed);
            shared.iter().zip(own).map(|(s, o)| s + o).collect()
        };
        (10..16).map(with_noise).collect()
    }

    fn length(values: &[f32]) -> f64 {
        values
            .iter()
            .map(|v| f64::from(*v).powi(2))
            .sum::<f64>()
            .sqrt()
    }

    #[test]
    fn min_max_is_as_far_from_the_honest_as_two_of_them_are_apart() {
        let honest = honest();
        let views: Vec<&[f32]> = honest.iter().map(Vec::as_slice).collect();
        let forged = min_max(&views);
        let apart = |a: &[f32], b: &[f32]| {
            let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
            length(&difference)
        };
        let farthest = views.iter().map(|u| apart(&forged, u)).fold(0.0, f64::max);
        let pairs = views.iter().flat_map(|a| views.iter().map(|b| apart(a, b)));
        let most = pairs.fold(0.0, f64::max);
        assert!(
            farthest <= most && farthest > 0.999 * most,
            "{farthest} {most}"
        );
    }

    #[test]
    fn noise_is_as_long_as_it_should_be_and_the_same_for_a_seed() {
        let layout = Layout::new([300, 0, 100]);
        let like = [vec![1.0; 300], vec![5.0; 100]].concat();
        let made = noise(&layout, &like, 2.0, 7);
        assert_eq!(made, noise(&layout, &like, 2.0, 7));
        assert_ne!(made, noise(&layout, &like, 2.0, 8));
        for part in [0..300, 300..400] {
            let ratio = length(&made[part.clone()]) / length(&like[part]);
            assert!((1.6..2.4).contains(&ratio), "{ratio}");
        }
    }

    #[test]
    fn every_attack_but_those_that_work_says_something_else_than_its_own_progress() {
        let honest = honest();
        let views: Vec<&[f32]> = honest[1..].iter().map(Vec::as_slice).collect();
        let layout = Layout::new([400]);
        for attack in ATTACKS {
            let forged = attack.forge(&layout, &honest[0], &honest[1], &views, 3);
            let works = attack == Attack::PoisonedData;
            assert_eq!(forged == honest[0], works, "{attack:?}");
            assert!(forged.iter().all(|value| value.is_finite()));
        }
    }
}
