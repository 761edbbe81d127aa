//! `opengpu run …`: submit runs, look at them, steer them.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use opengpu_protocol::{Client, Download, RunSpec, operator::RunAction, wire::RunView};
use opengpu_rounds::{Hash, Revision, RunId};

use crate::{
    cli::{RunCommand, RunTarget},
    home::Home,
    output::{bytes, count, short, show, table},
    progress::{self, rounds},
    remote,
};

/// Carries out a `run` command.
pub async fn run(home: &Home, json: bool, command: RunCommand) -> Result<()> {
    match command {
        RunCommand::Submit { file, remote } => {
            let client = remote::operator(home, &remote)?;
            let view = submit(&client, &read_run_file(&file)?).await?;
            show(json, &view, |view| {
                println!("run {} ({}) is {}", view.run, view.spec.name, view.phase);
                println!("follow it with: opengpu run watch {}", view.run);
            })
        }
        RunCommand::List { remote } => {
            let runs = remote::operator(home, &remote)?.runs().await?;
            show(json, &runs, |runs| list(runs))
        }
        RunCommand::Show(target) => {
            let view = target_client(home, &target)?.run(id(&target)).await?;
            show(json, &view, print_run)
        }
        RunCommand::Watch(target) => {
            let client = target_client(home, &target)?;
            let view = progress::follow(&client, id(&target), json, || Ok(())).await?;
            show(json, &view, print_run)
        }
        RunCommand::Pause(target) => act(home, json, &target, RunAction::Pause).await,
        RunCommand::Resume(target) => act(home, json, &target, RunAction::Resume).await,
        RunCommand::Stop(target) => act(home, json, &target, RunAction::Stop).await,
        RunCommand::Rollback { target, to } => {
            let client = target_client(home, &target)?;
            let view = client.run(id(&target)).await?;
            let to = parse_revision(&to, view.revision.lineage)?;
            client.rollback(id(&target), to).await?;
            let view = client.run(id(&target)).await?;
            show(json, &view, |view| {
                println!("run {} is at revision {}", view.run, view.revision);
            })
        }
        RunCommand::Export { target, out } => {
            let client = target_client(home, &target)?;
            let path = match out {
                None => client.export(id(&target), false).await?.path,
                Some(out) => {
                    download(&client, id(&target), &out, json).await?;
                    out.display().to_string()
                }
            };
            show(json, &serde_json::json!({ "path": path }), |_| {
                println!("exported to {path}");
                println!("try it with: opengpu generate --model {path} --prompt \"…\"");
            })
        }
    }
}

/// Creates a run and starts it.
pub async fn submit(client: &Client, spec: &RunSpec) -> Result<RunView> {
    let view = client.create_run(spec).await?;
    client.act_on_run(view.run, RunAction::Start).await?;
    Ok(client.run(view.run).await?)
}

fn read_run_file(file: &Path) -> Result<RunSpec> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the run file {}", file.display()))?;
    RunSpec::from_toml(&text).with_context(|| format!("{} is no valid run file", file.display()))
}

fn id(target: &RunTarget) -> RunId {
    RunId(target.id)
}

fn target_client(home: &Home, target: &RunTarget) -> Result<Client> {
    remote::operator(home, &target.remote)
}

async fn act(home: &Home, json: bool, target: &RunTarget, action: RunAction) -> Result<()> {
    let client = target_client(home, target)?;
    client.act_on_run(id(target), action).await?;
    let view = client.run(id(target)).await?;
    show(json, &view, |view| {
        println!("run {} is {}: {}", view.run, view.phase, view.explanation);
    })
}

/// `2.40` or, in the live lineage, `40`.
fn parse_revision(text: &str, live_lineage: u32) -> Result<Revision> {
    let bad = || anyhow!("{text:?} is no revision; give LINEAGE.NUMBER, for example 0.20, or 20");
    let (lineage, number) = match text.split_once('.') {
        Some((lineage, number)) => (lineage.parse().map_err(|_| bad())?, number),
        None => (live_lineage, text),
    };
    let number = number.parse().map_err(|_| bad())?;
    Ok(Revision { lineage, number })
}

/// In a folder to which an export is being fetched; an interrupted one can go on.
const UNFINISHED: &str = ".opengpu-unfinished";

/// Has the coordinator export the newest revision and fetches it, each file verified. The
/// manifest comes last, so that a folder with it is whole; without it another try goes on.
async fn download(client: &Client, run: RunId, out: &Path, quiet: bool) -> Result<()> {
    let marker = out.join(UNFINISHED);
    let empty = std::fs::read_dir(out).map_or(true, |mut files| files.next().is_none());
    if !empty && !marker.exists() {
        bail!(
            "{} is not empty; choose another folder with --out, or empty that one",
            out.display()
        );
    }
    let exported = client.export(run, true).await?;
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    std::fs::write(&marker, b"").with_context(|| format!("cannot write in {}", out.display()))?;
    let bar = progress::bytes_bar(quiet, exported.files.iter().map(|file| file.bytes).sum());
    let mut before = 0;
    for file in &exported.files {
        let path = out.join(&file.name);
        if path.parent() != Some(out) {
            bail!("the coordinator names a file {:?}", file.name);
        }
        if path.exists() && hash_of(&path)? != file.blake3 {
            std::fs::remove_file(&path)
                .with_context(|| format!("cannot replace {}", path.display()))?;
        }
        bar.set_message(file.name.clone());
        let progress = |done, _| bar.set_position(before + done);
        let download = Download::new(file.blake3, &path, file.bytes);
        download.run(client, &progress).await?;
        before += file.bytes;
    }
    bar.finish_and_clear();
    std::fs::remove_file(&marker).with_context(|| format!("cannot remove {}", marker.display()))
}

fn hash_of(path: &Path) -> Result<Hash> {
    let mut hasher = blake3::Hasher::new();
    std::fs::File::open(path)
        .and_then(|mut file| std::io::copy(&mut file, &mut hasher))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Hash(*hasher.finalize().as_bytes()))
}

fn list(runs: &[RunView]) {
    if runs.is_empty() {
        println!("no runs yet; submit one with: opengpu run submit FILE");
        return;
    }
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            vec![
                run.run.to_string(),
                run.spec.name.clone(),
                run.phase.clone(),
                rounds(run),
                run.workers.len().to_string(),
                run.training_loss
                    .map_or("-".into(), |loss| format!("{loss:.3}")),
                count(run.tokens as f64),
                run.explanation.clone(),
            ]
        })
        .collect();
    table(
        &[
            "RUN", "NAME", "PHASE", "ROUND", "WORKERS", "LOSS", "TOKENS", "WHY",
        ],
        &rows,
    );
}

fn print_run(view: &RunView) {
    println!("run {} ({})", view.run, view.spec.name);
    println!("phase       {}: {}", view.phase, view.explanation);
    if let Some(trouble) = &view.trouble {
        println!("trouble     {trouble}");
    }
    println!(
        "rounds      {} merged; now number {}",
        rounds(view),
        view.round
    );
    println!("revision    {} ({})", view.revision, short(view.digest));
    println!(
        "tokens      {} at {} tokens/s",
        count(view.tokens as f64),
        count(view.tokens_per_second)
    );
    println!(
        "bytes       {} up, {} down",
        bytes(view.upload_bytes),
        bytes(view.download_bytes)
    );
    for evaluation in &view.evaluations {
        let bits = evaluation
            .bits_per_byte
            .map_or(String::new(), |bits| format!(", {bits:.3} bits per byte"));
        println!(
            "held out    revision {}: {:.4} nats per token{bits}",
            evaluation.revision, evaluation.nats_per_token
        );
    }
    if let Some(problem) = &view.evaluation_problem {
        println!("held out    revision {}: {problem}", view.revision);
    }
    let rows: Vec<Vec<String>> = view
        .workers
        .iter()
        .map(|worker| {
            vec![
                worker.worker.to_string(),
                worker.name.clone(),
                worker.device.clone(),
                worker
                    .revision
                    .map_or("-".into(), |revision| revision.to_string()),
                worker.digest.map_or("-".into(), short),
                format!("{:.2}", worker.blocks_per_second),
                worker.accepted.to_string(),
                worker.refused.to_string(),
                count(worker.credited_tokens as f64),
            ]
        })
        .collect();
    table(
        &[
            "WORKER", "NODE", "DEVICE", "REVISION", "DIGEST", "BLOCKS/S", "ACCEPTED", "REFUSED",
            "TOKENS",
        ],
        &rows,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_read_with_and_without_its_lineage() {
        let read = |text| parse_revision(text, 3).map_err(|_| ());
        assert_eq!(
            read("2.40"),
            Ok(Revision {
                lineage: 2,
                number: 40
            })
        );
        assert_eq!(
            read("40"),
            Ok(Revision {
                lineage: 3,
                number: 40
            })
        );
        assert_eq!(read("forty"), Err(()));
        assert_eq!(read("1."), Err(()));
    }
}
