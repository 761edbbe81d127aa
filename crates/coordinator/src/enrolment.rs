//! Whom an installation takes in: a setting of its operator, decided here and nowhere else.

use std::{fmt, str::FromStr};

use opengpu_rounds::Hash;
use serde::{Deserialize, Serialize};

use crate::store::{Admission, Admitted, NodeState};

/// Who may enrol. A token that was given must be good under every policy, and then admits at
/// once: who made it has decided already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnrolmentPolicy {
    /// Who has a token.
    #[default]
    Invite,
    /// Anyone.
    Open,
    /// Anyone; who comes without a token gets no work until an operator approves it.
    Approval,
}

impl EnrolmentPolicy {
    /// As it is written in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invite => "invite",
            Self::Open => "open",
            Self::Approval => "approval",
        }
    }

    /// On what a machine with this token is admitted; None: not without one.
    pub(crate) fn admission(self, token: Option<&str>) -> Option<Admission> {
        match (token, self) {
            (Some(token), _) => Some(Admission::Token(Hash::of(token.as_bytes()))),
            (None, Self::Invite) => None,
            (None, Self::Open) => Some(Admission::Without(NodeState::Active)),
            (None, Self::Approval) => Some(Admission::Without(NodeState::Pending)),
        }
    }

    /// Whether an operator has let in a node that came in like this. Of those from before that
    /// was remembered: yes, unless the installation lets anyone in.
    pub(crate) fn has_approved(self, admitted: Admitted) -> bool {
        match admitted {
            Admitted::Token | Admitted::Approval => true,
            Admitted::Before => self != Self::Open,
            Admitted::Open => false,
        }
    }
}

impl fmt::Display for EnrolmentPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no policy.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no enrolment policy; they are invite, open and approval")]
pub struct UnknownPolicy(String);

impl FromStr for EnrolmentPolicy {
    type Err = UnknownPolicy;
    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        [Self::Invite, Self::Open, Self::Approval]
            .into_iter()
            .find(|policy| policy.as_str() == text)
            .ok_or_else(|| UnknownPolicy(text.to_owned()))
    }
}
