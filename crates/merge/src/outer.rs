//! What the coordinator keeps from merge to merge, and by which rules it merges.

use crate::encode::first_beyond;
use crate::{Aggregator, Codec, Layout, MergeError, StateError};

/// No value of state or weights may be beyond this. With it, with the limit of 2^64 on
/// decoded values and with the limits on settings, no arithmetic of a merge can overflow.
pub(crate) const MAX_STATE: f32 = 1.267_650_6e30; // 2^100

/// How the updates of a round become a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OuterSettings {
    /// How the merge is compressed.
    pub down: Codec,
    /// Decay of the coordinator's error feedback, once a merge; 0 to 1.
    pub down_feedback_decay: f32,
    /// Floor of a coordinate's denominator, as a part of the round's weight; 0 to 1.
    pub tau: f32,
    /// Outer learning rate; 0 to 1000.
    pub outer_rate: f32,
    /// Outer momentum (0: plain SGD), below 1.
    pub outer_momentum: f32,
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// Whether each tensor of an update is clipped to the round's median norm.
    pub clip_to_median_norm: bool,
    /// How the updates are weighed against each other.
    pub aggregator: Aggregator,
    /// Whether updates that point away from most of their round count less or nothing, before
    /// the aggregator looks at what is left. The mean never asks, the trust-weighted one always.
    pub direction: bool,
}

impl OuterSettings {
    /// Refuses settings out of range, with the number.
    pub fn check(&self) -> Result<(), MergeError> {
        let bad = |setting, found: f32, allowed| {
            Err(MergeError::BadSetting {
                setting,
                found: found.to_string(),
                allowed,
            })
        };
        if !(0.0..=1.0).contains(&self.down_feedback_decay) {
            return bad("down_feedback_decay", self.down_feedback_decay, "0 to 1");
        }
        if !(0.0..=1.0).contains(&self.tau) {
            return bad("tau", self.tau, "0 to 1");
        }
        if !(0.0..=1000.0).contains(&self.outer_rate) {
            return bad("outer_rate", self.outer_rate, "0 to 1000");
        }
        if !(0.0..=0.999).contains(&self.outer_momentum) {
            return bad("outer_momentum", self.outer_momentum, "0 to 0.999");
        }
        if let Aggregator::TrimmedMean { part } = self.aggregator
            && !(part > 0.0 && part < 0.5)
        {
            return bad("part of the trimmed mean", part, "above 0 and below 0.5");
        }
        match self.down {
            Codec::Sparse { k } if !self.down.is_valid() => {
                bad("k of the down codec", k.into(), "1 to 4096")
            }
            _ => Ok(()),
        }
    }
}

/// The coordinator's memory between merges: state of a revision, as the weights are.
#[derive(Clone, Debug, PartialEq)]
pub struct OuterState {
    /// What earlier merges left out.
    pub feedback: Vec<f32>,
    /// The outer optimiser's momentum; empty if there is none.
    pub momentum: Vec<f32>,
}

/// Magic and version, whether there is momentum, number of weights, the layout's
/// fingerprint; then feedback and momentum as little-endian float32.
const HEADER: usize = 24;
const MAGIC: [u8; 7] = *b"OGOUTR\x01";

impl OuterState {
    /// The state before the first merge.
    pub fn new(layout: &Layout, settings: &OuterSettings) -> Self {
        let momentum = if settings.outer_momentum == 0.0 {
            0
        } else {
            layout.len()
        };
        Self {
            feedback: vec![0.0; layout.len()],
            momentum: vec![0.0; momentum],
        }
    }

    /// The state as bytes, for a checkpoint.
    pub fn to_bytes(&self, layout: &Layout) -> Vec<u8> {
        let values = self.feedback.len() + self.momentum.len();
        let mut bytes = Vec::with_capacity(HEADER + 4 * values);
        bytes.extend_from_slice(&MAGIC);
        bytes.push(u8::from(!self.momentum.is_empty()));
        bytes.extend_from_slice(&(layout.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&layout.fingerprint());
        for value in self.feedback.iter().chain(&self.momentum) {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// Reads a state; it must be of this model and have momentum if the settings do.
    pub fn from_bytes(
        layout: &Layout,
        settings: &OuterSettings,
        bytes: &[u8],
    ) -> Result<Self, StateError> {
        let Some((header, values)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(StateError::NotAState);
        };
        if header[..7] != MAGIC || header[7] > 1 {
            return Err(StateError::NotAState);
        }
        if header[8..16] != (layout.len() as u64).to_le_bytes()
            || header[16..] != layout.fingerprint()
        {
            return Err(StateError::WrongLayout);
        }
        let has_momentum = settings.outer_momentum != 0.0;
        let vectors = 1 + usize::from(has_momentum);
        let expected = HEADER + 4 * layout.len() * vectors;
        if bytes.len() != expected || header[7] != u8::from(has_momentum) {
            return Err(StateError::WrongLength {
                expected,
                got: bytes.len(),
            });
        }
        let read = |bytes: &[u8]| -> Vec<f32> {
            bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect()
        };
        let (feedback, momentum) = values.split_at(4 * layout.len());
        let state = Self {
            feedback: read(feedback),
            momentum: read(momentum),
        };
        match state.first_bad() {
            Some((_, index)) => Err(StateError::NotFinite { index }),
            None => Ok(state),
        }
    }

    /// Refuses a state that is not of this model and these settings.
    pub(crate) fn check(
        &self,
        layout: &Layout,
        settings: &OuterSettings,
    ) -> Result<(), MergeError> {
        let wrong = |what, expected, got| {
            Err(MergeError::WrongLength {
                what,
                expected,
                got,
            })
        };
        if self.feedback.len() != layout.len() {
            return wrong("feedback", layout.len(), self.feedback.len());
        }
        let momentum = if settings.outer_momentum == 0.0 {
            0
        } else {
            layout.len()
        };
        if self.momentum.len() != momentum {
            return wrong("momentum", momentum, self.momentum.len());
        }
        match self.first_bad() {
            Some((what, index)) => Err(MergeError::NotFinite { what, index }),
            None => Ok(()),
        }
    }

    fn first_bad(&self) -> Option<(&'static str, usize)> {
        let bad = |what, values: &[f32]| first_beyond(values, MAX_STATE).map(|at| (what, at));
        bad("feedback", &self.feedback).or_else(|| bad("momentum", &self.momentum))
    }
}
