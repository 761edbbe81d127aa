//! A run file becomes a run: filled in, checked against its dataset, stored, driven.

use std::sync::Arc;

use opengpu_protocol::RunSpec;
use opengpu_protocol::wire::DatasetManifest;
use opengpu_rounds::{Run, WEIGHING};
use opengpu_trainer_protocol::ModelConfig;

use crate::Coordinator;
use crate::api::error::{ApiError, ApiResult};
use crate::driver::{LiveRun, open};
use crate::store::CreateRunError;

/// Makes the run, in phase Draft; its first weights are made beside.
pub async fn submit(coordinator: &Coordinator, spec: RunSpec) -> ApiResult<Arc<LiveRun>> {
    spec.check_new()
        .map_err(|error| ApiError::unacceptable("bad_run", error.to_string()))?;
    let store = coordinator.store();
    let dataset = store
        .dataset(&spec.dataset)
        .await
        .map_err(anyhow::Error::from)?;
    let dataset = dataset.ok_or_else(|| {
        ApiError::unacceptable(
            "unknown_dataset",
            CreateRunError::UnknownDataset(spec.dataset.clone()).to_string(),
        )
    })?;
    let spec = complete(spec, &dataset)?;
    spec.check_new()
        .map_err(|error| ApiError::unacceptable("bad_run", error.to_string()))?;
    let created = Run::create(spec.round.clone(), coordinator.clock().now_ms());
    let id = match store.create_run(&spec, &[created]).await {
        Ok(id) => id,
        Err(error @ CreateRunError::NameTaken(_)) => {
            return Err(ApiError::conflict("name_taken", error.to_string()));
        }
        Err(error @ CreateRunError::UnknownDataset(_)) => {
            return Err(ApiError::unacceptable("unknown_dataset", error.to_string()));
        }
        Err(error) => return Err(ApiError::fault(&error.into())),
    };
    store
        .audit("operator", "run.create", &format!("{id} {:?}", spec.name))
        .await
        .map_err(anyhow::Error::from)?;
    let opened = open(store, id).await?;
    let (run, mailbox) = LiveRun::new(id, spec, dataset, opened.state)?;
    coordinator.start_driving(
        Arc::clone(&run),
        mailbox,
        (opened.epoch, opened.head, opened.snapshot),
    );
    Ok(run)
}

/// Fills in what a run file may leave out.
fn complete(mut spec: RunSpec, dataset: &DatasetManifest) -> ApiResult<RunSpec> {
    let refuse = |message: String| ApiError::unacceptable("bad_run", message);
    let model = match (&spec.model, &spec.preset) {
        (Some(model), _) => {
            if model.vocab_size != dataset.vocab_size {
                return Err(refuse(format!(
                    "model.vocab_size is {}, but the tokenizer of dataset `{}` has {} tokens; they must be equal",
                    model.vocab_size, dataset.name, dataset.vocab_size
                )));
            }
            model.clone()
        }
        (None, Some(preset)) => {
            let mut model = ModelConfig::preset(preset)
                .ok_or_else(|| refuse(format!("there is no preset `{preset}`")))?;
            model.vocab_size = dataset.vocab_size;
            model
        }
        (None, None) => return Err(refuse("give a preset or [model]".into())),
    };
    model.check().map_err(refuse)?;
    let context = model.max_position_embeddings;
    let blocks =
        opengpu_dataset::blocks_per_epoch(dataset.training.tokens, context, spec.block_sequences);
    if blocks == 0 {
        return Err(refuse(format!(
            "dataset `{}` has {} training tokens, fewer than one block of {} sequences of {context} tokens; \
             use more text, a smaller context or fewer sequences in a block",
            dataset.name, dataset.training.tokens, spec.block_sequences
        )));
    }
    spec.round.blocks_per_epoch = blocks;
    spec.round.audit = spec.audit_rules();
    spec.round.rollback_above = spec.trust.rollback_above;
    spec.round.weighing = WEIGHING;
    spec.model = Some(model);
    Ok(spec)
}
