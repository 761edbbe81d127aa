//! The trimmed mean of a coordinate (Yin et al. 2018, "Byzantine-Robust Distributed
//! Learning"), by weight instead of by count.

/// What an update sends to a coordinate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub value: f32,
    pub share: f32,
}

/// Lists, for each coordinate of a chunk, what was sent to it.
pub(crate) struct Trimmed {
    lists: Vec<Vec<Sent>>,
}

impl Trimmed {
    pub fn new(len: usize) -> Self {
        Self {
            lists: vec![Vec::new(); len],
        }
    }

    /// The lists of a chunk of `len` weights, empty.
    pub fn start(&mut self, len: usize) -> &mut [Vec<Sent>] {
        let lists = &mut self.lists[..len];
        lists.iter_mut().for_each(Vec::clear);
        lists
    }

    /// The trimmed mean of each coordinate.
    pub fn means(&mut self, part: f32, tau: f32, means: &mut [f32]) {
        for (mean, sent) in means.iter_mut().zip(&mut self.lists) {
            *mean = trimmed_mean(sent, part, tau);
        }
    }
}

/// The mean of what is sent, without `part` of the senders' weight at either end; held down,
/// as in the plain mean, where the senders have less weight than `tau`.
///
/// Zeros in place of those who send nothing were tried: where one in eight sends to a
/// coordinate, as in most sparse updates, they cut off all that is said.
fn trimmed_mean(sent: &mut [Sent], part: f32, tau: f32) -> f32 {
    let senders: f32 = sent.iter().map(|sent| sent.share).sum();
    if senders == 0.0 {
        return 0.0;
    }
    sent.sort_by(|a, b| a.value.total_cmp(&b.value));
    let (from, to) = (part * senders, senders - part * senders);
    let (mut at, mut sum) = (0f32, 0f32);
    for Sent { value, share } in sent {
        let inside = (at + *share).min(to) - at.max(from);
        sum += *value * inside.max(0.0);
        at += *share;
    }
    sum / (to - from) * (senders / senders.max(tau))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(sent: &[(f32, f32)], part: f32, tau: f32) -> f32 {
        let mut sent: Vec<Sent> = sent
            .iter()
            .map(|(value, share)| Sent {
                value: *value,
                share: *share,
            })
            .collect();
        trimmed_mean(&mut sent, part, tau)
    }

    #[test]
    fn the_ends_are_cut_by_weight() {
        let four = [(9.0, 0.25), (1.0, 0.25), (-100.0, 0.25), (3.0, 0.25)];
        assert_eq!(mean(&four, 0.25, 0.0), 2.0);
        // An eighth cuts half of each end: (-100/2 + 1 + 3 + 9/2) / 3.
        assert_eq!(mean(&four, 0.125, 0.0), (-50.0 + 4.0 + 4.5) / 3.0);
    }

    #[test]
    fn who_sends_alone_is_held_down_by_the_floor() {
        assert_eq!(mean(&[(8.0, 0.125)], 0.25, 0.5), 2.0);
        assert_eq!(mean(&[(8.0, 0.125)], 0.25, 0.0), 8.0);
        assert_eq!(mean(&[], 0.25, 0.5), 0.0);
    }
}
