//! Datasets: manifests whose blobs were uploaded before.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use opengpu_protocol::wire::DatasetManifest;

use super::error::{ApiError, ApiResult};
use super::extract::{Parsed, Segments};
use crate::Coordinator;
use crate::store::DatasetError;

/// `GET /v1/datasets`
pub async fn list(State(coordinator): State<Coordinator>) -> ApiResult<Json<Vec<DatasetManifest>>> {
    Ok(Json(
        coordinator
            .store()
            .datasets()
            .await
            .map_err(anyhow::Error::from)?,
    ))
}

/// `GET /v1/datasets/{name}`
pub async fn get(
    State(coordinator): State<Coordinator>,
    Segments(name): Segments<String>,
) -> ApiResult<Json<DatasetManifest>> {
    match coordinator
        .store()
        .dataset(&name)
        .await
        .map_err(anyhow::Error::from)?
    {
        Some(manifest) => Ok(Json(manifest)),
        None => Err(refusal(DatasetError::Unknown(name))),
    }
}

/// `POST /v1/datasets`
pub async fn add(
    State(coordinator): State<Coordinator>,
    Parsed(manifest): Parsed<DatasetManifest>,
) -> ApiResult<Json<DatasetManifest>> {
    check(&manifest)?;
    let shards = manifest
        .training
        .shards
        .iter()
        .chain(&manifest.held_out.shards);
    for (hash, bytes) in shards
        .map(|shard| (shard.hash, Some(shard.bytes)))
        .chain([(manifest.tokenizer, None)])
    {
        let missing = || {
            ApiError::unacceptable(
                "missing_blob",
                format!("blob {hash} is not here; upload the dataset's blobs before its manifest"),
            )
        };
        // Young again, so that it is not collected before the row that names it is there.
        if !coordinator
            .blobs()
            .touch(hash)
            .await
            .map_err(anyhow::Error::from)?
        {
            return Err(missing());
        }
        let size = coordinator
            .blobs()
            .size(hash)
            .await
            .map_err(|_| missing())?;
        if bytes.is_some_and(|bytes| bytes != size) {
            return Err(ApiError::unacceptable(
                "wrong_size",
                format!(
                    "blob {hash} has {size} bytes, the manifest says {}",
                    bytes.unwrap_or(0)
                ),
            ));
        }
    }
    coordinator
        .store()
        .put_dataset(&manifest)
        .await
        .map_err(refusal)?;
    let detail = format!(
        "{:?}, {} training tokens",
        manifest.name, manifest.training.tokens
    );
    coordinator
        .store()
        .audit("operator", "dataset.add", &detail)
        .await
        .map_err(anyhow::Error::from)?;
    Ok(Json(manifest))
}

/// `DELETE /v1/datasets/{name}`
pub async fn remove(
    State(coordinator): State<Coordinator>,
    Segments(name): Segments<String>,
) -> ApiResult<StatusCode> {
    coordinator
        .store()
        .delete_dataset(&name)
        .await
        .map_err(refusal)?;
    coordinator
        .store()
        .audit("operator", "dataset.remove", &name)
        .await
        .map_err(anyhow::Error::from)?;
    Ok(StatusCode::OK)
}

fn check(manifest: &DatasetManifest) -> ApiResult<()> {
    let bad = |message: String| Err(ApiError::unacceptable("bad_manifest", message));
    if manifest.name.is_empty() || manifest.name.chars().count() > 100 {
        return bad("a dataset's name has 1 to 100 characters".into());
    }
    if !matches!(manifest.token_bytes, 2 | 4) {
        return bad(format!(
            "token_bytes is {}; it must be 2 or 4",
            manifest.token_bytes
        ));
    }
    if manifest.vocab_size == 0 || (manifest.token_bytes == 2 && manifest.vocab_size > 1 << 16) {
        return bad(format!(
            "vocab_size is {}, which {} bytes a token can't hold",
            manifest.vocab_size, manifest.token_bytes
        ));
    }
    for (what, part) in [
        ("training", &manifest.training),
        ("held_out", &manifest.held_out),
    ] {
        let bytes: u64 = part
            .shards
            .iter()
            .fold(0, |sum, shard| sum.saturating_add(shard.bytes));
        if part.tokens.checked_mul(u64::from(manifest.token_bytes)) != Some(bytes) {
            return bad(format!(
                "the {what} part has {bytes} bytes in its shards and {} tokens of {} bytes",
                part.tokens, manifest.token_bytes
            ));
        }
    }
    if manifest.training.tokens == 0 {
        return bad("the training part is empty".into());
    }
    Ok(())
}

fn refusal(error: DatasetError) -> ApiError {
    match error {
        error @ DatasetError::NameTaken(_) => ApiError::conflict("name_taken", error.to_string()),
        error @ DatasetError::Unknown(_) => {
            ApiError::not_found("unknown_dataset", error.to_string())
        }
        error @ DatasetError::InUse { .. } => {
            ApiError::conflict("dataset_in_use", error.to_string())
        }
        DatasetError::Store(error) => ApiError::fault(&error.into()),
    }
}
