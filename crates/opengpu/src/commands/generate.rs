//! `opengpu generate`: sample text from a Hugging Face folder, with the same trainer program
//! that trains.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use opengpu_trainer_protocol::{
    InnerSettings, ReplyBody, RequestBody, TrainerCommand, TrainerProcess,
};
use tempfile::TempDir;

use crate::{cli::Generate, output::show};

/// Carries out `generate`.
pub async fn run(json: bool, args: Generate) -> Result<()> {
    let tokenizer = args.model.join("tokenizer.json");
    if !tokenizer.is_file() {
        bail!(
            "{} holds no tokenizer.json; give a Hugging Face folder with --model, for example one that `opengpu run export` wrote",
            args.model.display()
        );
    }
    let scratch = scratch(&args.model).context("cannot make a temporary folder")?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let command = TrainerCommand::new(program, scratch.path().join("trainer.log"))
        .arg("trainer")
        .env("OPENGPU_DEVICE", "cpu");
    let trainer = TrainerProcess::spawn(&command).await?;
    let weights = scratch.path().join("weights");
    let import = RequestBody::Import {
        folder: args.model.clone(),
        out: weights.clone(),
    };
    let ReplyBody::Written { model, .. } = trainer.request(import).await? else {
        bail!("the trainer's answer to the import is not the one expected");
    };
    let load = RequestBody::Load {
        model,
        weights,
        tokens: None,
        inner: InnerSettings::default(),
    };
    trainer.request(load).await?;
    let sample = RequestBody::Sample {
        tokenizer,
        prompt: args.prompt.clone(),
        max_tokens: args.max_tokens,
        temperature: args.temperature,
        seed: args.seed,
    };
    let ReplyBody::Sampled { text } = trainer.request(sample).await? else {
        bail!("the trainer's answer to the sample is not the one expected");
    };
    trainer.stop(Duration::from_secs(5)).await;
    let answer = serde_json::json!({ "prompt": args.prompt, "text": text });
    show(json, &answer, |_| println!("{}{text}", args.prompt))
}

/// A folder for the unpacked weights: in shared memory where they find room, else on the disk.
fn scratch(model: &Path) -> std::io::Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let packed: u64 = std::fs::read_dir(model)?
        .flatten()
        .filter_map(|file| Some(file.metadata().ok()?.len()))
        .sum();
    // Half precision doubles when it is unpacked.
    let fits = fs4::available_space(memory).is_ok_and(|free| free > 2 * packed + (64 << 20));
    match cfg!(target_os = "linux") && fits {
        true => tempfile::Builder::new()
            .prefix("generate-")
            .tempdir_in(memory)
            .or_else(|_| tempfile::tempdir()),
        false => tempfile::tempdir(),
    }
}
