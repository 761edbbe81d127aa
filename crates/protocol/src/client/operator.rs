//! The requests of an operator: command line, portal, tests.

use bytes::Bytes;
use opengpu_rounds::{Hash, NodeId, Revision, RunId};
use reqwest::Method;

use super::send::Call;
use super::{Client, ClientError};
use crate::RunSpec;
use crate::operator::{
    Exported, LogEntry, NodeAction, RollbackRequest, RunAction, SampleRequest, Sampled, TokenMade,
    TokenRequest, TokenView,
};
use crate::standing::ActionReason;
use crate::wire::{DatasetManifest, NodeView, RunView};

/// Longest that an export or a sample may take.
const LONG_SECONDS: u64 = 600;

impl Client {
    /// `GET /readyz`, tried once: whether the coordinator answers requests.
    pub async fn is_ready(&self) -> bool {
        let call = Call::get("ask whether the coordinator is ready", "/readyz").patient(5);
        self.done(&Call {
            attempts: 1,
            ..call
        })
        .await
        .is_ok()
    }

    /// `GET /v1/runs`.
    pub async fn runs(&self) -> Result<Vec<RunView>, ClientError> {
        self.json(&Call::get("list the runs", "/v1/runs"), "list of runs")
            .await
    }

    /// `POST /v1/runs`: a new run, in phase Draft.
    pub async fn create_run(&self, spec: &RunSpec) -> Result<RunView, ClientError> {
        let operation = format!("create the run {:?}", spec.name);
        let call = Call::json(operation, Method::POST, "/v1/runs", spec);
        // Creating writes first weights, which takes a trainer's start.
        self.json(&call.once().patient(LONG_SECONDS), "run").await
    }

    /// `POST /v1/runs/{run}/{start|pause|resume|stop}`.
    pub async fn act_on_run(&self, run: RunId, action: RunAction) -> Result<(), ClientError> {
        let action = action.as_str();
        let path = format!("/v1/runs/{run}/{action}");
        self.done(&Call {
            method: Method::POST,
            ..Call::get(format!("{action} run {run}"), path)
        })
        .await
    }

    /// `POST /v1/runs/{run}/rollback`.
    pub async fn rollback(&self, run: RunId, to: Revision) -> Result<(), ClientError> {
        let operation = format!("roll run {run} back to revision {to}");
        let path = format!("/v1/runs/{run}/rollback");
        self.done(&Call::json(operation, Method::POST, path, &RollbackRequest { to }).once())
            .await
    }

    /// `POST /v1/runs/{run}/export`. With `download` the files can be fetched as blobs for
    /// a while.
    pub async fn export(&self, run: RunId, download: bool) -> Result<Exported, ClientError> {
        let path = format!("/v1/runs/{run}/export?download={download}");
        let call = Call {
            method: Method::POST,
            ..Call::get(format!("export run {run}"), path)
        };
        self.json(&call.patient(LONG_SECONDS), "export").await
    }

    /// `POST /v1/runs/{run}/sample`.
    pub async fn sample(
        &self,
        run: RunId,
        request: &SampleRequest,
    ) -> Result<Sampled, ClientError> {
        let path = format!("/v1/runs/{run}/sample");
        let call = Call::json(
            format!("sample from run {run}"),
            Method::POST,
            path,
            request,
        );
        self.json(&call.patient(LONG_SECONDS), "sample").await
    }

    /// `GET /v1/runs/{run}/log?after=`: decisions with a sequence number above `after`.
    pub async fn log(&self, run: RunId, after: u64) -> Result<Vec<LogEntry>, ClientError> {
        let path = format!("/v1/runs/{run}/log?after={after}");
        self.json(
            &Call::get(format!("read the log of run {run}"), path),
            "log",
        )
        .await
    }

    /// The whole log of a run, page after page.
    pub async fn whole_log(&self, run: RunId) -> Result<Vec<LogEntry>, ClientError> {
        let mut entries = Vec::new();
        loop {
            let after = entries.last().map_or(0, |entry: &LogEntry| entry.sequence);
            let page = self.log(run, after).await?;
            if page.is_empty() {
                return Ok(entries);
            }
            entries.extend(page);
        }
    }

    /// `PUT /v1/blobs/{hash}`; returns the name.
    pub async fn upload_blob(&self, bytes: Bytes) -> Result<Hash, ClientError> {
        let hash = Hash::of(&bytes);
        let operation = format!("upload blob {hash} ({} bytes)", bytes.len());
        self.done(&Call::bytes(operation, format!("/v1/blobs/{hash}"), bytes))
            .await?;
        Ok(hash)
    }

    /// `GET /v1/datasets`.
    pub async fn datasets(&self) -> Result<Vec<DatasetManifest>, ClientError> {
        self.json(
            &Call::get("list the datasets", "/v1/datasets"),
            "list of datasets",
        )
        .await
    }

    /// `POST /v1/datasets`, after its blobs were uploaded.
    pub async fn add_dataset(&self, manifest: &DatasetManifest) -> Result<(), ClientError> {
        let operation = format!("add the dataset {:?}", manifest.name);
        self.done(&Call::json(
            operation,
            Method::POST,
            "/v1/datasets",
            manifest,
        ))
        .await
    }

    /// `GET /v1/datasets/{name}`.
    pub async fn dataset(&self, name: &str) -> Result<DatasetManifest, ClientError> {
        let path = format!("/v1/datasets/{}", path_segment(name));
        self.json(
            &Call::get(format!("look at the dataset {name:?}"), path),
            "dataset",
        )
        .await
    }

    /// `DELETE /v1/datasets/{name}`.
    pub async fn remove_dataset(&self, name: &str) -> Result<(), ClientError> {
        let path = format!("/v1/datasets/{}", path_segment(name));
        let call = Call::get(format!("remove the dataset {name:?}"), path);
        self.done(&Call {
            method: Method::DELETE,
            ..call
        })
        .await
    }

    /// `GET /v1/nodes`.
    pub async fn nodes(&self) -> Result<Vec<NodeView>, ClientError> {
        self.json(&Call::get("list the nodes", "/v1/nodes"), "list of nodes")
            .await
    }

    /// `GET /v1/nodes/{id}`.
    pub async fn node_view(&self, node: NodeId) -> Result<NodeView, ClientError> {
        let call = Call::get(format!("look at node {node}"), format!("/v1/nodes/{node}"));
        self.json(&call, "node").await
    }

    /// `POST /v1/nodes/{id}/{approve|drain|quarantine|ban|restore|vouch|distrust}`.
    pub async fn act_on_node(&self, node: NodeId, action: NodeAction) -> Result<(), ClientError> {
        self.act_on_node_because(node, action, None).await
    }

    /// The same, with a reason for the node's owner.
    pub async fn act_on_node_because(
        &self,
        node: NodeId,
        action: NodeAction,
        reason: Option<String>,
    ) -> Result<(), ClientError> {
        let action = action.as_str();
        let operation = format!("{action} node {node}");
        let path = format!("/v1/nodes/{node}/{action}");
        let call = match reason {
            Some(_) => Call::json(operation, Method::POST, path, &ActionReason { reason }),
            None => Call {
                method: Method::POST,
                ..Call::get(operation, path)
            },
        };
        self.done(&call).await
    }

    /// `POST /v1/tokens`.
    pub async fn make_token(&self, request: &TokenRequest) -> Result<TokenMade, ClientError> {
        let call = Call::json(
            "make an enrolment token",
            Method::POST,
            "/v1/tokens",
            request,
        );
        self.json(&call.once(), "token").await
    }

    /// `GET /v1/tokens`.
    pub async fn tokens(&self) -> Result<Vec<TokenView>, ClientError> {
        let call = Call::get("list the enrolment tokens", "/v1/tokens");
        self.json(&call, "list of tokens").await
    }

    /// `DELETE /v1/tokens/{hash}`.
    pub async fn revoke_token(&self, hash: Hash) -> Result<(), ClientError> {
        let call = Call::get(
            format!("revoke the enrolment token {hash}"),
            format!("/v1/tokens/{hash}"),
        );
        self.done(&Call {
            method: Method::DELETE,
            ..call
        })
        .await
    }
}

/// A name as one segment of a path, percent-encoded (RFC 3986) so that it means the same in
/// the request line and in what is signed.
pub(crate) fn path_segment(name: &str) -> String {
    use std::fmt::Write;
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
            path.push(char::from(byte));
        } else if byte == b'.' && !matches!(name, "." | "..") {
            path.push('.');
        } else {
            // Writing into a string can't fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::path_segment;

    #[test]
    fn a_name_stays_one_segment_whatever_is_in_it() {
        assert_eq!(path_segment("shakespeare-1.0"), "shakespeare-1.0");
        assert_eq!(path_segment("../runs/1?x=ä"), "..%2Fruns%2F1%3Fx%3D%C3%A4");
        assert_eq!(path_segment(".."), "%2E%2E");
    }
}
