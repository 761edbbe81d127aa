//! The first half of an audit, which costs nothing: that the payload is what the codec makes of
//! what its worker committed itself to, and that this follows from the worker's update before
//! ([`opengpu_merge::audit`]).

use std::sync::Arc;

use anyhow::Context;
use opengpu_merge::audit::{Before, Claim, Opened, WrongOpening, check_openings, draw_chunks};
use opengpu_rounds::{Audit, Hash};

use crate::blobs::Blobs;
use crate::driver::LiveRun;

/// What a claim is checked with.
struct Evidence {
    payload: bytes::Bytes,
    before: Option<Earlier>,
    openings: bytes::Bytes,
}

/// The worker's update before, and what was taken back since.
struct Earlier {
    root: Hash,
    payload: bytes::Bytes,
    taken_back: Vec<(bytes::Bytes, f32)>,
}

/// The drawn chunks, if the claim follows from its worker's commitments.
pub(super) async fn prove(
    blobs: &Blobs,
    run: &LiveRun,
    audit: &Audit,
) -> anyhow::Result<Result<Vec<Opened>, WrongOpening>> {
    let evidence = evidence(blobs, audit).await?;
    let layout = Arc::clone(&run.layout);
    let (codec, decay) = (run.spec.sync.up.into(), run.spec.sync.feedback_decay);
    let chunks = drawn(run, audit);
    let root = audit.root.0;
    let proved = tokio::task::spawn_blocking(move || {
        let before = evidence.before.as_ref();
        let claim = Claim {
            codec,
            decay,
            payload: &evidence.payload,
            root,
            before: before.map(|earlier| Before {
                root: earlier.root.0,
                payload: &earlier.payload,
                given_back: earlier
                    .taken_back
                    .iter()
                    .map(|(payload, part)| (payload.as_ref(), *part))
                    .collect(),
            }),
            chunks: &chunks,
        };
        check_openings(&layout, &claim, &evidence.openings)
    });
    Ok(proved.await?)
}

async fn evidence(blobs: &Blobs, audit: &Audit) -> anyhow::Result<Evidence> {
    let openings = audit.openings.context("nothing was opened yet")?;
    let before = match &audit.before {
        None => None,
        Some(before) => {
            let mut taken_back = Vec::new();
            for (payload, part) in &before.taken_back {
                taken_back.push((blobs.read(*payload).await?, *part));
            }
            let payload = blobs.read(before.payload).await?;
            Some(Earlier {
                root: before.root,
                payload,
                taken_back,
            })
        }
    };
    Ok(Evidence {
        payload: blobs.read(audit.payload).await?,
        before,
        openings: blobs.read(openings).await?,
    })
}

/// The chunks that an audit's number draws.
pub fn drawn(run: &LiveRun, audit: &Audit) -> Vec<usize> {
    draw_chunks(&run.layout, audit.draw, run.spec.trust.audit_chunks)
}
