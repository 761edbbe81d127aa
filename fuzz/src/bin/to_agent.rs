//! What a coordinator answers as JSON: to agents, which do not trust it with their machine,
//! and to whoever watches a run.

#![no_main]

use opengpu_fuzz::{
    Kind, Seed, attempt_message, check_seeds, check_spec, example, read, reads, seed,
};
use opengpu_protocol::audits::AuditPlan;
use opengpu_protocol::identity::{AccountView, ClaimCode, KeyView};
use opengpu_protocol::ledger::{LedgerHead, LedgerProof, LedgerSum, SumsRebuilt};
use opengpu_protocol::operator::{
    Exported, ExportedFile, LogEntry, Sampled, TokenMade, TokenState, TokenView,
};
use opengpu_protocol::standing::{
    Against, AppealOutcome, AppealView, ChangeView, Evidence, NoWork, StandingPlan, StandingView,
};
use opengpu_protocol::wire::{
    AssignmentPlan, BlobManifest, CheckpointRef, DatasetManifest, Drawn, Enrolled, ErrorBody,
    Evaluation, History, Machine, MergeRef, NodeView, Offered, Outcome, Plan, Reported, RoundView,
    RunPlan, RunView, Verdict, Welcome, WorkerPlan, WorkerView,
};
use opengpu_rounds::standing::{Cause, Level};
use opengpu_rounds::{
    AssignmentId, BlockRange, Event, EventKind, FeedbackId, NodeId, Regard, Revision, RunId,
    WorkerId,
};

opengpu_fuzz::target!(seeds, |bytes| attempt_message(KINDS, bytes));

const KINDS: &[Kind] = &[
    ("Welcome", reads::<Welcome>),
    ("Enrolled", reads::<Enrolled>),
    ("Offered", reads::<Offered>),
    ("Reported", reads::<Reported>),
    ("Plan", reads::<Plan>),
    ("Verdict", reads::<Verdict>),
    ("History", reads::<History>),
    ("BlobManifest", |json| {
        if let Some(manifest) = read::<BlobManifest>(json) {
            fits(&manifest);
        }
    }),
    ("RunView", |json| {
        if let Some(view) = read::<RunView>(json) {
            check_spec(&view.spec);
        }
    }),
    ("NodeView", reads::<NodeView>),
    ("ErrorBody", reads::<ErrorBody>),
    ("[LogEntry]", reads::<Vec<LogEntry>>),
    ("Exported", reads::<Exported>),
    ("Sampled", reads::<Sampled>),
    ("TokenMade", reads::<TokenMade>),
    ("[TokenView]", reads::<Vec<TokenView>>),
    ("ClaimCode", reads::<ClaimCode>),
    ("AccountView", reads::<AccountView>),
    ("[AccountView]", reads::<Vec<AccountView>>),
    ("[KeyView]", reads::<Vec<KeyView>>),
    ("[NodeView]", reads::<Vec<NodeView>>),
    ("[RunView]", reads::<Vec<RunView>>),
    ("DatasetManifest", reads::<DatasetManifest>),
    ("[DatasetManifest]", reads::<Vec<DatasetManifest>>),
    ("StandingView", reads::<StandingView>),
    ("LedgerHead", reads::<LedgerHead>),
    ("LedgerProof", reads::<LedgerProof>),
    ("[LedgerSum]", reads::<Vec<LedgerSum>>),
    ("SumsRebuilt", reads::<SumsRebuilt>),
];

/// A manifest that is accepted has a chunk for each MiB, and no more.
fn fits(manifest: &BlobManifest) {
    let limit = 1 << 40;
    if manifest.check(limit).is_ok() {
        let chunks = manifest.chunks.len() as u64;
        assert!(manifest.bytes <= limit && chunks <= 1 << 20);
        assert!(manifest.bytes <= chunks << 20 && manifest.bytes + (1 << 20) > chunks << 20);
    }
}

fn seeds() -> Vec<Seed> {
    let mut seeds = plans();
    seeds.extend(views());
    seeds.extend(log());
    seeds.extend(people());
    seeds.extend(ledgers());
    seeds.push(seed("StandingView", &standing()));
    seeds.extend([
        seed(
            "Welcome",
            &Welcome {
                version: 1,
                software: "opengpu 0.1.0".into(),
                unix_ms: 1_790_000_000_000,
            },
        ),
        seed(
            "Enrolled",
            &Enrolled {
                node: NodeId(5),
                pending: true,
            },
        ),
        seed(
            "Offered",
            &Offered {
                worker: WorkerId(5),
            },
        ),
        seed("Reported", &Reported { resync: true }),
        seed(
            "BlobManifest",
            &BlobManifest {
                bytes: 3_000_000,
                chunks: vec![example::hash(); 3],
            },
        ),
        seed(
            "ErrorBody",
            &ErrorBody {
                code: "unknown_run".into(),
                message: "there is no run 7".into(),
                measured: None,
                allowed: None,
            },
        ),
        seed(
            "Sampled",
            &Sampled {
                text: "or not to be".into(),
            },
        ),
        seed(
            "TokenMade",
            &TokenMade {
                token: "token".into(),
                hash: example::hash(),
            },
        ),
        seed(
            "Exported",
            &Exported {
                path: "exports/run-r45".into(),
                files: vec![ExportedFile {
                    name: "config.json".into(),
                    bytes: 500,
                    blake3: example::hash(),
                }],
            },
        ),
    ]);
    check_seeds(KINDS, &seeds);
    seeds
}

fn plans() -> Vec<Seed> {
    let outcomes = [
        Outcome::Waiting,
        Outcome::Merged {
            revision: example::revision(),
            factor: 0.75,
            reason: Some("it counted 40 % of its weight".into()),
        },
        Outcome::NotMerged {
            reason: "it came too late".into(),
        },
    ];
    let verdicts = outcomes.map(|outcome| Verdict {
        assignment: AssignmentId(8),
        accepted: true,
        outcome,
    });
    let assignment = AssignmentPlan {
        assignment: AssignmentId(9),
        round: 20,
        base: example::revision(),
        blocks: vec![
            BlockRange { start: 3, end: 9 },
            BlockRange { start: 40, end: 41 },
        ],
        remaining_ms: 5000,
        progress_from: 0.1,
        progress_to: 0.2,
    };
    let run = RunPlan {
        run: RunId(1),
        revision: example::revision(),
        digest: example::hash(),
        assignment: Some(assignment),
        verdicts: verdicts.to_vec(),
        open: vec![Drawn {
            assignment: AssignmentId(7),
            chunks: vec![0, 3],
        }],
        audit: Some(audit()),
    };
    let worker = |device, run| WorkerPlan {
        worker: WorkerId(5),
        device,
        run,
    };
    let plan = Plan {
        node: NodeId(2),
        draining: false,
        pending: false,
        standing: Some(StandingPlan {
            standing: Level::Suspect,
            against: Some(Against {
                change: 3,
                code: "not_opened".into(),
                reason: "nothing was opened".into(),
                reversed: false,
                appeal: Some(AppealOutcome::Open),
                note: None,
            }),
        }),
        no_work: Some(NoWork {
            code: "trusted_only".into(),
            message: "run 4 takes trusted nodes alone".into(),
        }),
        workers: vec![worker(0, Some(run)), worker(1, None)],
    };
    let merge = MergeRef {
        revision: example::revision(),
        merge: example::hash(),
        bytes: 4000,
        digest: example::hash(),
    };
    let history = History {
        checkpoint: CheckpointRef {
            revision: Revision {
                lineage: 1,
                number: 19,
            },
            weights: example::hash(),
        },
        merges: vec![merge; 2],
    };
    let mut seeds = vec![seed("Plan", &plan), seed("History", &history)];
    let huge = b"Verdict\n{\"assignment\":8,\"outcome\":\"merged\",\"revision\":{\"lineage\":1,\"number\":2},\"factor\":1e39}";
    seeds.push(("huge".into(), huge.to_vec()));
    seeds.extend(verdicts.iter().map(|verdict| seed("Verdict", verdict)));
    seeds
}

fn audit() -> AuditPlan {
    AuditPlan {
        number: 1 << 52,
        base: example::revision(),
        digest: example::hash(),
        blocks: vec![BlockRange { start: 50, end: 59 }],
        blocks_completed: 7,
        progress_from: 0.1,
        progress_to: 0.2,
        chunks: vec![1, 2],
    }
}

fn views() -> Vec<Seed> {
    let machine = Machine {
        platform: "linux x86_64".into(),
        cores: 8,
        memory_bytes: 1 << 34,
        software: "opengpu 0.1.0".into(),
    };
    let node = NodeView {
        node: NodeId(2),
        name: "kitchen".into(),
        state: "active".into(),
        standing: Level::Suspect,
        reason: Some("nothing was opened".into()),
        appeals: true,
        approved: true,
        vouched: false,
        audits_passed: 12,
        audits_failed: 1,
        connected: true,
        account: Some("alice".into()),
        machine,
        workers: vec![WorkerId(5)],
        credited_tokens: 1000,
    };
    let worker = WorkerView {
        worker: WorkerId(5),
        node: NodeId(2),
        name: "kitchen".into(),
        device: "CPU".into(),
        activity: Some(example::training()),
        revision: Some(example::revision()),
        digest: None,
        blocks_per_second: 0.3,
        credited_tokens: 1000,
        accepted: 20,
        refused: 1,
        last_refusal: Some("it came too late".into()),
        record: Some(0.25),
        counted_less: Some("it counted 40 % of its weight".into()),
        silent_ms: 12,
    };
    let round = RoundView {
        round: 20,
        revision: None,
        assigned: 3,
        merged: 2,
        tokens: 5000,
        loss: Some(3.057),
        probe_loss: Some(2.5),
        upload_bytes: 1,
        merge_bytes: 2,
        duration_ms: 6000,
        reason: "all reported".into(),
    };
    let run = RunView {
        run: RunId(1),
        spec: example::spec(),
        dataset: example::dataset(),
        phase: "training".into(),
        explanation: "round 20".into(),
        trouble: None,
        round: 20,
        revision: example::revision(),
        digest: example::hash(),
        tokens: 100_000,
        counted_tokens: 90_000,
        tokens_per_second: 28_900.1,
        upload_bytes: 1,
        download_bytes: 2,
        training_loss: Some(3.1),
        evaluations: vec![Evaluation {
            revision: example::revision(),
            nats_per_token: 3.2989,
            bits_per_byte: Some(2.001),
        }],
        evaluation_problem: None,
        workers: vec![worker],
        rounds: vec![round],
    };
    vec![
        seed("NodeView", &node),
        seed("[NodeView]", &[&node, &node]),
        seed("RunView", &run),
        seed("[RunView]", &[&run]),
        seed("DatasetManifest", &run.dataset),
        seed("[DatasetManifest]", &[&run.dataset]),
    ]
}

fn people() -> Vec<Seed> {
    let account = AccountView {
        account: 1,
        name: "alice".into(),
        team: Some("physics".into()),
        nodes: vec![NodeId(2), NodeId(3)],
        age_seconds: 86_400,
    };
    let key = KeyView {
        public_key: example::hash(),
        age_seconds: 86_400,
        revoked: true,
    };
    let token = TokenView {
        hash: example::hash(),
        label: "friends".into(),
        state: TokenState::UsedUp,
        uses: Some(3),
        used: 3,
        age_seconds: 3600,
        expires_in_seconds: Some(600),
    };
    let code = ClaimCode {
        code: "K7Q0M1TB".into(),
        expires_in_seconds: 900,
    };
    vec![
        seed("AccountView", &account),
        seed("[AccountView]", &[account]),
        seed("[KeyView]", &[key]),
        seed("[TokenView]", &[token]),
        seed("ClaimCode", &code),
    ]
}

fn ledgers() -> Vec<Seed> {
    let sum = LedgerSum {
        of: Some("2026-11-22".into()),
        tokens: -65_536,
        megaflops: 9_830_400,
        accepted: 4,
        rejected: 1,
        audits_passed: 1,
        audits_failed: 0,
        audits_undecided: 0,
        corrections: 1,
        trained_again: 2,
    };
    vec![
        seed(
            "LedgerHead",
            &LedgerHead {
                entries: 1,
                head: "a/run/1\n1\n".into(),
                key: "a/run/1+00000000+AQ==".into(),
            },
        ),
        seed(
            "LedgerProof",
            &LedgerProof {
                head: "a/run/1\n1\n".into(),
                proof: vec!["AA==".into()],
            },
        ),
        seed("[LedgerSum]", &[sum]),
        seed(
            "SumsRebuilt",
            &SumsRebuilt {
                lines: 5,
                differed: 1,
            },
        ),
    ]
}

fn standing() -> StandingView {
    let change = ChangeView {
        change: 4,
        age_seconds: 3600,
        from: Level::Trusted,
        to: Level::Quarantined,
        cause: Cause::Proof,
        by: "coordinator".into(),
        code: "progress_differs".into(),
        reason: "its progress differs".into(),
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
    StandingView {
        node: NodeId(1),
        standing: Level::Quarantined,
        changes: vec![change],
    }
}

fn log() -> Vec<Seed> {
    let (assignment, round, base) = (AssignmentId(3), 20, example::revision());
    let (worker, feedback) = (WorkerId(5), FeedbackId(6));
    let (digest, reason) = (example::hash(), "because".to_owned());
    let kinds = [
        EventKind::Created {
            settings: example::spec().round,
        },
        EventKind::Forming,
        EventKind::WorkerJoined {
            worker,
            node: NodeId(2),
            feedback,
            founder: true,
        },
        EventKind::RoundOpened {
            round,
            base,
            deadline_ms: 9000,
        },
        EventKind::Assigned {
            assignment,
            worker,
            round,
            base,
            blocks: vec![BlockRange { start: 3, end: 9 }],
            attempt: 0,
            span: Some(opengpu_rounds::ScheduleSpan {
                from: 0.25,
                to: 0.5,
            }),
        },
        EventKind::UpdateAccepted {
            assignment,
            blocks_completed: 2,
            payload: digest,
            payload_bytes: 400,
            tokens: 5000,
            mergeable: true,
            commitment: None,
            audit: None,
            held: false,
            trust: 0.5,
        },
        EventKind::RoundClosed {
            round,
            updates: vec![assignment],
            reason: reason.clone(),
        },
        EventKind::Merged {
            round,
            revision: base,
            merge: digest,
            merge_bytes: 700,
            digest,
            factors: vec![1.0, 0.3],
            regards: vec![
                Regard {
                    counted: 0.4,
                    agreement: Some(0.1),
                    record: Some(0.05),
                    needed: Some(0.125),
                    twin: Some(assignment),
                };
                2
            ],
            counted_tokens: Some(4000),
        },
        EventKind::Checkpointed {
            revision: base,
            weights: digest,
            outer_state: digest,
        },
        EventKind::RolledBack {
            to: base,
            revision: base,
            reason,
            by_itself: true,
            left_out: vec![WorkerId(1)],
        },
    ];
    let entries = kinds.into_iter().zip(1..).map(|(kind, sequence)| LogEntry {
        sequence,
        event: Event {
            at_ms: 1000 * sequence,
            kind,
        },
    });
    let entries: Vec<_> = entries.collect();
    entries
        .chunks(3)
        .map(|entries| seed("[LogEntry]", &entries))
        .collect()
}
