//! The coordinator's auditor, as in `crates/coordinator/src/driver/audits/`: the proof by
//! what was opened, then the assignment trained again, then the comparison.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use opengpu_dataset::TokenStream;
use opengpu_merge::Layout;
use opengpu_merge::audit::{
    Before, Claim, Opened, WrongOpening, check_openings, draw_chunks, farthest, typical_length,
};
use opengpu_protocol::RunSpec;
use opengpu_rounds::{Audit, Finding, Hash, Run};
use opengpu_trainer::{InnerLoop, Signals};
use opengpu_trainer_protocol::{InnerSettings, Precision};
use serde::{Deserialize, Serialize};

use super::figures::Watch;
use super::worker::Schedule;
use crate::Data;

/// Audits as a run of the product has them. Honest workers passed their probation long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Auditing {
    /// Whether hostile workers are on probation when the run starts. If not, they passed it by
    /// honest work before, and only a part of their updates is audited: the hard case. Fresh
    /// identities are on probation in any case.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hostile_are_new: bool,
}

/// Trains assignments again.
pub(super) struct Auditor {
    spec: RunSpec,
    inner: InnerLoop,
    /// Weights of the newest revisions that something was assigned on, by their number.
    bases: BTreeMap<u64, Vec<f32>>,
    pub(super) watch: Watch,
}

/// Revisions whose weights are kept: an update may be a round late, and its audit two.
const KEPT_BASES: usize = 4;

impl Auditor {
    pub(super) fn new(data: &Data, spec: RunSpec) -> Self {
        Self {
            // The same on every processor, whatever workers compute in.
            inner: InnerLoop::new(
                &data.model,
                &InnerSettings {
                    precision: Precision::Float32,
                    ..spec.inner.clone()
                },
            ),
            spec,
            bases: BTreeMap::new(),
            watch: Watch::default(),
        }
    }

    /// Remembers what assignments of a round start from.
    pub(super) fn keep(&mut self, number: u64, weights: &[f32]) {
        self.bases.insert(number, weights.to_vec());
        while self.bases.len() > KEPT_BASES {
            self.bases.pop_first();
        }
    }

    pub(super) fn drawn(&self, layout: &Layout, audit: &Audit) -> Vec<usize> {
        draw_chunks(layout, audit.draw, self.spec.trust.audit_chunks)
    }

    /// What comes of an audit. The coordinator trains a second time before it accuses anybody;
    /// here both trainings are of one program on one machine and give the same bytes. `class` is
    /// the worker's numerics class, as far as it says.
    pub(super) fn find(
        &mut self,
        (run, audit): (&Run, &Audit),
        layout: &Layout,
        blobs: &BTreeMap<Hash, Vec<u8>>,
        schedule: Schedule,
        (class, tokens): (&str, &mut TokenStream),
    ) -> Result<Finding> {
        let opened = match self.prove(audit, layout, blobs)? {
            Ok(opened) => opened,
            Err(wrong) => return Ok(Finding::failed("not_proven", wrong.to_string(), None)),
        };
        let global = self.bases.get(&audit.base.number);
        let global = global.context("the weights that an audit starts from are gone")?;
        let blocks = audit.blocks.iter().map(|b| (b.start, b.end)).collect();
        let mut request = schedule.request(run.span_of_audited(audit), blocks);
        request.at_most_blocks = Some(audit.blocks_completed);
        let signals = Signals::default();
        let (trained, local) =
            self.inner
                .train(global.clone(), tokens, &request, &signals, &mut |_| ())?;
        ensure!(
            trained.blocks == audit.blocks_completed,
            "the auditor trained {} blocks of {}",
            trained.blocks,
            audit.blocks_completed
        );
        let (typical, decay) = (
            typical_length(layout, global, &local),
            self.spec.sync.feedback_decay,
        );
        let weights: (&[f32], &[f32]) = (global, &local);
        for chunk in &opened {
            if let Err(wrong) = chunk.check_unsent(decay, weights, typical) {
                return Ok(Finding::failed("not_proven", wrong.to_string(), None));
            }
        }
        let measured = farthest(&opened, weights, typical);
        let own = self.inner.numerics_class();
        let blocks = audit.blocks_completed;
        let allowed = self.spec.audit_tolerance_between(class, &own, blocks);
        if measured <= allowed {
            return Ok(Finding::passed(measured, allowed));
        }
        let reason = format!("its progress differs by {measured:.3}, {allowed} is allowed");
        Ok(Finding::failed(
            "progress_differs",
            reason,
            Some((measured, allowed)),
        ))
    }

    /// Whether an update follows from what its worker committed itself to.
    fn prove(
        &self,
        audit: &Audit,
        layout: &Layout,
        blobs: &BTreeMap<Hash, Vec<u8>>,
    ) -> Result<Result<Vec<Opened>, WrongOpening>> {
        let blob = |hash: &Hash| {
            let found = blobs.get(hash).map(Vec::as_slice);
            found.with_context(|| format!("blob {hash} of an audit is gone"))
        };
        let before = match &audit.before {
            None => None,
            Some(before) => {
                let mut given_back = Vec::new();
                for (payload, part) in &before.taken_back {
                    given_back.push((blob(payload)?, *part));
                }
                Some(Before {
                    root: before.root.0,
                    payload: blob(&before.payload)?,
                    given_back,
                })
            }
        };
        let chunks = self.drawn(layout, audit);
        let claim = Claim {
            codec: self.spec.sync.up.into(),
            decay: self.spec.sync.feedback_decay,
            payload: blob(&audit.payload)?,
            root: audit.root.0,
            before,
            chunks: &chunks,
        };
        let openings = audit.openings.as_ref().context("nothing was opened yet")?;
        Ok(check_openings(layout, &claim, blob(openings)?))
    }
}
