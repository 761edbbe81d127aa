//! The requests of an agent.

use bytes::Bytes;
use opengpu_rounds::{AssignmentId, Hash, Revision, RunId, WorkerId};
use reqwest::Method;

use super::send::Call;
use super::{Client, ClientError};
use crate::audits::AuditDeclined;
use crate::ledger::{LedgerHead, LedgerProof};
use crate::wire::{
    Enrol, Enrolled, Hello, History, Offer, Offered, Report, Reported, RunView, UpdateNotice,
    VERSION, Verdict, Welcome,
};

/// Longest page of a ledger: 1000 lines of 1 KiB.
const LEDGER_PAGE_BYTES: u64 = 2 << 20;
/// Longest receipt.
const RECEIPT_BYTES: u64 = 64 << 10;

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

    /// `GET /v1/runs/{run}/history?to=`: how to make a revision from a checkpoint.
    pub async fn history_to(&self, run: RunId, to: Revision) -> Result<History, ClientError> {
        let path = format!(
            "/v1/runs/{run}/history?lineage={}&to={}",
            to.lineage, to.number
        );
        let operation = format!("fetch how revision {to} of run {run} is made");
        self.json(&Call::get(operation, path), "history").await
    }

    /// `PUT /v1/runs/{run}/payloads/{hash}`.
    pub async fn put_payload(
        &self,
        run: RunId,
        hash: Hash,
        payload: Bytes,
    ) -> Result<(), ClientError> {
        let path = format!("/v1/runs/{run}/payloads/{hash}");
        self.payload(run, hash, path, payload).await
    }

    /// `PUT /v1/runs/{run}/payloads/{hash}?assignment=`: if it is refused, the ledger says so
    /// under that assignment.
    pub async fn put_payload_for(
        &self,
        run: RunId,
        assignment: AssignmentId,
        hash: Hash,
        payload: Bytes,
    ) -> Result<(), ClientError> {
        let path = format!("/v1/runs/{run}/payloads/{hash}?assignment={assignment}");
        self.payload(run, hash, path, payload).await
    }

    async fn payload(
        &self,
        run: RunId,
        hash: Hash,
        path: String,
        payload: Bytes,
    ) -> Result<(), ClientError> {
        let operation = format!(
            "send payload {hash} ({} bytes) for run {run}",
            payload.len()
        );
        self.done(&Call::bytes(operation, path, payload)).await
    }

    /// `PUT /v1/runs/{run}/openings/{assignment}/{hash}`.
    pub async fn put_openings(
        &self,
        run: RunId,
        assignment: AssignmentId,
        hash: Hash,
        openings: Bytes,
    ) -> Result<(), ClientError> {
        let operation = format!("open drawn chunks of update {assignment} of run {run}");
        let path = format!("/v1/runs/{run}/openings/{assignment}/{hash}");
        self.done(&Call::bytes(operation, path, openings)).await
    }

    /// `PUT /v1/runs/{run}/audits/{number}/{hash}`: what training an assignment again gave.
    pub async fn put_audit(
        &self,
        run: RunId,
        number: u64,
        hash: Hash,
        again: Bytes,
    ) -> Result<(), ClientError> {
        let operation = format!("send what audit {number} of run {run} gave");
        let path = format!("/v1/runs/{run}/audits/{number}/{hash}");
        self.done(&Call::bytes(operation, path, again)).await
    }

    /// `POST /v1/runs/{run}/audits/{number}`: this node can't make an audit.
    pub async fn decline_audit(
        &self,
        run: RunId,
        number: u64,
        declined: &AuditDeclined,
    ) -> Result<(), ClientError> {
        let operation = format!("decline audit {number} of run {run}");
        let path = format!("/v1/runs/{run}/audits/{number}");
        self.done(&Call::json(operation, Method::POST, path, declined))
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

    /// `GET /v1/runs/{run}/ledger`: the ledger's signed head and its key.
    pub async fn ledger_head(&self, run: RunId) -> Result<LedgerHead, ClientError> {
        let path = format!("/v1/runs/{run}/ledger");
        let operation = format!("ask for the head of the ledger of run {run}");
        self.json(&Call::get(operation, path), "ledger's head")
            .await
    }

    /// `GET /v1/runs/{run}/ledger/lines?first=`: at most 1000 lines.
    pub async fn ledger_lines(&self, run: RunId, first: u64) -> Result<Vec<u8>, ClientError> {
        let path = format!("/v1/runs/{run}/ledger/lines?first={first}");
        let operation = format!("fetch lines of the ledger of run {run} from {first} on");
        self.bytes(&Call::get(operation, path), LEDGER_PAGE_BYTES)
            .await
    }

    /// `GET /v1/runs/{run}/ledger/consistency?older=`: a head, and the proof that it goes on the
    /// ledger of `older` entries.
    pub async fn ledger_consistency(
        &self,
        run: RunId,
        older: u64,
    ) -> Result<LedgerProof, ClientError> {
        let path = format!("/v1/runs/{run}/ledger/consistency?older={older}");
        let operation = format!("ask whether the ledger of run {run} still goes on");
        self.json(&Call::get(operation, path), "ledger's proof")
            .await
    }

    /// `GET /v1/runs/{run}/ledger/receipts/{assignment}`: the receipt's file.
    pub async fn receipt(
        &self,
        run: RunId,
        assignment: AssignmentId,
    ) -> Result<Vec<u8>, ClientError> {
        let path = format!("/v1/runs/{run}/ledger/receipts/{assignment}");
        let operation = format!("fetch the receipt for assignment {assignment}");
        self.bytes(&Call::get(operation, path), RECEIPT_BYTES).await
    }

    /// `GET /v1/runs/{run}/ledger/receipts/{assignment}?code=`: the receipt's file of the
    /// rejection with this code, which is a word of letters, digits and `_`.
    pub async fn rejection_receipt(
        &self,
        run: RunId,
        assignment: AssignmentId,
        code: &str,
    ) -> Result<Vec<u8>, ClientError> {
        let path = format!("/v1/runs/{run}/ledger/receipts/{assignment}?code={code}");
        let operation = format!("fetch the receipt for the rejection of assignment {assignment}");
        self.bytes(&Call::get(operation, path), RECEIPT_BYTES).await
    }
}
