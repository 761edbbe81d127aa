//! Requests for blobs; [`Download`](crate::Download) puts them together for large ones.

use std::time::Duration;

use opengpu_rounds::Hash;
use reqwest::{Response, StatusCode};

use super::send::Call;
use super::{Client, ClientError};
use crate::download::CHUNK_BYTES;
use crate::wire::BlobManifest;

impl Client {
    /// `GET /v1/blobs/{hash}` in one go, for blobs of at most `limit` bytes that fit in
    /// memory. Verified.
    pub async fn blob(&self, hash: Hash, limit: u64) -> Result<Vec<u8>, ClientError> {
        let mut problem = String::new();
        // A blob that breaks off or arrives damaged is fetched again; small ones are not
        // worth resuming.
        for _ in 0..3 {
            let response = self.open_blob(hash, 0, Duration::from_secs(20)).await?;
            let body = match self.read(&operation(hash), response, limit).await {
                Ok(body) => body,
                Err(error) if error.is_final() => return Err(error),
                Err(error) => {
                    problem = error.to_string();
                    continue;
                }
            };
            let found = Hash::of(&body);
            if found == hash {
                return Ok(body);
            }
            problem = format!("{} bytes came whose hash is {found}", body.len());
        }
        Err(ClientError::WrongBytes {
            blob: hash,
            problem,
        })
    }

    /// `GET /v1/blobs/{hash}/manifest`, refused unless it describes at most `limit` bytes.
    pub async fn blob_manifest(&self, hash: Hash, limit: u64) -> Result<BlobManifest, ClientError> {
        let operation = format!("fetch the manifest of blob {hash}");
        let call = Call::get(&operation, format!("/v1/blobs/{hash}/manifest"));
        let response = self.send(&call).await?;
        // 64 digits, quotes and a comma for each chunk.
        let most = 1024 + 70 * limit.div_ceil(CHUNK_BYTES);
        let body = self.read(&operation, response, most).await?;
        let manifest: BlobManifest =
            serde_json::from_slice(&body).map_err(|source| ClientError::BadAnswer {
                operation,
                server: self.server().to_owned(),
                expected: "manifest",
                source,
            })?;
        let checked = manifest.check(limit);
        checked.map_err(|problem| ClientError::WrongBytes {
            blob: hash,
            problem,
        })?;
        Ok(manifest)
    }

    /// Opens a blob at a byte.
    pub(crate) async fn open_blob(
        &self,
        hash: Hash,
        from: u64,
        stall: Duration,
    ) -> Result<Response, ClientError> {
        let range_from = (from > 0).then_some(from);
        let call = Call::get(operation(hash), format!("/v1/blobs/{hash}"));
        let call = Call {
            timeout: None,
            attempts: 3,
            range_from,
            ..call
        };
        let response = tokio::time::timeout(stall, self.send(&call))
            .await
            .map_err(|_| self.stalled(hash, stall))??;
        if from > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
            let problem = format!("the coordinator does not resume at byte {from}");
            return Err(ClientError::WrongBytes {
                blob: hash,
                problem,
            });
        }
        Ok(response)
    }

    pub(crate) fn stalled(&self, hash: Hash, stall: Duration) -> ClientError {
        ClientError::Stalled {
            operation: operation(hash),
            server: self.server().to_owned(),
            seconds: stall.as_secs(),
        }
    }

    pub(crate) fn broken(&self, hash: Hash, source: reqwest::Error) -> ClientError {
        ClientError::Unreachable {
            operation: operation(hash),
            server: self.server().to_owned(),
            source,
        }
    }
}

fn operation(hash: Hash) -> String {
    format!("fetch blob {hash}")
}
