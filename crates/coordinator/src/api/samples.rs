//! One value of each type that goes over the wire, for the OpenAPI document.

use opengpu_protocol::audits::{AuditDeclined, AuditPlan};
use opengpu_protocol::identity::{
    AccountRequest, AccountView, AddKey, Claim, ClaimCode, KeyView, TeamRequest,
};
use opengpu_protocol::ledger::{LedgerHead, LedgerProof, LedgerSum, SumsRebuilt};
use opengpu_protocol::operator::{
    Exported, ExportedFile, LogEntry, RollbackRequest, SampleRequest, Sampled, TokenMade,
    TokenRequest, TokenState, TokenView,
};
use opengpu_protocol::standing::{
    ActionReason, Against, AppealOutcome, AppealRequest, AppealView, ChangeView, Evidence, NoWork,
    ReviewRequest, StandingPlan, StandingView,
};
use opengpu_protocol::wire::{
    Activity, AssignmentPlan, BlobManifest, CheckpointRef, DatasetManifest, Drawn, Enrol, Enrolled,
    ErrorBody, Evaluation, Hello, History, Machine, MergeRef, NodeView, Offer, Offered, Outcome,
    Plan, Report, Reported, RoundView, RunPlan, RunView, ShardRef, TokenShards, UpdateNotice,
    Verdict, Welcome, WorkerPlan, WorkerView,
};
use opengpu_protocol::{RunSpec, SyncSettings, TrustSettings};
use opengpu_rounds::standing::{Cause, Level};
use opengpu_rounds::{
    AssignmentId, BlockRange, Commitment, Event, EventKind, FeedbackId, Hash, NodeId, Revision,
    RoundSettings, RunId, WorkerId,
};
use opengpu_trainer_protocol::{InnerSettings, ModelConfig};
use serde::Serialize;
use serde_json::Value;

const REVISION: Revision = Revision {
    lineage: 0,
    number: 3,
};
const HASH: Hash = Hash([7; 32]);

/// Every type by its name.
pub fn all() -> Vec<(&'static str, Value)> {
    let mut all = agent();
    all.extend(operator());
    all.extend(identity());
    all.extend(sums());
    all.extend(standing());
    all
}

fn sums() -> Vec<(&'static str, Value)> {
    vec![
        (
            "LedgerSum",
            value(LedgerSum {
                of: Some("2026-11-22".into()),
                tokens: 65_536,
                megaflops: 9_830_400,
                accepted: 4,
                rejected: 1,
                audits_passed: 1,
                audits_failed: 0,
                audits_undecided: 0,
                corrections: 0,
                trained_again: 0,
            }),
        ),
        (
            "SumsRebuilt",
            value(SumsRebuilt {
                lines: 5,
                differed: 0,
            }),
        ),
    ]
}

/// A sample that can't be written would show as an empty schema, which the tests refuse.
fn value(sample: impl Serialize) -> Value {
    serde_json::to_value(sample).unwrap_or_default()
}

fn agent() -> Vec<(&'static str, Value)> {
    let verdict = Verdict {
        assignment: AssignmentId(8),
        accepted: true,
        outcome: Outcome::Merged {
            revision: REVISION,
            factor: 1.0,
            reason: Some("it counted 40 % of its weight: …".into()),
        },
    };
    let plan = Plan {
        node: NodeId(1),
        draining: false,
        pending: false,
        standing: Some(StandingPlan {
            standing: Level::Suspect,
            against: Some(Against {
                change: 4,
                code: "not_opened".into(),
                reason: "the chunks that were drawn of it were not opened within 90 s".into(),
                reversed: false,
                appeal: Some(AppealOutcome::Upheld),
                note: Some("twice in a week".into()),
            }),
        }),
        no_work: Some(NoWork {
            code: "trusted_only".into(),
            message: "run 1 takes only nodes that passed 3 audits lately, …".into(),
        }),
        workers: vec![WorkerPlan {
            worker: WorkerId(1),
            device: 0,
            run: Some(RunPlan {
                run: RunId(1),
                revision: REVISION,
                digest: HASH,
                assignment: Some(AssignmentPlan {
                    assignment: AssignmentId(9),
                    round: 3,
                    base: REVISION,
                    blocks: vec![BlockRange { start: 20, end: 40 }],
                    remaining_ms: 20_000,
                    progress_from: 0.03,
                    progress_to: 0.04,
                }),
                verdicts: vec![verdict.clone()],
                open: vec![Drawn {
                    assignment: AssignmentId(8),
                    chunks: vec![0, 17],
                }],
                audit: Some(AuditPlan {
                    number: 4_503_599_627_370_497,
                    base: REVISION,
                    digest: HASH,
                    blocks: vec![BlockRange { start: 60, end: 80 }],
                    blocks_completed: 18,
                    progress_from: 0.03,
                    progress_to: 0.04,
                    chunks: vec![3, 11],
                }),
            }),
        }],
    };
    vec![
        (
            "ErrorBody",
            value(ErrorBody {
                code: "too_many_blocks".into(),
                message: "assignment 3 has 8 blocks, not 9".into(),
                measured: Some(9),
                allowed: Some(8),
            }),
        ),
        (
            "Hello",
            value(Hello {
                oldest: 1,
                newest: 1,
                software: "opengpu 0.1.0".into(),
            }),
        ),
        (
            "Welcome",
            value(Welcome {
                version: 1,
                software: "opengpu 0.1.0".into(),
                unix_ms: 1_700_000_000_000,
            }),
        ),
        (
            "Enrol",
            value(Enrol {
                token: Some("64 hexadecimal digits".into()),
                public_key: HASH,
                name: "attic".into(),
                machine: machine(),
            }),
        ),
        (
            "Enrolled",
            value(Enrolled {
                node: NodeId(1),
                pending: false,
            }),
        ),
        (
            "Offer",
            value(Offer {
                trainer: "burn-flex 0.1.0".into(),
                device: "CPU (2 threads)".into(),
                numerics_class: "burn-flex-x86_64".into(),
            }),
        ),
        (
            "Offered",
            value(Offered {
                worker: WorkerId(1),
            }),
        ),
        ("Plan", value(plan)),
        (
            "Report",
            value(Report {
                run: RunId(1),
                revision: REVISION,
                digest: HASH,
                feedback: FeedbackId(77),
                blocks_per_second: 1.5,
                activity: Activity::Training {
                    assignment: AssignmentId(9),
                    blocks_done: 4,
                    loss: 3.25,
                    tokens_per_second: 1500.5,
                },
            }),
        ),
        ("Reported", value(Reported { resync: false })),
        (
            "UpdateNotice",
            value(UpdateNotice {
                worker: WorkerId(1),
                assignment: AssignmentId(9),
                base: REVISION,
                blocks_completed: 20,
                payload: HASH,
                payload_bytes: 12_345,
                feedback: FeedbackId(77),
                loss: 3.25,
                train_seconds: 14.5,
                commitment: Some(Commitment {
                    root: HASH,
                    previous: Some(AssignmentId(7)),
                    taken_back: vec![AssignmentId(7)],
                }),
                numerics_class: Some(
                    "opengpu 0.1.0 linux x86_64 avx2 threads 2 float32 micro-batch 8".into(),
                ),
            }),
        ),
        (
            "AuditDeclined",
            value(AuditDeclined {
                reason: "there is too little memory for the weights it starts from".into(),
            }),
        ),
        ("Verdict", value(verdict)),
        (
            "History",
            value(History {
                checkpoint: CheckpointRef {
                    revision: REVISION,
                    weights: HASH,
                },
                merges: vec![MergeRef {
                    revision: REVISION,
                    merge: HASH,
                    bytes: 99,
                    digest: HASH,
                }],
            }),
        ),
        (
            "BlobManifest",
            value(BlobManifest {
                bytes: 1_048_577,
                chunks: vec![HASH, HASH],
            }),
        ),
    ]
}

fn operator() -> Vec<(&'static str, Value)> {
    vec![
        ("RunSpec", value(spec())),
        ("RunView", value(run_view())),
        ("DatasetManifest", value(dataset())),
        (
            "LedgerHead",
            value(LedgerHead {
                entries: 11,
                head: "opengpu.example/run/7\n11\nJ/N5q…=\n\n— opengpu.example/run/7 EYbb…=\n"
                    .into(),
                key: "opengpu.example/run/7+1186db50+AepK…".into(),
            }),
        ),
        (
            "LedgerProof",
            value(LedgerProof {
                head: "opengpu.example/run/7\n11\nJ/N5q…=\n\n— opengpu.example/run/7 EYbb…=\n"
                    .into(),
                proof: vec!["mg0VbAccL8nEW42Z5UzI6BRpYGM6fAOEPBiEj+V70YU=".into()],
            }),
        ),
        (
            "NodeView",
            value(NodeView {
                node: NodeId(1),
                name: "attic".into(),
                state: "active".into(),
                standing: Level::Suspect,
                reason: Some("the chunks that were drawn of it were not opened".into()),
                appeals: true,
                approved: true,
                vouched: false,
                audits_passed: 12,
                audits_failed: 0,
                connected: true,
                account: Some("alice".into()),
                machine: machine(),
                workers: vec![WorkerId(1)],
                credited_tokens: 4096,
            }),
        ),
        ("RollbackRequest", value(RollbackRequest { to: REVISION })),
        (
            "Exported",
            value(Exported {
                path: "/home/me/.local/share/opengpu/exports/first-r100".into(),
                files: vec![ExportedFile {
                    name: "model.safetensors".into(),
                    bytes: 4_194_304,
                    blake3: HASH,
                }],
            }),
        ),
        (
            "SampleRequest",
            value(SampleRequest {
                prompt: "Once".into(),
                max_tokens: 50,
                temperature: 0.8,
                seed: 1,
            }),
        ),
        (
            "Sampled",
            value(Sampled {
                text: " upon a time".into(),
            }),
        ),
        (
            "TokenRequest",
            value(TokenRequest {
                label: "friends".into(),
                uses: 5,
                expires_in_seconds: Some(604_800),
            }),
        ),
        (
            "TokenMade",
            value(TokenMade {
                token: "64 hexadecimal digits".into(),
                hash: HASH,
            }),
        ),
        (
            "TokenView",
            value(TokenView {
                hash: HASH,
                label: "friends".into(),
                state: TokenState::Open,
                uses: Some(5),
                used: 2,
                age_seconds: 86_400,
                expires_in_seconds: Some(518_400),
            }),
        ),
        (
            "LogEntry",
            value(LogEntry {
                sequence: 2,
                event: Event {
                    at_ms: 15,
                    kind: EventKind::Paused {
                        reason: "the operator asked".into(),
                    },
                },
            }),
        ),
    ]
}

fn identity() -> Vec<(&'static str, Value)> {
    vec![
        (
            "AddKey",
            value(AddKey {
                public_key: HASH,
                proof: "128 hexadecimal digits".into(),
            }),
        ),
        (
            "KeyView",
            value(KeyView {
                public_key: HASH,
                age_seconds: 86_400,
                revoked: false,
            }),
        ),
        (
            "AccountRequest",
            value(AccountRequest {
                name: "alice".into(),
                team: Some("physics".into()),
            }),
        ),
        (
            "TeamRequest",
            value(TeamRequest {
                team: Some("physics".into()),
            }),
        ),
        (
            "AccountView",
            value(AccountView {
                account: 1,
                name: "alice".into(),
                team: Some("physics".into()),
                nodes: vec![NodeId(1)],
                age_seconds: 86_400,
            }),
        ),
        (
            "ClaimCode",
            value(ClaimCode {
                code: "K7Q0M1TB".into(),
                expires_in_seconds: 900,
            }),
        ),
        (
            "Claim",
            value(Claim {
                code: "K7Q0-M1TB".into(),
                account: "alice".into(),
            }),
        ),
    ]
}

fn standing() -> Vec<(&'static str, Value)> {
    let change = ChangeView {
        change: 4,
        age_seconds: 3600,
        from: Level::Trusted,
        to: Level::Quarantined,
        cause: Cause::Proof,
        by: "coordinator".into(),
        code: "progress_differs".into(),
        reason: "its progress differs from what training its assignment again gives: …".into(),
        evidence: Some(Evidence {
            run: RunId(1),
            assignment: Some(AssignmentId(9)),
            round: Some(3),
            measured: Some(0.52),
            allowed: Some(0.07),
            entry: Some(17),
        }),
        reversed_by: Some(5),
        appeal: Some(AppealView {
            text: "the memory was bad; it is replaced".into(),
            age_seconds: 1800,
            outcome: AppealOutcome::Reversed,
            note: Some("seen".into()),
        }),
    };
    vec![
        (
            "StandingView",
            value(StandingView {
                node: NodeId(1),
                standing: Level::Quarantined,
                changes: vec![change],
            }),
        ),
        (
            "AppealRequest",
            value(AppealRequest {
                change: Some(4),
                text: "the memory was bad; it is replaced".into(),
            }),
        ),
        (
            "ReviewRequest",
            value(ReviewRequest {
                change: Some(4),
                reverse: true,
                note: "seen".into(),
            }),
        ),
        (
            "ActionReason",
            value(ActionReason {
                reason: Some("it sends nonsense".into()),
            }),
        ),
    ]
}

fn machine() -> Machine {
    Machine {
        platform: "linux x86_64".into(),
        cores: 8,
        memory_bytes: 16 << 30,
        software: "opengpu 0.1.0".into(),
    }
}

fn spec() -> RunSpec {
    RunSpec {
        name: "first".into(),
        dataset: "books".into(),
        seed: 1,
        preset: Some("nano".into()),
        model: ModelConfig::preset("nano"),
        block_sequences: 8,
        round: RoundSettings::default(),
        inner: InnerSettings::default(),
        sync: SyncSettings::default(),
        trust: TrustSettings::default(),
        evaluate_every: 5,
        checkpoint_every: 10,
    }
}

fn dataset() -> DatasetManifest {
    let part = TokenShards {
        shards: vec![ShardRef {
            hash: HASH,
            bytes: 2000,
        }],
        tokens: 1000,
        text_bytes: 3500,
    };
    DatasetManifest {
        name: "books".into(),
        tokenizer: HASH,
        vocab_size: 1024,
        token_bytes: 2,
        training: part.clone(),
        held_out: part,
    }
}

fn run_view() -> RunView {
    RunView {
        run: RunId(1),
        spec: spec(),
        dataset: dataset(),
        phase: "training".into(),
        explanation: "round 3 trains for another 12 s".into(),
        trouble: Some("merging failed and is tried again: no space left on device".into()),
        round: 3,
        revision: REVISION,
        digest: HASH,
        tokens: 65_536,
        counted_tokens: 0,
        tokens_per_second: 1500.5,
        upload_bytes: 100_000,
        download_bytes: 300_000,
        training_loss: Some(3.25),
        evaluations: vec![Evaluation {
            revision: REVISION,
            nats_per_token: 3.25,
            bits_per_byte: Some(2.25),
        }],
        evaluation_problem: Some("the loss is NaN: the model has diverged".into()),
        workers: vec![WorkerView {
            worker: WorkerId(1),
            node: NodeId(1),
            name: "attic".into(),
            device: "CPU (2 threads)".into(),
            activity: Some(Activity::Idle),
            revision: Some(REVISION),
            digest: Some(HASH),
            blocks_per_second: 1.5,
            credited_tokens: 4096,
            accepted: 3,
            refused: 0,
            last_refusal: Some("the round was over".into()),
            record: Some(0.31),
            counted_less: Some("it counted 40 % of its weight: …".into()),
            silent_ms: 400,
        }],
        rounds: vec![RoundView {
            round: 2,
            revision: Some(REVISION),
            assigned: 3,
            merged: 3,
            tokens: 12_288,
            loss: Some(3.25),
            probe_loss: Some(3.5),
            upload_bytes: 30_000,
            merge_bytes: 33_333,
            duration_ms: 21_000,
            reason: "all workers have reported".into(),
        }],
    }
}
