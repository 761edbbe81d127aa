//! The requests about what the ledgers come to.

use opengpu_rounds::RunId;
use reqwest::Method;

use super::send::Call;
use super::{Client, ClientError};
use crate::ledger::{LedgerSum, SumsBy, SumsRebuilt};

impl Client {
    /// `GET /v1/ledger/sums?by=`: of all runs, or of one. By account and team for the operator
    /// alone.
    pub async fn ledger_sums(
        &self,
        by: SumsBy,
        run: Option<RunId>,
    ) -> Result<Vec<LedgerSum>, ClientError> {
        let by = by.as_str();
        let path = match run {
            Some(run) => format!("/v1/ledger/sums?by={by}&run={run}"),
            None => format!("/v1/ledger/sums?by={by}"),
        };
        let operation = format!("ask what the ledgers come to by {by}");
        self.json(&Call::get(operation, path), "list of sums").await
    }

    /// `POST /v1/ledger/rebuild`, for the operator: makes the sums again from the ledgers.
    pub async fn rebuild_sums(&self) -> Result<SumsRebuilt, ClientError> {
        let call = Call {
            method: Method::POST,
            ..Call::get("make the sums again", "/v1/ledger/rebuild")
        };
        self.json(&call.patient(600), "answer about sums").await
    }
}
