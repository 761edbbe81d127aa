//! What nodes and the operator send to a coordinator as JSON.

#![no_main]

use opengpu_fuzz::{
    Kind, Seed, attempt_message, check_seeds, check_spec, example, read, reads, seed,
};
use opengpu_protocol::audits::AuditDeclined;
use opengpu_protocol::identity::{AccountRequest, AddKey, Claim, TeamRequest};
use opengpu_protocol::operator::{RollbackRequest, SampleRequest, TokenRequest};
use opengpu_protocol::possession::{is_proven, prove};
use opengpu_protocol::signing::{is_public_key, public_key};
use opengpu_protocol::standing::{ActionReason, AppealRequest, ReviewRequest};
use opengpu_protocol::wire::{
    Activity, DatasetManifest, Enrol, Hello, Machine, Offer, Report, UpdateNotice,
};
use opengpu_protocol::{RunSpec, SigningKey};
use opengpu_rounds::{AssignmentId, Commitment, FeedbackId, NodeId, RunId, WorkerId};

opengpu_fuzz::target!(seeds, |bytes| attempt_message(KINDS, bytes));

const KINDS: &[Kind] = &[
    ("Hello", reads::<Hello>),
    ("Enrol", |json| {
        if let Some(enrol) = read::<Enrol>(json) {
            is_public_key(&enrol.public_key);
        }
    }),
    ("Offer", reads::<Offer>),
    ("Report", reads::<Report>),
    ("UpdateNotice", reads::<UpdateNotice>),
    ("AuditDeclined", reads::<AuditDeclined>),
    ("RunSpec", |json| {
        if let Some(spec) = read::<RunSpec>(json) {
            check_spec(&spec);
        }
    }),
    ("DatasetManifest", reads::<DatasetManifest>),
    ("RollbackRequest", reads::<RollbackRequest>),
    ("SampleRequest", reads::<SampleRequest>),
    ("TokenRequest", reads::<TokenRequest>),
    ("AddKey", |json| {
        if let Some(key) = read::<AddKey>(json) {
            let _ = is_proven(&key.public_key, NodeId(2), &key.proof);
        }
    }),
    ("AccountRequest", reads::<AccountRequest>),
    ("TeamRequest", reads::<TeamRequest>),
    ("Claim", |json| {
        if let Some(claim) = read::<Claim>(json) {
            let code = claim.plain_code();
            assert!(code.chars().all(char::is_alphanumeric));
            let plain = Claim {
                code: code.clone(),
                ..claim
            };
            assert_eq!(plain.plain_code(), code, "a plain code is read as another");
        }
    }),
    ("AppealRequest", reads::<AppealRequest>),
    ("ReviewRequest", reads::<ReviewRequest>),
    ("ActionReason", reads::<ActionReason>),
];

fn seeds() -> Vec<Seed> {
    let mut seeds = vec![
        seed(
            "Hello",
            &Hello {
                oldest: 1,
                newest: 2,
                software: "opengpu 0.1.0".into(),
            },
        ),
        seed(
            "Enrol",
            &Enrol {
                token: Some("token".into()),
                public_key: example::hash(),
                name: "Küche \"1\"\n".into(),
                machine: Machine {
                    platform: "linux x86_64".into(),
                    cores: 8,
                    memory_bytes: 1 << 34,
                    software: "opengpu 0.1.0".into(),
                },
            },
        ),
        seed(
            "Offer",
            &Offer {
                trainer: "burn-flex 0.1.0".into(),
                device: "CPU (2 threads)".into(),
                numerics_class: "cpu".into(),
            },
        ),
        seed(
            "AuditDeclined",
            &AuditDeclined {
                reason: "there is too little memory".into(),
            },
        ),
        seed("RunSpec", &example::spec()),
        seed("DatasetManifest", &example::dataset()),
        seed(
            "RollbackRequest",
            &RollbackRequest {
                to: example::revision(),
            },
        ),
        seed(
            "SampleRequest",
            &SampleRequest {
                prompt: "To be".into(),
                max_tokens: 20,
                temperature: 0.8,
                seed: 7,
            },
        ),
        seed(
            "TokenRequest",
            &TokenRequest {
                label: "friends".into(),
                uses: 3,
                expires_in_seconds: Some(604_800),
            },
        ),
        seed(
            "AddKey",
            &AddKey {
                public_key: public_key(&SigningKey::from_bytes(&[7; 32])),
                proof: prove(&SigningKey::from_bytes(&[7; 32]), NodeId(2)),
            },
        ),
        seed(
            "AccountRequest",
            &AccountRequest {
                name: "alice".into(),
                team: Some("physics".into()),
            },
        ),
        seed(
            "TeamRequest",
            &TeamRequest {
                team: Some("physics".into()),
            },
        ),
        seed(
            "Claim",
            &Claim {
                code: "K7Q0-M1TB".into(),
                account: "alice".into(),
            },
        ),
        seed(
            "AppealRequest",
            &AppealRequest {
                change: Some(4),
                text: "the memory was bad; it is replaced".into(),
            },
        ),
        seed(
            "ReviewRequest",
            &ReviewRequest {
                change: Some(4),
                reverse: true,
                note: "seen".into(),
            },
        ),
        seed(
            "ActionReason",
            &ActionReason {
                reason: Some("it sends nonsense".into()),
            },
        ),
    ];
    let commitments = [
        None,
        Some(Commitment {
            root: example::hash(),
            previous: Some(AssignmentId(2)),
            taken_back: vec![AssignmentId(2), AssignmentId(1)],
        }),
    ];
    seeds.extend(commitments.map(|commitment| {
        seed(
            "UpdateNotice",
            &UpdateNotice {
                worker: WorkerId(2),
                assignment: AssignmentId(3),
                base: example::revision(),
                blocks_completed: 4,
                payload: example::hash(),
                payload_bytes: 5000,
                feedback: FeedbackId(6),
                loss: 6.875,
                train_seconds: 0.1,
                commitment,
                numerics_class: Some("opengpu 0.1.0 float32 micro-batch 8".into()),
            },
        )
    }));
    let activities = [
        Activity::Idle,
        Activity::Preparing {
            what: "fetching".into(),
        },
        example::training(),
        Activity::Sending {
            assignment: AssignmentId(9),
        },
    ];
    seeds.extend(activities.map(|activity| {
        seed(
            "Report",
            &Report {
                run: RunId(1),
                revision: example::revision(),
                digest: example::hash(),
                feedback: FeedbackId(6),
                // Its last digit was lost once.
                blocks_per_second: 6.552310368459899e-127,
                activity,
            },
        )
    }));
    check_seeds(KINDS, &seeds);
    seeds
}
