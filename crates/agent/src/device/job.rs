//! A device's part in one run: description, data, weights, error feedback.

use anyhow::Context;
use opengpu_merge::{Codec, Layout};
use opengpu_protocol::RunSpec;
use opengpu_rounds::{FeedbackId, Hash, Revision, RunId};
use opengpu_trainer_protocol::{ModelConfig, SharedFile, TensorShape, TokenFiles};

use super::Device;
use crate::feedback::{Feedback, Owner};
use crate::mirror::Mirror;

/// What a device has of the run it works for.
pub(super) struct Job {
    pub(super) run: RunId,
    pub(super) spec: RunSpec,
    pub(super) model: ModelConfig,
    pub(super) layout: Layout,
    pub(super) tokens: TokenFiles,
    pub(super) blocks_per_epoch: u64,
    pub(super) mirror: Mirror,
    /// The lineage that error feedback and the trainer's state belong to.
    pub(super) lineage: u32,
    /// None while a computation on the blocking pool has them.
    pub(super) buffers: Option<Buffers>,
    /// The weights in the buffer, verified.
    pub(super) revision: Option<Revision>,
    pub(super) digest: Option<Hash>,
    pub(super) feedback: FeedbackId,
    pub(super) loaded: bool,
    /// Measured; 0 until it is known.
    pub(super) blocks_per_second: f64,
}

/// The two buffers of all weights, in shared memory. The trainer's output is a third, which
/// is mapped only while an update is made of it.
pub(super) struct Buffers {
    pub(super) weights: SharedFile,
    pub(super) feedback: Feedback,
}

impl Job {
    pub(super) fn up(&self) -> Codec {
        self.spec.sync.up.into()
    }

    /// What its error feedback belongs to.
    fn owner(&self) -> Owner {
        Owner {
            run: self.run,
            lineage: self.lineage,
            parameters: self.layout.len(),
            audited: self.spec.round.audit.enabled,
        }
    }

    /// Takes the buffers for a computation; they come back with [`Self::put_back`].
    pub(super) fn take(&mut self) -> anyhow::Result<Buffers> {
        self.buffers
            .take()
            .context("the buffers were lost to a computation that panicked")
    }

    pub(super) fn put_back(&mut self, buffers: Buffers) {
        self.feedback = buffers.feedback.id();
        self.buffers = Some(buffers);
    }
}

impl Device {
    pub(super) fn weights_name(&self) -> String {
        format!("weights-{}", self.number)
    }

    pub(super) fn feedback_name(&self) -> String {
        format!("feedback-{}", self.number)
    }

    pub(super) fn local_name(&self) -> String {
        format!("local-{}", self.number)
    }

    pub(super) fn job(&mut self) -> anyhow::Result<&mut Job> {
        self.job.as_mut().context("no run was taken up")
    }

    /// Fetches a run's description and data, and opens the buffers.
    pub(super) async fn take_up(&mut self, run: RunId) -> anyhow::Result<()> {
        self.job = None;
        self.prepare(&format!("fetching the description of run {run}"));
        let view = self.shared.client.run(run).await?;
        let spec = view.spec;
        spec.check()
            .with_context(|| format!("run {run} is described wrongly"))?;
        let model = spec
            .model
            .clone()
            .with_context(|| format!("run {run} has no model"))?;
        let layout = Layout::new(model.tensors().iter().map(TensorShape::len));

        let (board, number) = (self.shared.board.clone(), self.number);
        let progress = move |what: String| {
            board.device(number, |status| {
                status.activity = Some(opengpu_protocol::wire::Activity::Preparing { what });
            })
        };
        let tokens = self
            .shared
            .shards
            .training(&view.dataset, &progress)
            .await?;

        let mirror = Mirror::open(&self.shared.home, self.shared.home.run(run, self.number))?;
        let lineage = view.revision.lineage;
        let owner = Owner {
            run,
            lineage,
            parameters: layout.len(),
            audited: spec.round.audit.enabled,
        };
        let journal = &self.journal;
        let (feedback, lost) = Feedback::open(
            &self.shared.folder,
            &self.feedback_name(),
            owner,
            |assignment| journal.contains(run, assignment),
        )?;
        if let Some(why) = lost {
            tracing::info!(
                device = self.number,
                run = run.0,
                why,
                feedback = feedback.id().0,
                "error feedback starts at zero"
            );
        }
        if let Some(settled) = feedback.settled() {
            self.outbox.forget(run, settled);
            self.journal.remove(run, settled)?;
        }
        let weights = self.open_weights(layout.len())?;
        self.job = Some(Job {
            run,
            model,
            tokens,
            blocks_per_epoch: spec.round.blocks_per_epoch,
            mirror,
            lineage,
            feedback: feedback.id(),
            buffers: Some(Buffers { weights, feedback }),
            layout,
            revision: None,
            digest: None,
            loaded: false,
            blocks_per_second: 0.0,
            spec,
        });
        self.forget_other_runs(run);
        tracing::info!(device = self.number, run = run.0, "took a run up");
        Ok(())
    }

    /// The run went back to an earlier revision under a new lineage.
    pub(super) async fn start_lineage(&mut self, lineage: u32) -> anyhow::Result<()> {
        let name = self.feedback_name();
        let folder = self.shared.folder.clone();
        let job = self.job()?;
        let mut buffers = job.take()?;
        let owner = Owner {
            lineage,
            ..job.owner()
        };
        buffers.feedback = Feedback::start(&folder, &name, owner)?;
        job.put_back(buffers);
        job.lineage = lineage;
        job.revision = None;
        job.digest = None;
        // Loading again makes the trainer forget its optimiser's state.
        job.loaded = false;
        let (run, feedback) = (job.run, job.feedback);
        let gone: Vec<_> = self
            .journal
            .entries()
            .filter(|entry| entry.run == run && entry.notice.base.lineage < lineage)
            .map(|entry| entry.notice.assignment)
            .collect();
        for assignment in gone {
            self.outbox.forget(run, assignment);
            self.journal.remove(run, assignment)?;
        }
        tracing::info!(
            device = self.number,
            run = run.0,
            lineage,
            feedback = feedback.0,
            "the run went back; error feedback and optimiser start anew"
        );
        Ok(())
    }

    /// Starts error feedback at zero under a new id: what the coordinator knows of the one there
    /// is does not lead to it.
    pub(super) async fn start_feedback(&mut self, why: &str) -> anyhow::Result<()> {
        let (name, folder) = (self.feedback_name(), self.shared.folder.clone());
        let job = self.job()?;
        let mut buffers = job.take()?;
        buffers.feedback = Feedback::start(&folder, &name, job.owner())?;
        job.put_back(buffers);
        let (run, feedback) = (job.run.0, job.feedback.0);
        tracing::info!(
            device = self.number,
            run,
            why,
            feedback,
            "error feedback starts at zero"
        );
        Ok(())
    }

    fn open_weights(&self, parameters: usize) -> anyhow::Result<SharedFile> {
        let name = self.weights_name();
        let bytes = parameters as u64 * 4;
        if let Ok(Some(file)) = self.shared.folder.open(&name)
            && file.bytes().len() as u64 == bytes
        {
            return Ok(file);
        }
        Ok(self.shared.folder.create(&name, bytes)?)
    }

    /// Removes the mirrors of runs that this device no longer works for.
    fn forget_other_runs(&self, run: RunId) {
        let Ok(folders) = std::fs::read_dir(self.shared.home.runs()) else {
            return;
        };
        for folder in folders.flatten() {
            if folder.file_name() != *run.to_string() {
                let mirror = folder.path().join(self.number.to_string());
                let _ = std::fs::remove_dir_all(mirror);
                // Fails while another device still has its own in there.
                let _ = std::fs::remove_dir(folder.path());
            }
        }
    }
}
