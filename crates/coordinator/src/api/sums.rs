//! What the ledgers come to: for everyone who could add it up from the ledgers, and by the names
//! of people for the operator alone.

use axum::Json;
use axum::extract::State;
use opengpu_ledger::{Day, Totals};
use opengpu_protocol::ledger::{LedgerSum, SumsBy, SumsRebuilt};
use opengpu_protocol::query::SumsQuery;
use opengpu_rounds::RunId;

use super::error::{ApiError, ApiResult};
use super::extract::{Asked, Called, Caller};
use super::runs::find;
use crate::Coordinator;
use crate::store::SumKey;

/// `GET /v1/ledger/sums`
pub async fn sums(
    State(coordinator): State<Coordinator>,
    Called(caller): Called,
    Asked(wanted): Asked<SumsQuery>,
) -> ApiResult<Json<Vec<LedgerSum>>> {
    let run = match wanted.run {
        Some(run) => Some(find(&coordinator, RunId(run))?.id),
        None => None,
    };
    let store = coordinator.store();
    let key = match wanted.by {
        SumsBy::Node => Some(SumKey::Node),
        SumsBy::Run => Some(SumKey::Run),
        SumsBy::Day => Some(SumKey::Day),
        SumsBy::Account | SumsBy::Team => None,
    };
    let sums = if let Some(key) = key {
        let sums = store.sums(key, run).await.map_err(anyhow::Error::from)?;
        let named = sums.into_iter().map(|(number, totals)| {
            let name = match key {
                SumKey::Day => Day(number).to_string(),
                SumKey::Node | SumKey::Run => number.to_string(),
            };
            sum(Some(name), &totals)
        });
        named.collect()
    } else if caller == Caller::Operator {
        let by_team = wanted.by == SumsBy::Team;
        let sums = store.sums_by_owner(by_team, run).await;
        let sums = sums.map_err(anyhow::Error::from)?.into_iter();
        sums.map(|(name, totals)| sum(name, &totals)).collect()
    } else {
        return Err(ApiError::forbidden(
            "names_people",
            "whose a node is only the operator is told; ask for sums by node, run or day",
        ));
    };
    Ok(Json(sums))
}

/// `POST /v1/ledger/rebuild`
pub async fn rebuild(State(coordinator): State<Coordinator>) -> ApiResult<Json<SumsRebuilt>> {
    let rebuilt = coordinator.store().rebuild_sums().await;
    let rebuilt = rebuilt.map_err(anyhow::Error::from)?;
    if rebuilt.differed > 0 {
        tracing::warn!(
            differed = rebuilt.differed,
            "sums were not what the ledgers come to"
        );
    }
    Ok(Json(SumsRebuilt {
        lines: rebuilt.lines,
        differed: rebuilt.differed,
    }))
}

fn sum(of: Option<String>, totals: &Totals) -> LedgerSum {
    // What is stored has 64 bits; sums of it over a whole installation still do.
    let narrow = |number: i128| i64::try_from(number).unwrap_or(i64::MAX);
    LedgerSum {
        of,
        tokens: narrow(totals.tokens),
        megaflops: narrow(totals.megaflops),
        accepted: totals.accepted,
        rejected: totals.rejected,
        audits_passed: totals.audits_passed,
        audits_failed: totals.audits_failed,
        audits_undecided: totals.audits_undecided,
        corrections: totals.corrections,
        trained_again: totals.trained_again,
    }
}
