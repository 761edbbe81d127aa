//! The requests of an agent.

use bytes::Bytes;
use opengpu_rounds::{AssignmentId, Hash, Revision, RunId, WorkerId};
use reqwest::Method;

use super::send::Call;
use super::{Client, ClientError};
use crate::wire::{
    Enrol, Enrolled, Hello, History, Offer, Offered, Report, Reported, RunView, UpdateNotice,
    VERSION, Verdict, Welcome,
};

impl Client {
    /// `POST /v1/hello`: agrees on a version and learns the coordinator's clock.
    pub async fn hello(&self, software: &str) -> Result<Welcome, ClientError> {
        let hello = Hello {
            oldest: VERSION,
            newest: VERSION,
            software: software.to_owned(),
        };
        let call = Call::json("greet the coordinator", Method::POST, "/v1/hello", &hello);
        let welcome: Welcome = self.json(&call, "welcome").await?;
        self.inner.clock.learn_time(welcome.unix_ms);
        Ok(welcome)
    }

    /// `POST /v1/nodes`: enrols this machine's key; the same key gets the same node again.
    pub async fn enrol(&self, enrol: &Enrol) -> Result<Enrolled, ClientError> {
        let operation = format!("enrol this machine as {:?}", enrol.name);
        self.json(
            &Call::json(operation, Method::POST, "/v1/nodes", enrol),
            "enrolment",
        )
        .await
    }

    /// `PUT /v1/workers/{device}`.
    pub async fn offer(&self, device: u32, offer: &Offer) -> Result<Offered, ClientError> {
        let path = format!("/v1/workers/{device}");
        let call = Call::json(format!("offer device {device}"), Method::PUT, path, offer);
        self.json(&call, "worker").await
    }

    /// `POST /v1/workers/{worker}/report`. Tried once: the next report is a second away.
    pub async fn report(&self, worker: WorkerId, report: &Report) -> Result<Reported, ClientError> {
        let path = format!("/v1/workers/{worker}/report");
        let call = Call::json(
            format!("report for worker {worker}"),
            Method::POST,
            path,
            report,
        );
        self.json(
            &Call {
                attempts: 1,
                ..call.patient(10)
            },
            "answer to a report",
        )
        .await
    }

    /// `GET /v1/runs/{run}`.
    pub async fn run(&self, run: RunId) -> Result<RunView, ClientError> {
        self.json(
            &Call::get(format!("look at run {run}"), format!("/v1/runs/{run}")),
            "run",
        )
        .await
    }

    /// `GET /v1/runs/{run}/history`: how to get from `after` to the newest revision.
    pub async fn history(&self, run: RunId, after: Revision) -> Result<History, ClientError> {
        let path = format!(
            "/v1/runs/{run}/history?lineage={}&after={}",
            after.lineage, after.number
        );
        let operation = format!("fetch the history of run {run} after revision {after}");
        self.json(&Call::get(operation, path), "history").await
    }

    /// `PUT /v1/runs/{run}/payloads/{hash}`.
    pub async fn put_payload(
        &self,
        run: RunId,
        hash: Hash,
        payload: Bytes,
    ) -> Result<(), ClientError> {
        let operation = format!(
            "send payload {hash} ({} bytes) for run {run}",
            payload.len()
        );
        self.done(&Call::bytes(
            operation,
            format!("/v1/runs/{run}/payloads/{hash}"),
            payload,
        ))
        .await
    }

    /// `POST /v1/runs/{run}/updates`.
    pub async fn post_update(&self, run: RunId, notice: &UpdateNotice) -> Result<(), ClientError> {
        let operation = format!("send the update of assignment {}", notice.assignment);
        let path = format!("/v1/runs/{run}/updates");
        self.done(&Call::json(operation, Method::POST, path, notice))
            .await
    }

    /// `GET /v1/runs/{run}/updates/{assignment}`.
    pub async fn verdict(
        &self,
        run: RunId,
        assignment: AssignmentId,
    ) -> Result<Verdict, ClientError> {
        let operation = format!("ask for the verdict on assignment {assignment}");
        let path = format!("/v1/runs/{run}/updates/{assignment}");
        self.json(&Call::get(operation, path), "verdict").await
    }
}
