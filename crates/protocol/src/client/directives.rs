//! The directive stream: newline-delimited JSON that never ends, with signs of life.

use std::time::Duration;

use reqwest::Response;

use super::lines::{LineTooLong, Lines};
use super::send::Call;
use super::{Client, ClientError};
use crate::wire::Plan;

/// Longest line that is read.
const LINE_LIMIT: usize = 4 << 20;

/// An open stream of plans.
#[derive(Debug)]
pub struct Directives {
    response: Response,
    lines: Lines,
    client: Client,
    silence: Duration,
}

const OPERATION: &str = "read the directives";

impl Client {
    /// `GET /v1/directives`. The stream counts as broken after `silence` without a byte.
    pub async fn directives(&self, silence: Duration) -> Result<Directives, ClientError> {
        let call = Call {
            timeout: None,
            attempts: 1,
            ..Call::get(OPERATION, "/v1/directives")
        };
        let response = tokio::time::timeout(silence, self.send(&call))
            .await
            .map_err(|_| stalled(self.server(), silence))??;
        let client = self.clone();
        Ok(Directives {
            response,
            lines: Lines::new(LINE_LIMIT),
            client,
            silence,
        })
    }
}

impl Directives {
    /// The next plan; None when the coordinator closed the stream. Dropping the future loses
    /// nothing.
    pub async fn next(&mut self) -> Result<Option<Plan>, ClientError> {
        loop {
            let line = self.lines.take_line();
            let line = line.map_err(|LineTooLong| ClientError::TooLarge {
                operation: OPERATION.to_owned(),
                limit: LINE_LIMIT as u64,
            })?;
            if let Some(line) = line {
                let plan =
                    serde_json::from_slice(line).map_err(|source| ClientError::BadAnswer {
                        operation: OPERATION.to_owned(),
                        server: self.client.server().to_owned(),
                        expected: "plan",
                        source,
                    })?;
                return Ok(Some(plan));
            }
            let chunk = tokio::time::timeout(self.silence, self.response.chunk())
                .await
                .map_err(|_| stalled(self.client.server(), self.silence))?
                .map_err(|source| ClientError::Unreachable {
                    operation: OPERATION.to_owned(),
                    server: self.client.server().to_owned(),
                    source,
                })?;
            match chunk {
                Some(chunk) => {
                    self.client.count_received(chunk.len());
                    self.lines.push(&chunk);
                }
                None => return Ok(None),
            }
        }
    }
}

fn stalled(server: &str, silence: Duration) -> ClientError {
    ClientError::Stalled {
        operation: OPERATION.to_owned(),
        server: server.to_owned(),
        seconds: silence.as_secs(),
    }
}
