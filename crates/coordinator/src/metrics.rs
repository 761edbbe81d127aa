//! What Prometheus reads from `/metrics`. Labels come from sets fixed in the code: route
//! templates, status classes, refusal codes. Never a node, a run or a worker.

use std::fmt::Write;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Route template and status of a request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// For example `/v1/runs/{run}`, or `other` where no route matched.
    pub route: String,
    /// HTTP status.
    pub status: u16,
}

/// Refusal code.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct CodeLabel {
    /// For example `late`.
    pub code: String,
}

/// Who did something.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByLabel {
    /// `node` or `coordinator`.
    pub by: String,
}

/// Every number that the coordinator counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests answered, by route and status.
    pub requests: Family<RequestLabels, Counter>,
    /// Updates accepted.
    pub updates_accepted: Counter,
    /// Updates and their payloads refused, by code, whichever check it was: from the signature
    /// to the run's rules.
    pub updates_refused: Family<CodeLabel, Counter>,
    /// Updates that counted less than their weight in a merge, by code.
    pub updates_counted_less: Family<CodeLabel, Counter>,
    /// Updates that stood out in their merge, by what.
    pub updates_flagged: Family<CodeLabel, Counter>,
    /// Of these, those that were tried alone, by what that found: `passed` or `hurts_alone`.
    pub updates_tried: Family<CodeLabel, Counter>,
    /// Loss of the merge that was probed last, of any run, on a few held-out sequences.
    pub probe_loss: Gauge<f64, AtomicU64>,
    /// Audits ended, by what they found.
    pub audits: Family<CodeLabel, Counter>,
    /// Audited assignments trained again, by whom.
    pub audit_trainings: Family<ByLabel, Counter>,
    /// Audits in which the node that trained again was contradicted by a third.
    pub audits_contradicted: Counter,
    /// Changes of nodes' standing, by code.
    pub standing_changes: Family<CodeLabel, Counter>,
    /// Rounds merged.
    pub rounds_merged: Counter,
    /// Rounds closed without a merge.
    pub rounds_abandoned: Counter,
    /// How long a merge takes to compute and to store.
    pub merge_seconds: Histogram,
    /// How long an append of events takes until it is durable.
    pub append_seconds: Histogram,
    /// Open connections.
    pub connections_open: Gauge,
    /// Connections closed or not taken by the server, by why.
    pub connections_closed: Family<CodeLabel, Counter>,
    /// Bytes of request bodies.
    pub received_bytes: Counter,
    /// Bytes of blobs sent.
    pub sent_bytes: Counter,
    /// Nodes whose directive stream is open.
    pub nodes_connected: Gauge,
    /// Workers heard of lately.
    pub workers_live: Gauge,
    /// Runs that are being driven.
    pub runs_live: Gauge,
    /// Newest process start, seconds since 1970.
    pub started_seconds: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let mut metrics = Self {
            registry: Registry::with_prefix("opengpu"),
            requests: Family::default(),
            updates_accepted: Counter::default(),
            updates_refused: Family::default(),
            updates_counted_less: Family::default(),
            updates_flagged: Family::default(),
            updates_tried: Family::default(),
            probe_loss: Gauge::default(),
            audits: Family::default(),
            audit_trainings: Family::default(),
            audits_contradicted: Counter::default(),
            standing_changes: Family::default(),
            rounds_merged: Counter::default(),
            rounds_abandoned: Counter::default(),
            merge_seconds: seconds(),
            append_seconds: seconds(),
            connections_open: Gauge::default(),
            connections_closed: Family::default(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            nodes_connected: Gauge::default(),
            workers_live: Gauge::default(),
            runs_live: Gauge::default(),
            started_seconds: Gauge::default(),
        };
        metrics
            .started_seconds
            .set(crate::clock::unix_ms() as f64 / 1000.0);
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("requests", "Requests answered", self.requests.clone());
        r.register(
            "updates_accepted",
            "Updates accepted",
            self.updates_accepted.clone(),
        );
        r.register(
            "updates_refused",
            "Updates refused",
            self.updates_refused.clone(),
        );
        r.register(
            "updates_counted_less",
            "Updates that counted less than their weight in a merge",
            self.updates_counted_less.clone(),
        );
        r.register(
            "updates_flagged",
            "Updates that stood out in their merge",
            self.updates_flagged.clone(),
        );
        r.register(
            "updates_tried",
            "Updates that stood out and were tried alone",
            self.updates_tried.clone(),
        );
        r.register(
            "probe_loss",
            "Held-out loss of the merge that was probed last, in nats per token",
            self.probe_loss.clone(),
        );
        r.register("audits", "Audits ended", self.audits.clone());
        r.register(
            "audit_trainings",
            "Audited assignments trained again",
            self.audit_trainings.clone(),
        );
        r.register(
            "audits_contradicted",
            "Audits in which a third contradicted the node that trained again",
            self.audits_contradicted.clone(),
        );
        r.register(
            "standing_changes",
            "Changes of nodes' standing",
            self.standing_changes.clone(),
        );
        r.register("rounds_merged", "Rounds merged", self.rounds_merged.clone());
        r.register(
            "rounds_abandoned",
            "Rounds closed without a merge",
            self.rounds_abandoned.clone(),
        );
        r.register_with_unit(
            "merge_duration",
            "Time to compute and store a merge",
            Unit::Seconds,
            self.merge_seconds.clone(),
        );
        r.register_with_unit(
            "event_append_duration",
            "Time until appended events are durable",
            Unit::Seconds,
            self.append_seconds.clone(),
        );
        r.register(
            "connections_open",
            "Open connections",
            self.connections_open.clone(),
        );
        r.register(
            "connections_closed",
            "Connections that the server did not take, or closed for want of room or for silence",
            self.connections_closed.clone(),
        );
        r.register_with_unit(
            "received",
            "Request bodies",
            Unit::Bytes,
            self.received_bytes.clone(),
        );
        r.register_with_unit("sent", "Blobs sent", Unit::Bytes, self.sent_bytes.clone());
        r.register(
            "nodes_connected",
            "Nodes with an open directive stream",
            self.nodes_connected.clone(),
        );
        r.register(
            "workers_live",
            "Workers heard of lately",
            self.workers_live.clone(),
        );
        r.register("runs_live", "Runs being driven", self.runs_live.clone());
        r.register_with_unit(
            "process_start",
            "Start of the process since 1970",
            Unit::Seconds,
            self.started_seconds.clone(),
        );
    }

    /// OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &self.registry).is_err() {
            let _ = writeln!(text, "# encoding failed");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_numbers_appear_in_the_text() {
        let metrics = Metrics::new();
        metrics
            .updates_refused
            .get_or_create(&CodeLabel {
                code: "late".into(),
            })
            .inc();
        let text = metrics.encode();
        assert!(
            text.contains("opengpu_updates_refused_total{code=\"late\"} 1"),
            "{text}"
        );
    }
}
