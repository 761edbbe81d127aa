//! What goes over the network as JSON. Durations, never clock times; ids are integers.

use opengpu_rounds::standing::Level;
use opengpu_rounds::{
    AssignmentId, BlockRange, Commitment, FeedbackId, Hash, NodeId, Revision, RunId, WorkerId,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::RunSpec;
use crate::audits::AuditPlan;
use crate::standing::{NoWork, StandingPlan};

/// Version of this protocol; both sides name the range they speak at `hello`.
pub const VERSION: u32 = 1;

/// `POST /v1/hello`: which versions the caller speaks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest.
    pub oldest: u32,
    /// Newest.
    pub newest: u32,
    /// For example `opengpu 0.1.0`.
    pub software: String,
}

/// Answer to `hello`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The version both will speak.
    pub version: u32,
    /// For example `opengpu 0.1.0`.
    pub software: String,
    /// The coordinator's clock for signatures: milliseconds since 1970.
    pub unix_ms: u64,
}

/// `POST /v1/nodes` (not signed): a machine asks to take part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Enrol {
    /// Enrolment token; None: as far as the coordinator admits without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Ed25519 public key, 64 hexadecimal digits.
    pub public_key: Hash,
    /// What its owner calls it.
    pub name: String,
    /// What it is.
    pub machine: Machine,
}

/// What a machine is, as far as its owner's agent can see.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// For example `linux x86_64`.
    pub platform: String,
    /// Logical cores.
    pub cores: u32,
    /// Memory.
    pub memory_bytes: u64,
    /// Version of the agent.
    pub software: String,
}

/// Answer to `Enrol`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Enrolled {
    /// The node's lasting name.
    pub node: NodeId,
    /// Whether it gets no work until an operator approves it.
    #[serde(default)]
    pub pending: bool,
}

/// `PUT /v1/workers/{device}` (signed): a device of this node is ready to work.
/// Repeating it changes nothing but the description.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// The trainer's words, for example `burn-flex 0.1.0`.
    pub trainer: String,
    /// The trainer's words, for example `CPU (2 threads)`.
    pub device: String,
    /// Inside one class the same assignment gives the same bytes.
    pub numerics_class: String,
}

/// Answer to `Offer`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Offered {
    /// The device's worker, the same one every time.
    pub worker: WorkerId,
}

/// One line of `GET /v1/directives` (signed, newline-delimited JSON, never ends): all that
/// this node should be doing, whole, so that a lost line costs nothing. Sent at once, on
/// every change, and every few seconds as a sign of life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The node addressed.
    pub node: NodeId,
    /// Whether an operator is draining the node: finish, take nothing new.
    pub draining: bool,
    /// Whether the node gets no work until an operator approves it.
    #[serde(default)]
    pub pending: bool,
    /// How the node stands; older coordinators don't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<StandingPlan>,
    /// Why none of the runs that want workers takes the node, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_work: Option<NoWork>,
    /// One entry for each offered device.
    pub workers: Vec<WorkerPlan>,
}

/// What one worker should be doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerPlan {
    /// Which.
    pub worker: WorkerId,
    /// Its device on the node.
    pub device: u32,
    /// The run that it takes part in, if any.
    pub run: Option<RunPlan>,
}

/// A worker's part in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunPlan {
    /// Which run.
    pub run: RunId,
    /// Newest revision: fetch the merges up to it and apply them.
    pub revision: Revision,
    /// Digest of that revision.
    pub digest: Hash,
    /// Train this, unless an update for it was sent already.
    pub assignment: Option<AssignmentPlan>,
    /// What became of this worker's latest updates, oldest first (at most 16).
    pub verdicts: Vec<Verdict>,
    /// Chunks of this worker's audited updates that it is to open:
    /// `PUT /v1/runs/{run}/openings/{assignment}/{hash}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<Drawn>,
    /// Another worker's assignment that it is to train again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditPlan>,
}

/// Chunks that were drawn of an audited update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drawn {
    /// Of which update.
    pub assignment: AssignmentId,
    /// Which chunks, rising.
    pub chunks: Vec<u32>,
}

/// A lease as its worker sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AssignmentPlan {
    /// Which.
    pub assignment: AssignmentId,
    /// Which round of the run.
    pub round: u64,
    /// The weights to start from.
    pub base: Revision,
    /// The blocks, in order.
    pub blocks: Vec<BlockRange>,
    /// Time left to train when this line was sent; then finish the current block and report.
    pub remaining_ms: u64,
    /// Progress of the run (0 to 1) at the first step.
    pub progress_from: f64,
    /// Progress of the run when all blocks are done.
    pub progress_to: f64,
}

fn yes() -> bool {
    true
}

/// What became of an update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The update's assignment.
    pub assignment: AssignmentId,
    /// Whether an update was accepted for it. If not, and one was made, the worker's next update
    /// of a run that audits can't follow from that one.
    #[serde(default = "yes")]
    pub accepted: bool,
    /// What.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What became of an update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It waits for its merge.
    Waiting,
    /// It is in this revision, scaled by `factor`; the rest is added back to the feedback.
    Merged {
        /// Where.
        revision: Revision,
        /// 1 unless it was clipped.
        factor: f32,
        /// Why it counted less than its weight, for a person; None if it counted in full.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// It is in no merge and will be in none: all of it is added back to the feedback.
    NotMerged {
        /// Why, for a person.
        reason: String,
    },
}

/// `POST /v1/workers/{worker}/report` (signed), every few seconds: sign of life,
/// readiness, digest, speed and progress in one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The run this is about.
    pub run: RunId,
    /// The weights this worker holds.
    pub revision: Revision,
    /// Their digest.
    pub digest: Hash,
    /// The life of its error feedback.
    pub feedback: FeedbackId,
    /// Measured speed.
    pub blocks_per_second: f64,
    /// What it is doing.
    pub activity: Activity,
}

/// Digest in the reports of a worker that holds no weights yet: no weights have it. Such a
/// report is a sign of life; its revision means nothing.
pub const NO_WEIGHTS: Hash = Hash([0; 32]);

/// What a worker is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "activity", rename_all = "snake_case")]
pub enum Activity {
    /// Waiting for an assignment.
    Idle,
    /// Fetching data, weights or merges, or waiting for its trainer: to start, to try a GPU, to
    /// compile kernels.
    Preparing {
        /// For a person.
        what: String,
    },
    /// Training.
    Training {
        /// What.
        assignment: AssignmentId,
        /// Blocks done.
        blocks_done: u64,
        /// Recent training loss, nats per token.
        loss: f64,
        /// Speed.
        tokens_per_second: f64,
    },
    /// Compressing and sending an update.
    Sending {
        /// What.
        assignment: AssignmentId,
    },
}

/// Answer to `Report`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    /// The digest is not the coordinator's: fetch the weights again.
    pub resync: bool,
}

/// `POST /v1/runs/{run}/updates` (signed), after the payload was sent with
/// `PUT /v1/runs/{run}/payloads/{hash}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpdateNotice {
    /// Which worker.
    pub worker: WorkerId,
    /// Which assignment it answers.
    pub assignment: AssignmentId,
    /// The weights it started from.
    pub base: Revision,
    /// A prefix of the assignment's blocks.
    pub blocks_completed: u64,
    /// The payload.
    pub payload: Hash,
    /// Its size.
    pub payload_bytes: u64,
    /// The life of the error feedback it was taken from.
    pub feedback: FeedbackId,
    /// Mean training loss over the assignment.
    pub loss: f64,
    /// How long training took.
    pub train_seconds: f64,
    /// What the worker commits itself to, in a run that audits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commitment: Option<Commitment>,
    /// In which numerics class it was trained: in one class the same work gives the same bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numerics_class: Option<String>,
}

/// `GET /v1/runs/{run}/history?lineage=L&after=N` (signed or operator): how to get from one
/// revision to the newest. With `to=N` instead of `after`: how to make that revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The newest base checkpoint at or before the newest revision.
    pub checkpoint: CheckpointRef,
    /// Merges in order. Start at the revision asked for if all merges since are kept,
    /// else at the checkpoint's.
    pub merges: Vec<MergeRef>,
}

/// A base checkpoint: the blob is the flat weights, so its name is the digest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointRef {
    /// Which revision.
    pub revision: Revision,
    /// Blob and digest.
    pub weights: Hash,
}

/// A merge: subtract the blob from the revision before.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergeRef {
    /// The revision that it makes.
    pub revision: Revision,
    /// Blob.
    pub merge: Hash,
    /// Size of the blob.
    pub bytes: u64,
    /// Digest of the revision.
    pub digest: Hash,
}

/// `GET /v1/blobs/{hash}/manifest`: what verifies ranges as they arrive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlobManifest {
    /// Size of the whole.
    pub bytes: u64,
    /// BLAKE3 of each MiB, the last one shorter.
    pub chunks: Vec<Hash>,
}

/// A dataset: tokenised text cut in shards, each a blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetManifest {
    /// Unique per coordinator.
    pub name: String,
    /// Blob of `tokenizer.json`.
    pub tokenizer: Hash,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// 2 or 4.
    pub token_bytes: u8,
    /// The training part.
    pub training: TokenShards,
    /// The held-out part, never trained on and never seen by the tokenizer's training.
    pub held_out: TokenShards,
}

/// A stream of tokens in shards.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenShards {
    /// In order.
    pub shards: Vec<ShardRef>,
    /// In all shards together.
    pub tokens: u64,
    /// Bytes of the text.
    pub text_bytes: u64,
}

/// One shard.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardRef {
    /// Its blob.
    pub hash: Hash,
    /// Its size.
    pub bytes: u64,
}

/// `GET /v1/runs/{run}`: a run as its workers and watchers see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunView {
    /// Which.
    pub run: RunId,
    /// What was declared, complete: `model` is set.
    pub spec: RunSpec,
    /// Its data.
    pub dataset: DatasetManifest,
    /// Phase in one word, for example `training`.
    pub phase: String,
    /// Why it is in that phase or what it waits for, for a person.
    pub explanation: String,
    /// What of the coordinator's own work for the run failed and is tried again.
    #[serde(default)]
    pub trouble: Option<String>,
    /// Round in progress, or the number of rounds done.
    pub round: u64,
    /// Newest revision.
    pub revision: Revision,
    /// Its digest.
    pub digest: Hash,
    /// Accepted tokens.
    pub tokens: u64,
    /// Tokens that the merges of the live lineage counted, in a run of so many tokens; else 0.
    #[serde(default)]
    pub counted_tokens: u64,
    /// Tokens a second over the last rounds.
    pub tokens_per_second: f64,
    /// Bytes received in accepted payloads.
    pub upload_bytes: u64,
    /// Bytes of merges, once for each worker that was in the round.
    pub download_bytes: u64,
    /// Latest mean training loss, nats per token.
    pub training_loss: Option<f64>,
    /// Held-out losses.
    pub evaluations: Vec<Evaluation>,
    /// Why the newest revision has none, if it could not be measured.
    #[serde(default)]
    pub evaluation_problem: Option<String>,
    /// Workers that take part.
    pub workers: Vec<WorkerView>,
    /// The latest rounds, newest last (at most 200).
    pub rounds: Vec<RoundView>,
}

impl RunView {
    /// How much of the run is done, and how much there is: in counted tokens where the run file
    /// says how many, else in rounds.
    pub fn done(&self) -> (u64, u64) {
        match self.spec.round.total_tokens {
            0 => (self.revision.number, self.spec.round.rounds),
            tokens => (self.counted_tokens, tokens),
        }
    }
}

/// A held-out loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Of which revision.
    pub revision: Revision,
    /// Mean loss.
    pub nats_per_token: f64,
    /// Over all held-out text; None for a quick look at part of it.
    pub bits_per_byte: Option<f64>,
}

/// A worker of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Which.
    pub worker: WorkerId,
    /// On which node.
    pub node: NodeId,
    /// The node's name.
    pub name: String,
    /// Its device.
    pub device: String,
    /// What it does.
    pub activity: Option<Activity>,
    /// What it holds.
    pub revision: Option<Revision>,
    /// Digest of what it holds.
    pub digest: Option<Hash>,
    /// Measured.
    pub blocks_per_second: f64,
    /// Tokens of its accepted updates.
    pub credited_tokens: u64,
    /// Updates accepted.
    pub accepted: u64,
    /// Updates refused.
    pub refused: u64,
    /// The reason of the last refusal.
    pub last_refusal: Option<String>,
    /// How well its updates agreed with those of most others lately, −1 to 1; None until one
    /// was compared.
    #[serde(default)]
    pub record: Option<f64>,
    /// Why its newest merged update counted less than its weight; None if it counted in full.
    #[serde(default)]
    pub counted_less: Option<String>,
    /// Milliseconds since it was last heard of.
    pub silent_ms: u64,
}

/// A round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundView {
    /// Which.
    pub round: u64,
    /// What it made, once merged.
    pub revision: Option<Revision>,
    /// Assignments given.
    pub assigned: u32,
    /// Updates merged.
    pub merged: u32,
    /// Tokens of the merged updates.
    pub tokens: u64,
    /// Mean training loss of the merged updates.
    pub loss: Option<f64>,
    /// Loss of what it made on a few held-out sequences, the same in each round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_loss: Option<f64>,
    /// Bytes of the accepted payloads.
    pub upload_bytes: u64,
    /// Bytes of the merge.
    pub merge_bytes: u64,
    /// How long it took so far.
    pub duration_ms: u64,
    /// Why it closed, for a person.
    pub reason: String,
}

/// A node, for the operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Which.
    pub node: NodeId,
    /// What its owner calls it.
    pub name: String,
    /// `pending`, `active`, `draining`, `quarantined` or `banned`.
    pub state: String,
    /// `probation`, `trusted`, `suspect`, `quarantined` or `banned`.
    #[serde(default)]
    pub standing: Level,
    /// What is held against it, for a person.
    #[serde(default)]
    pub reason: Option<String>,
    /// Whether an appeal of its owner waits for an answer.
    #[serde(default)]
    pub appeals: bool,
    /// Whether an operator let it in: by a token, by approval, or by vouching for it.
    #[serde(default)]
    pub approved: bool,
    /// Whether an operator vouches for it.
    #[serde(default)]
    pub vouched: bool,
    /// Audits passed since it last failed one.
    #[serde(default)]
    pub audits_passed: u64,
    /// Audits failed, ever.
    #[serde(default)]
    pub audits_failed: u64,
    /// Whether its directive stream is open.
    pub connected: bool,
    /// Name of the account that it belongs to; None: nobody has claimed it.
    #[serde(default)]
    pub account: Option<String>,
    /// What it is.
    pub machine: Machine,
    /// Its workers.
    pub workers: Vec<WorkerId>,
    /// Tokens of its accepted updates.
    pub credited_tokens: u64,
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// For a program, for example `unknown_run`.
    pub code: String,
    /// For a person: what is wrong, with the number, and what mends it.
    pub message: String,
    /// What the check that refused measured, in its own unit, where it compares numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<u64>,
    /// What it would have allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<u64>,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn a_fraction_comes_through_json_to_the_last_bit() {
        // Found by fuzzing: read back as 6.5523103684598985e-127, its neighbour.
        let sent = Evaluation {
            revision: Revision {
                lineage: 0,
                number: 1,
            },
            nats_per_token: 6.552310368459899e-127,
            bits_per_byte: None,
        };
        let json = serde_json::to_string(&sent).unwrap();
        assert_eq!(serde_json::from_str::<Evaluation>(&json).unwrap(), sent);
    }
}
