//! Runs that look like real ones: for the preview, and to render every template in tests.

use opengpu_protocol::wire::{
    Activity, DatasetManifest, Evaluation, RoundView, RunView, ShardRef, TokenShards, WorkerView,
};
use opengpu_protocol::{RunSpec, SyncSettings, TrustSettings};
use opengpu_rounds::{AssignmentId, Hash, NodeId, Revision, RoundSettings, RunId, WorkerId};
use opengpu_trainer_protocol::{InnerSettings, ModelConfig};

/// Rounds that the sample run has in all.
pub const ROUNDS: u64 = 120;
const NATS_TO_BITS: f64 = 0.4 / std::f64::consts::LN_2;
const BLOCK_TOKENS: u64 = 8 * 128;

/// One run in each of several phases, and one whose names are hostile.
pub fn runs() -> Vec<RunView> {
    let finished = {
        let mut run = training_run(ROUNDS);
        run.phase = "finished".into();
        run.explanation = "finished: all 120 rounds are done".into();
        run.run = RunId(2);
        run.rounds.pop();
        run
    };
    let of_tokens = {
        let mut run = training_run(12);
        run.run = RunId(6);
        run.spec.name = "shakespeare-tokens".into();
        run.spec.round.total_tokens = 10_000_000;
        run.counted_tokens = run.tokens;
        run
    };
    vec![
        training_run(41),
        of_tokens,
        finished,
        forming_run(),
        paused_run(),
        hostile_run(),
    ]
}

/// A run in the middle of round `round`, counted from 0.
pub fn training_run(round: u64) -> RunView {
    let model = ModelConfig::preset("nano");
    let parameters = model.as_ref().map_or(0, ModelConfig::parameters) as f64;
    let rounds: Vec<RoundView> = (round.saturating_sub(199)..=round)
        .map(|number| round_view(number, round, parameters))
        .collect();
    let upload_bytes = (0..round)
        .map(|r| round_view(r, round, parameters).upload_bytes)
        .sum();
    let merge_bytes: u64 = (0..round)
        .map(|r| round_view(r, round, parameters).merge_bytes * 3)
        .sum();
    let revision = Revision {
        lineage: 0,
        number: round,
    };
    let digest = Hash::of(&round.to_le_bytes());
    RunView {
        run: RunId(1),
        spec: RunSpec {
            name: "shakespeare-nano".into(),
            dataset: "corpus".into(),
            seed: 7,
            preset: Some("nano".into()),
            model,
            block_sequences: 8,
            round: RoundSettings {
                rounds: ROUNDS,
                duration_ms: 3000,
                grace_ms: 2000,
                quorum: 2,
                ..RoundSettings::default()
            },
            inner: InnerSettings::default(),
            sync: SyncSettings::default(),
            trust: TrustSettings::default(),
            evaluate_every: 5,
            checkpoint_every: 10,
        },
        dataset: dataset(),
        phase: "training".into(),
        explanation: format!("round {round} trains for another 2 s: 0 of 3 updates are here"),
        trouble: None,
        round,
        revision,
        digest,
        tokens: round * 60 * BLOCK_TOKENS,
        counted_tokens: 0,
        tokens_per_second: 18_400.0,
        upload_bytes,
        download_bytes: merge_bytes,
        training_loss: round.checked_sub(1).map(|last| training_loss(last as f64)),
        evaluations: evaluations(round),
        evaluation_problem: None,
        workers: workers(round, revision, digest),
        rounds,
    }
}

/// A run that waits for its first worker.
pub fn forming_run() -> RunView {
    let mut run = training_run(0);
    run.run = RunId(3);
    run.spec.name = "waiting-for-friends".into();
    run.phase = "forming".into();
    run.explanation =
        "round 0 waits for 3 more workers (0 of 3 ready with revision 0.0, 0 joined)".into();
    run.rounds.clear();
    run.workers.clear();
    run.digest = Hash([0; 32]);
    run.evaluations.clear();
    run.training_loss = None;
    run.tokens_per_second = 0.0;
    run
}

/// A run that a person paused.
pub fn paused_run() -> RunView {
    let mut run = training_run(17);
    run.run = RunId(4);
    run.spec.name = "night-only".into();
    run.phase = "paused".into();
    run.explanation = "paused: an operator needs the machines until the evening".into();
    run.tokens_per_second = 0.0;
    for worker in &mut run.workers {
        worker.activity = Some(Activity::Idle);
    }
    run
}

/// A run whose names, reasons and words try to be markup, from people who mean harm.
pub fn hostile_run() -> RunView {
    const MARKUP: &str =
        "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\r\n\r\ndata: x&amp;";
    let mut run = training_run(5);
    run.run = RunId(5);
    run.spec.name = MARKUP.into();
    run.spec.dataset = MARKUP.into();
    run.spec.preset = Some(MARKUP.into());
    run.phase = MARKUP.into();
    run.explanation = MARKUP.into();
    for worker in &mut run.workers {
        worker.name = MARKUP.into();
        worker.device = MARKUP.into();
        worker.last_refusal = Some(MARKUP.into());
        worker.counted_less = Some(MARKUP.into());
        worker.activity = Some(Activity::Preparing {
            what: MARKUP.into(),
        });
    }
    for round in &mut run.rounds {
        round.reason = MARKUP.into();
    }
    run
}

fn dataset() -> DatasetManifest {
    let shards = |name: &str, tokens: u64, text_bytes: u64| TokenShards {
        shards: vec![ShardRef {
            hash: Hash::of(name.as_bytes()),
            bytes: tokens * 2,
        }],
        tokens,
        text_bytes,
    };
    DatasetManifest {
        name: "corpus".into(),
        tokenizer: Hash::of(b"tokenizer"),
        vocab_size: 1024,
        token_bytes: 2,
        training: shards("training", 1_912_000, 4_803_680),
        held_out: shards("held-out", 101_130, 252_825),
    }
}

/// A loss that falls as losses do, with a little noise that is always the same.
fn training_loss(round: f64) -> f64 {
    let noise = ((round * 12.9898).sin() * 43_758.547).fract() * 0.05;
    2.35 + 4.4 / (1.0 + round / 4.0) + noise
}

fn evaluations(round: u64) -> Vec<Evaluation> {
    (0..=round)
        .step_by(5)
        .map(|number| {
            let nats = if number == 0 {
                6.94
            } else {
                training_loss(number as f64) + 0.06
            };
            let whole = number == 0 || number % 20 == 0;
            Evaluation {
                revision: Revision { lineage: 0, number },
                nats_per_token: nats,
                bits_per_byte: whole.then_some(nats * NATS_TO_BITS),
            }
        })
        .collect()
}

fn round_view(number: u64, open: u64, parameters: f64) -> RoundView {
    if number == open {
        return RoundView {
            round: number,
            revision: None,
            assigned: 3,
            merged: 0,
            tokens: 0,
            loss: None,
            probe_loss: None,
            upload_bytes: 0,
            merge_bytes: 0,
            duration_ms: 1200,
            reason: String::new(),
        };
    }
    let late = number % 7 == 3;
    let merged = if late { 2 } else { 3 };
    RoundView {
        round: number,
        revision: Some(Revision {
            lineage: 0,
            number: number + 1,
        }),
        assigned: 3,
        merged,
        tokens: u64::from(merged) * 20 * BLOCK_TOKENS,
        loss: Some(training_loss(number as f64)),
        probe_loss: Some(training_loss(number as f64) + 0.1),
        upload_bytes: u64::from(merged) * (parameters * 0.0412) as u64,
        merge_bytes: (parameters * 0.162) as u64,
        duration_ms: if late { 5000 } else { 3200 + number % 5 * 90 },
        reason: if late {
            "the grace ended with 2 of 3 updates".into()
        } else {
            "all 3 workers have reported".into()
        },
    }
}

fn workers(round: u64, revision: Revision, digest: Hash) -> Vec<WorkerView> {
    let worker = |number: u64, name: &str, device: &str| WorkerView {
        worker: WorkerId(number),
        node: NodeId(number),
        name: name.into(),
        device: device.into(),
        activity: Some(Activity::Training {
            assignment: AssignmentId(round * 3 + number),
            blocks_done: 6 + number * 3,
            loss: training_loss(round as f64),
            tokens_per_second: 5_900.0 + number as f64 * 140.0,
        }),
        revision: Some(revision),
        digest: Some(digest),
        blocks_per_second: 6.0,
        credited_tokens: round * 20 * BLOCK_TOKENS,
        accepted: round,
        refused: 0,
        last_refusal: None,
        record: Some(0.31),
        counted_less: None,
        silent_ms: 300,
    };
    let first = worker(1, "attic", "CPU (2 threads)");
    let mut second = worker(2, "lab-bench-3", "NVIDIA GeForce RTX 3060");
    second.activity = Some(Activity::Sending {
        assignment: AssignmentId(round * 3 + 2),
    });
    let mut third = worker(3, "anna’s old laptop", "Apple M1");
    third.refused = 2;
    third.last_refusal = Some("arrived 4.1 s after the grace ended".into());
    third.record = Some(-0.02);
    third.counted_less = Some("it counted 0 % of its weight: this worker's agreement with most others is -0.020, from 0.154 on an update counts in full".into());
    third.accepted = round.saturating_sub(2);
    third.silent_ms = 7_400;
    if let Some(number) = revision.number.checked_sub(1) {
        third.revision = Some(Revision { number, ..revision });
        third.digest = Some(Hash::of(&number.to_le_bytes()));
        third.activity = Some(Activity::Preparing {
            what: "fetching a merge".into(),
        });
    }
    vec![first, second, third]
}
