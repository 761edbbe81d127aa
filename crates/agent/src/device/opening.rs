//! Opens the chunks that the coordinator drew of an audited update. It asks in each plan until
//! it has them, so that nothing is remembered here but when they were sent last.

use std::time::{Duration, Instant};

use opengpu_protocol::wire::Drawn;
use opengpu_rounds::{Hash, RunId};

use super::Device;
use crate::connection::chain;

/// How long openings may be on their way before they are sent again.
const AGAIN: Duration = Duration::from_secs(10);
/// Updates whose openings were sent that are remembered.
const REMEMBERED: usize = 64;

impl Device {
    /// Sends what is asked for and can be opened.
    pub(super) async fn open_drawn(&mut self, run: RunId, asked: &[Drawn]) {
        for drawn in asked {
            let name = (run, drawn.assignment);
            let recent = self
                .opened
                .get(&name)
                .is_some_and(|at| at.elapsed() < AGAIN);
            if recent || self.job.as_ref().is_none_or(|job| job.run != run) {
                continue;
            }
            let chunks: Vec<usize> = drawn.chunks.iter().map(|chunk| *chunk as usize).collect();
            let assignment = drawn.assignment;
            let made = self
                .compute(move |job, buffers| {
                    buffers.feedback.openings(&job.layout, assignment, &chunks)
                })
                .await;
            self.opened.insert(name, Instant::now());
            while self.opened.len() > REMEMBERED {
                self.opened.pop_first();
            }
            let openings = match made {
                Ok(Some(openings)) => openings,
                Ok(None) => {
                    tracing::warn!(
                        device = self.number, %run, %assignment,
                        "chunks of an update are asked for that is not kept any more"
                    );
                    continue;
                }
                Err(error) => {
                    tracing::warn!(
                        device = self.number, %run, %assignment, error = format!("{error:#}"),
                        "an update could not be opened"
                    );
                    continue;
                }
            };
            let (client, device) = (self.shared.client.clone(), self.number);
            tokio::spawn(async move {
                let hash = Hash::of(&openings);
                let sent = client.put_openings(run, assignment, hash, openings.into());
                match sent.await {
                    Ok(()) => tracing::info!(device, %run, %assignment, "opened for an audit"),
                    Err(error) => tracing::info!(
                        device, %run, %assignment, error = chain(&error),
                        "openings not sent yet"
                    ),
                }
            });
        }
    }
}
