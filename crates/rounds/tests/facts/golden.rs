//! Logs of earlier versions of this program. Each `NAME.jsonl` is a log as it was written,
//! each `NAME.state` what it folded to then. Neither is ever rewritten: a change that makes
//! one of them fold to something else would change the past of every stored run.
//!
//! To add one (and only then): `OPENGPU_WRITE_GOLDEN=run-2 cargo test --release
//! -p opengpu-rounds golden`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use opengpu_rounds::{
    AuditOutcome, AuditRules, Event, FeedbackId, Input, Outcome, RoundSettings, Run, WorkerId,
};

use crate::story::{Story, revision, settings};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// What a state says to the outside; independent of how it is kept inside.
fn told(run: &Run) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        writeln!(text, "{name}: {value}").expect("writing to a string");
    };
    line("events", run.events().to_string());
    line("phase", run.phase().to_string());
    line("revision", format!("{} {:?}", run.revision(), run.digest()));
    line("round", run.round().to_string());
    line("deadline", format!("{:?}", run.deadline_ms()));
    let totals = run.totals();
    line("tokens", totals.tokens.to_string());
    line(
        "updates",
        format!(
            "{} accepted, {} merged",
            totals.updates, totals.merged_updates
        ),
    );
    line(
        "bytes",
        format!("{} up, {} down", totals.upload_bytes, totals.download_bytes),
    );
    line(
        "rounds",
        format!(
            "{} merged, {} abandoned",
            totals.merged_rounds, totals.abandoned_rounds
        ),
    );
    for lineage in run.lineages() {
        line(
            "lineage",
            format!(
                "{} from {:?}: {}",
                lineage.start, lineage.parent, lineage.reason
            ),
        );
    }
    for checkpoint in run.checkpoints() {
        line(
            "checkpoint",
            format!("{} {}", checkpoint.revision, checkpoint.weights),
        );
    }
    for merge in run.merges() {
        line(
            "merge",
            format!(
                "{} {} of {}",
                merge.revision,
                merge.digest,
                merge.updates.len()
            ),
        );
    }
    for range in run.returned_blocks() {
        line("returned", format!("{} to {}", range.start, range.end));
    }
    line("fresh", run.next_fresh_block().to_string());
    for (assignment, lease) in run.leases() {
        line(
            "lease",
            format!(
                "{assignment} {} {:?} {}",
                lease.worker,
                lease.blocks(),
                lease.attempt
            ),
        );
    }
    for update in run.waiting_updates() {
        line(
            "waiting",
            format!("{} {} {}", update.assignment, update.worker, update.tokens),
        );
    }
    for (worker, member) in run.members() {
        line(
            "member",
            format!(
                "{worker} on {}: feedback {:?}, present {}, proven {}, {} tokens, {} accepted, {} returned",
                member.node,
                member.feedback,
                member.present,
                member.proven,
                member.credited_tokens,
                member.accepted,
                member.returned
            ),
        );
        if let Some(record) = member.record {
            line("record", record.to_string());
        }
        for verdict in run.verdicts(worker) {
            // Written the same as before an outcome had a regard.
            let outcome = match &verdict.outcome {
                Outcome::Merged {
                    revision,
                    factor,
                    regard,
                } => {
                    let merged = format!("Merged {{ revision: {revision:?}, factor: {factor:?} }}");
                    regard.map_or(merged.clone(), |regard| format!("{merged} {regard:?}"))
                }
                other => format!("{other:?}"),
            };
            line("verdict", format!("{} {outcome}", verdict.assignment));
        }
    }
    for round in run.rounds() {
        line(
            "round",
            format!("{} {:?} {}", round.round, round.revision, round.reason),
        );
    }
    text
}

/// A run in which everything happens.
fn eventful() -> Vec<Event> {
    let rules = RoundSettings {
        rounds: 6,
        min_workers: 2,
        audit: AuditRules {
            enabled: true,
            rate: 0.0,
        },
        ..settings()
    };
    let mut story = Story::training(rules, 3);
    let first = story.assignment(1).unwrap();
    story.fleet.get_mut(&WorkerId(1)).unwrap().trusted = false;
    story.whole_round(3);
    story.fleet.get_mut(&WorkerId(1)).unwrap().trusted = true;
    story.open(first, 1).unwrap();
    story.audited(first, AuditOutcome::Failed).unwrap();
    story.checkpoint();
    story.join(4).unwrap();
    story.see(4, 2.0);
    let mut part = story.update_of(2);
    if let Input::Update {
        blocks_completed, ..
    } = &mut part
    {
        *blocks_completed = 4;
    }
    story.act(part).unwrap();
    story.update(4);
    story.silence(14_000);
    story.all_fetch();
    let leaves = Input::Leave {
        worker: WorkerId(3),
        reason: "it wants to".into(),
    };
    story.act(leaves).unwrap();
    story
        .act(Input::Pause {
            reason: "for the night".into(),
        })
        .unwrap();
    story.act(Input::Resume).unwrap();
    story.all_fetch();
    story.update(1);
    story.pass(14_000);
    story
        .act(Input::MergeFailed {
            reason: "no memory was left".into(),
        })
        .unwrap();
    story.act(Input::Resume).unwrap();
    story.merge();
    story.all_fetch();
    story.roll_back(revision(0, 1)).unwrap();
    for worker in [1, 2, 4] {
        let feedback = FeedbackId(worker * 1000 + 1);
        let worker = WorkerId(worker);
        story
            .act(Input::FeedbackReset { worker, feedback })
            .unwrap();
        story.feedback.insert(worker, feedback);
    }
    story.all_fetch();
    story.pass(2_000);
    story.update(1);
    story.update(2);
    story
        .act(Input::Stop {
            reason: "that is enough".into(),
        })
        .unwrap();
    story.merge();
    story.log
}

#[test]
fn golden_logs_fold_to_the_state_they_always_did() {
    if let Ok(name) = std::env::var("OPENGPU_WRITE_GOLDEN") {
        let path = folder().join(format!("{name}.jsonl"));
        assert!(
            !path.exists(),
            "{name} exists; golden logs are never rewritten"
        );
        let log = eventful();
        let lines: Vec<_> = log
            .iter()
            .map(|event| serde_json::to_string(event).unwrap())
            .collect();
        std::fs::create_dir_all(folder()).unwrap();
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        std::fs::write(path.with_extension("state"), told(&Run::from_events(&log))).unwrap();
    }
    let mut kinds = BTreeSet::new();
    let mut logs = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_none_or(|extension| extension != "jsonl")
        {
            continue;
        }
        logs += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        let mut run = Run::default();
        for line in text.lines() {
            let event: Event = serde_json::from_str(line).unwrap();
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            kinds.insert(value["type"].as_str().unwrap().to_owned());
            run.fold(&event);
        }
        let state = std::fs::read_to_string(path.with_extension("state")).unwrap();
        assert_eq!(told(&run), state, "{}", path.display());
    }
    assert!(logs > 0, "there is no golden log");
    let all = [
        "assigned",
        "audit_opened",
        "audited",
        "checkpointed",
        "collecting",
        "created",
        "failed",
        "feedback_reset",
        "finished",
        "forming",
        "gathering",
        "lease_returned",
        "merged",
        "paused",
        "resumed",
        "rolled_back",
        "round_abandoned",
        "round_closed",
        "round_opened",
        "stopping",
        "update_accepted",
        "worker_joined",
        "worker_left",
    ];
    let missing: Vec<_> = all.iter().filter(|kind| !kinds.contains(**kind)).collect();
    assert!(missing.is_empty(), "no golden log has {missing:?}");
    assert_eq!(kinds.len(), all.len(), "name the new kinds here: {kinds:?}");
}
