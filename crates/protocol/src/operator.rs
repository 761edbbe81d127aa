//! Bodies of the operator's requests (`Authorization: Bearer`, the token in the file
//! `operator.token` of the coordinator's home) that are not already in [`wire`](crate::wire).

use opengpu_rounds::{Event, Hash, Revision};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /v1/runs/{run}/rollback`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// A checkpointed revision of the live lineage.
    pub to: Revision,
}

/// Answer to `POST /v1/runs/{run}/export`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Exported {
    /// The Hugging Face folder on the coordinator's machine.
    pub path: String,
    /// What lies in it, the manifest last.
    pub files: Vec<ExportedFile>,
}

/// A file of an export.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExportedFile {
    /// Its name, without a folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// The blob with its contents, for as long as a download takes, if it was asked for.
    #[schema(value_type = String)]
    pub blake3: Hash,
}

/// `POST /v1/runs/{run}/sample`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SampleRequest {
    /// What comes before.
    pub prompt: String,
    /// How many tokens to add.
    pub max_tokens: usize,
    /// 0: always the most likely token.
    pub temperature: f64,
    /// Decides every draw.
    #[serde(default)]
    pub seed: u64,
}

/// Answer to [`SampleRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sampled {
    /// The continuation only.
    pub text: String,
}

/// `POST /v1/tokens`: make an enrolment token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// For people.
    pub label: String,
    /// How many machines may enrol with it.
    pub uses: u32,
    /// After how long it admits nobody any more; None: never.
    #[serde(default)]
    pub expires_in_seconds: Option<u64>,
}

/// Answer to [`TokenRequest`]; the only time the token is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TokenMade {
    /// For `opengpu join`.
    pub token: String,
    /// Its BLAKE3 hash, by which it is listed and revoked.
    #[schema(value_type = String)]
    pub hash: Hash,
}

/// One entry of `GET /v1/tokens`. The token itself is kept nowhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// BLAKE3 of the token.
    #[schema(value_type = String)]
    pub hash: Hash,
    /// For people.
    pub label: String,
    /// Whether it admits anyone.
    pub state: TokenState,
    /// How many machines it admits; None: any number.
    pub uses: Option<u64>,
    /// How many it has admitted.
    pub used: u64,
    /// How long ago it was made.
    pub age_seconds: u64,
    /// How long it will admit; None: for ever.
    pub expires_in_seconds: Option<u64>,
}

/// Whether a token admits anyone, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenState {
    /// It admits.
    Open,
    /// It has admitted as many machines as it may.
    UsedUp,
    /// Its time is over.
    Expired,
    /// An operator took it back.
    Revoked,
}

impl TokenState {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::UsedUp => "used up",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// One entry of `GET /v1/runs/{run}/log?after=`, which answers with a list of them, oldest
/// first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Gapless within the run, from 1.
    pub sequence: u64,
    /// The decision.
    pub event: Event,
}

/// What an operator can tell a run: `POST /v1/runs/{run}/{action}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunAction {
    /// From Draft to Forming.
    Start,
    /// Stop training for a while.
    Pause,
    /// Go on.
    Resume,
    /// Finish early.
    Stop,
}

impl RunAction {
    /// As in the path.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Stop => "stop",
        }
    }
}

/// What an operator can do with a node: `POST /v1/nodes/{id}/{action}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeAction {
    /// Let in one that waits for approval.
    Approve,
    /// Finish what it holds, give it nothing new.
    Drain,
    /// Take part in nothing, until restored.
    Quarantine,
    /// Refuse its requests.
    Ban,
    /// Active again.
    Restore,
    /// Trust it as the operator's own: its updates need not pass audits first.
    Vouch,
    /// Not any more.
    Distrust,
}

impl NodeAction {
    /// All there are.
    pub const ALL: [Self; 7] = [
        Self::Approve,
        Self::Drain,
        Self::Quarantine,
        Self::Ban,
        Self::Restore,
        Self::Vouch,
        Self::Distrust,
    ];

    /// The action with this word.
    pub fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == word)
    }

    /// As in the path.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Drain => "drain",
            Self::Quarantine => "quarantine",
            Self::Ban => "ban",
            Self::Restore => "restore",
            Self::Vouch => "vouch",
            Self::Distrust => "distrust",
        }
    }
}
