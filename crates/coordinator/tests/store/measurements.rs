//! Held-out losses and what was measured about rounds.

use opengpu_coordinator::store::RoundMetric;
use opengpu_protocol::wire::Evaluation;
use opengpu_rounds::Revision;

use super::{Database, on_both_databases, samples::new_run};

on_both_databases!(
    evaluations_come_back_exactly_and_in_order,
    rounds_beyond_those_kept_are_forgotten,
);

async fn evaluations_come_back_exactly_and_in_order(db: Database) {
    let store = db.open().await;
    let run = new_run(&store, "first").await;
    let evaluation = |lineage, number, nats, bits| Evaluation {
        revision: Revision { lineage, number },
        nats_per_token: nats,
        bits_per_byte: bits,
    };
    let late = evaluation(1, 3, 1.0 / 3.0, Some(2.7548_f64));
    let early = evaluation(0, 7, f64::MIN_POSITIVE, None);
    store.put_evaluation(run, &late).await.unwrap();
    store
        .put_evaluation(run, &evaluation(0, 7, 9.0, None))
        .await
        .unwrap();
    store.put_evaluation(run, &early).await.unwrap();
    let stored: Vec<Evaluation> = store
        .evaluations(run)
        .await
        .unwrap()
        .into_iter()
        .map(|stored| stored.evaluation)
        .collect();
    assert_eq!(stored, [early, late]);
}

async fn rounds_beyond_those_kept_are_forgotten(db: Database) {
    let store = db.open().await;
    let run = new_run(&store, "first").await;
    let metric = |lineage, round, loss: f64| RoundMetric {
        lineage,
        round,
        body: serde_json::json!({ "loss": loss }),
    };
    for round in 0..6 {
        store
            .put_round_metric(run, &metric(0, round, 3.5), 4)
            .await
            .unwrap();
    }
    store
        .put_round_metric(run, &metric(1, 3, 3.25), 4)
        .await
        .unwrap();
    store
        .put_round_metric(run, &metric(1, 3, 3.125), 4)
        .await
        .unwrap();
    let kept = store.round_metrics(run, 10).await.unwrap();
    assert_eq!(
        kept,
        [
            metric(0, 3, 3.5),
            metric(0, 4, 3.5),
            metric(0, 5, 3.5),
            metric(1, 3, 3.125)
        ]
    );
    assert_eq!(store.round_metrics(run, 2).await.unwrap(), kept[2..]);
}
