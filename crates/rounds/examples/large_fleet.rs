//! How long decisions take with a large fleet: `cargo run --release -p opengpu-rounds
//! --example large_fleet -- 1000`.

use std::time::Instant;

use opengpu_rounds::{
    FeedbackId, Fleet, Hash, Input, NodeId, RoundSettings, Run, WorkerId, WorkerSight,
};

fn main() {
    let workers: u64 = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(1000);
    let settings = RoundSettings {
        rounds: 1000,
        blocks_per_epoch: 1 << 30,
        min_workers: 1,
        max_workers: workers as u32,
        ..RoundSettings::default()
    };
    let mut run = Run::from_events([&Run::create(settings, 0)]);
    let mut fleet = Fleet::new();
    let mut now_ms = 0;
    let mut act = |run: &mut Run, fleet: &Fleet, input: Input| {
        now_ms += 1;
        for event in run.decide(now_ms, &input, fleet).events {
            run.fold(&event);
        }
    };
    for worker in (0..workers).map(WorkerId) {
        let (node, feedback) = (NodeId(worker.0), FeedbackId(worker.0));
        act(
            &mut run,
            &fleet,
            Input::Join {
                worker,
                node,
                feedback,
            },
        );
    }
    let weights = Hash::of(b"first");
    let revision = run.revision();
    act(
        &mut run,
        &fleet,
        Input::CheckpointDone {
            revision,
            weights,
            outer_state: weights,
        },
    );
    act(&mut run, &fleet, Input::Start);
    for round in 1..=70u64 {
        for worker in (0..workers).map(WorkerId) {
            let sight = WorkerSight {
                revision: Some(run.revision()),
                blocks_per_second: 0.5,
                last_heard_ms: u64::MAX / 2,
                draining: false,
                trusted: true,
                reputation: 1.0,
            };
            fleet.insert(worker, sight);
        }
        let started = Instant::now();
        act(&mut run, &fleet, Input::Tick);
        let opened = started.elapsed();
        let started = Instant::now();
        for worker in (0..workers).map(WorkerId) {
            let Some((assignment, lease)) = run.assignment_of(worker) else {
                continue;
            };
            let update = Input::Update {
                assignment,
                worker,
                base: lease.base,
                blocks_completed: lease.block_count(),
                payload: Hash::of(&assignment.0.to_le_bytes()),
                payload_bytes: 1,
                tokens_per_block: 1,
                feedback: FeedbackId(worker.0),
                commitment: None,
                draw: 0,
            };
            act(&mut run, &fleet, update);
        }
        let updates = started.elapsed();
        let Some(pending) = run.pending_merge() else {
            panic!("round {round}: {}", run.explanation(0, &fleet));
        };
        let started = Instant::now();
        let digest = Hash::of(&round.to_le_bytes());
        let factors = vec![1.0; pending.updates.len()];
        let done = Input::MergeDone {
            round: pending.round,
            merge: digest,
            merge_bytes: 1,
            digest,
            factors,
            regards: Vec::new(),
        };
        act(&mut run, &fleet, done);
        let merged = started.elapsed();
        if round % 5 == 0 {
            let revision = run.revision();
            let outer_state = digest;
            act(
                &mut run,
                &fleet,
                Input::CheckpointDone {
                    revision,
                    weights: digest,
                    outer_state,
                },
            );
        }
        if round % 10 == 0 {
            println!(
                "round {round}: opening {opened:?}, {workers} updates {updates:?}, merge {merged:?}, snapshot {} bytes",
                serde_json::to_string(&run).map_or(0, |text| text.len())
            );
        }
    }
}
