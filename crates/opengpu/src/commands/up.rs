//! `opengpu up`: everything on this machine, from nothing to an exported model.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use opengpu_dataset::Prepared;
use opengpu_protocol::{Client, operator::SampleRequest, wire::RunView};
use opengpu_rounds::RunId;
use opengpu_trainer_protocol::{InnerSettings, ModelConfig, preset_names};

use crate::{
    cli::Up,
    commands::{dataset, run},
    home::Home,
    local::{
        corpus,
        fleet::Fleet,
        outcome::{NodeDigest, Outcome, evaluation_of},
        spec::local_run,
        state::UpState,
        yardstick::xz_bits_per_byte,
    },
    output::{bytes, show},
    progress,
};

/// Held-out text that is also given to `xz`, at most: more would only cost time.
const YARDSTICK_BYTES: usize = 16 << 20;

/// Bytes of a home that depend on nothing.
const ROOM_BESIDE: u64 = 32 << 20;

/// How often the processes are looked after once the run is over.
const LOOK_AFTER_PROCESSES: Duration = Duration::from_secs(1);

/// How a sample starts, and how long it is.
const PROMPT: &str = "\n";
const SAMPLE_TOKENS: usize = 80;

/// Carries out `up`, stopping everything cleanly on Ctrl-C.
pub async fn run(home: &Home, json: bool, args: Up) -> Result<()> {
    let Some(preset) = ModelConfig::preset(&args.preset) else {
        let names: Vec<&str> = preset_names().collect();
        bail!(
            "there is no preset {:?}; there are {}",
            args.preset,
            names.join(", ")
        );
    };
    let say = |line: String| {
        if !json {
            println!("{line}");
        }
    };
    say(format!("home folder {}", home.path().display()));
    // A file that is not there is told of before anything starts; what is in it, meanwhile.
    let data = Data::choose(home, &args)?;
    let mut fleet = Fleet::start(home, args.listen).await?;
    let mut stopped = false;
    let result = tokio::select! {
        result = drive(home, json, &args, &preset, data, &mut fleet) => result,
        _ = crate::shutdown::requested() => {
            say("\nstopping; `opengpu up` with the same home goes on from here".into());
            stopped = true;
            Ok(())
        }
    };
    fleet.stop().await?;
    if stopped && json {
        println!(
            "{}",
            serde_json::json!({ "stopped": true, "home": home.path() })
        );
    }
    result
}

async fn drive(
    home: &Home,
    json: bool,
    args: &Up,
    preset: &ModelConfig,
    data: Data,
    fleet: &mut Fleet,
) -> Result<()> {
    let started = Instant::now();
    let client = fleet.client().clone();
    let page = fleet.address().to_owned();
    if !json {
        println!("coordinator and live page at {page}");
    }
    let mut state = match unfinished(home, &client).await? {
        Some(state) => {
            if !json {
                println!(
                    "going on with run {}; its data, model, nodes and length stay as they were",
                    state.run
                );
            }
            fleet.start_nodes(home, state.nodes)?;
            state
        }
        None => {
            // Nodes start while the dataset is made: neither needs the other.
            fleet.start_nodes(home, args.nodes)?;
            begin(home, json, args, preset, data, &client).await?
        }
    };
    let run = state.run;
    let complete = complete(home, &client, &mut state);
    let follow = progress::follow(&client, run, json, || fleet.check());
    let ((), view) = tokio::try_join!(complete, follow)?;
    let outcome = conclude(&client, &state, view, page.clone(), started).await?;
    show(json, &outcome, Outcome::print)?;
    if !args.exit {
        if !json {
            println!("\nserving on at {page}; Ctrl-C stops");
        }
        loop {
            tokio::time::sleep(LOOK_AFTER_PROCESSES).await;
            fleet.check()?;
        }
    }
    Ok(())
}

/// Fills in what is told at the end and must not delay the beginning: the untrained model's
/// sample, and what `xz` makes of the held-out text.
async fn complete(home: &Home, client: &Client, state: &mut UpState) -> Result<()> {
    if state.sample_before.is_none() {
        state.sample_before = Some(sample(client, state.run).await?);
        state.write(home.path())?;
    }
    if state.xz_bits_per_byte.is_none() {
        let files = state.data.clone();
        let yardstick = tokio::task::spawn_blocking(move || {
            xz_bits_per_byte(&opengpu_dataset::held_out_text(&files, YARDSTICK_BYTES)?)
        });
        match yardstick.await? {
            Ok(bits) => state.xz_bits_per_byte = Some(bits),
            // The text may be gone by now; the run does not need it any more.
            Err(error) => tracing::warn!("xz has nothing to compress: {error:#}"),
        }
        state.write(home.path())?;
    }
    Ok(())
}

/// The run that an earlier `up` on this home left unfinished.
async fn unfinished(home: &Home, client: &Client) -> Result<Option<UpState>> {
    let Some(state) = UpState::read(home.path())? else {
        return Ok(None);
    };
    let view = client.run(state.run).await?;
    let ended = matches!(view.phase.as_str(), "finished" | "failed");
    Ok((!ended).then_some(state))
}

/// Makes dataset and run, and starts it.
async fn begin(
    home: &Home,
    json: bool,
    args: &Up,
    preset: &ModelConfig,
    data: Data,
    client: &Client,
) -> Result<UpState> {
    let prepared = dataset::prepare(home, data.files.clone(), preset.vocab_size, json).await?;
    let batch = InnerSettings::default().batch_sequences;
    prepared.check_model(preset.max_position_embeddings, batch)?;
    check_room(home, &prepared, preset, args.nodes)?;
    let name = free_name(&data.name, &client.datasets().await?, |dataset| {
        &dataset.name
    });
    dataset::upload(client, &name, &prepared).await?;
    drop(prepared);
    let base = format!("{}-{}", data.name, args.preset);
    let run_name = free_name(&base, &client.runs().await?, |run| &run.spec.name);
    let spec = local_run(
        run_name,
        name,
        &args.preset,
        preset,
        args.nodes,
        args.rounds,
    );
    // Nothing slow between the run and the note of it: the next `up` could not go on with it.
    let view = run::submit(client, &spec).await?;
    let state = UpState {
        run: view.run,
        nodes: args.nodes,
        data: data.absolute()?,
        xz_bits_per_byte: None,
        sample_before: None,
    };
    state.write(home.path())?;
    Ok(state)
}

/// Refuses a run for which the home's disk is too small, before it gets stuck half way.
fn check_room(home: &Home, prepared: &Prepared, model: &ModelConfig, nodes: u32) -> Result<()> {
    let (nodes, weights) = (u64::from(nodes), 4 * model.parameters() as u64);
    let parts = [&prepared.training, &prepared.held_out];
    let shards = parts.iter().flat_map(|part| &part.shards);
    let data: u64 = shards.map(|shard| shard.bytes).sum();
    // The coordinator's copy of the data and each node's; its checkpoints with the outer state,
    // an export, and each node's base; payloads, merges, database and logs.
    let needed = data * (1 + nodes) + weights * (5 + 2 * nodes) + ROOM_BESIDE;
    let free = fs4::available_space(home.path()).with_context(|| {
        format!(
            "cannot ask how full the disk of {} is",
            home.path().display()
        )
    })?;
    if free < needed {
        bail!(
            "the disk of {} has {} free, and this run needs about {}; free some space, or choose \
             a home on another disk with --home, fewer --nodes or a smaller --preset",
            home.path().display(),
            bytes(free),
            bytes(needed)
        );
    }
    Ok(())
}

/// `base`, or `base-2`, `base-3`… if it is taken.
fn free_name<T>(base: &str, taken: &[T], name: impl Fn(&T) -> &String) -> String {
    let is_free = |candidate: &String| taken.iter().all(|item| name(item) != candidate);
    std::iter::once(base.to_owned())
        .chain((2..).map(|number| format!("{base}-{number}")))
        .find(is_free)
        .unwrap_or_else(|| base.to_owned())
}

async fn sample(client: &Client, run: RunId) -> Result<String> {
    let request = SampleRequest {
        prompt: PROMPT.into(),
        max_tokens: SAMPLE_TOKENS,
        temperature: 0.8,
        seed: 1,
    };
    Ok(client.sample(run, &request).await?.text)
}

async fn conclude(
    client: &Client,
    state: &UpState,
    view: RunView,
    page: String,
    started: Instant,
) -> Result<Outcome> {
    let sample_after = sample(client, state.run).await?;
    let export = client.export(state.run, false).await?.path;
    // Taken again: the nodes apply the last merge after the run has ended.
    let view = settled(client, view).await?;
    Ok(Outcome {
        run: state.run,
        rounds: view.revision.number,
        tokens: view.tokens,
        upload_bytes: view.upload_bytes,
        download_bytes: view.download_bytes,
        held_out_before: evaluation_of(&view, 0),
        held_out_after: evaluation_of(&view, view.revision.number),
        held_out_problem: view.evaluation_problem.clone(),
        xz_bits_per_byte: state.xz_bits_per_byte,
        sample_before: state.sample_before.clone().unwrap_or_default(),
        sample_after,
        digest: view.digest,
        nodes: view
            .workers
            .iter()
            .map(|worker| NodeDigest {
                node: worker.name.clone(),
                digest: worker.digest,
            })
            .collect(),
        export,
        page: format!("{page}/runs/{}", state.run),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Waits a little for every node to report the final digest.
async fn settled(client: &Client, mut view: RunView) -> Result<RunView> {
    for _ in 0..50 {
        let agree =
            |worker: &opengpu_protocol::wire::WorkerView| worker.digest == Some(view.digest);
        if view.workers.iter().all(agree) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        view = client.run(view.run).await?;
    }
    Ok(view)
}

/// The text to train on.
struct Data {
    files: Vec<PathBuf>,
    name: String,
}

impl Data {
    /// The files by names that hold wherever the next `up` is started.
    fn absolute(&self) -> Result<Vec<PathBuf>> {
        let absolute = |file: &PathBuf| Ok(std::path::absolute(file)?);
        self.files.iter().map(absolute).collect()
    }

    fn choose(home: &Home, args: &Up) -> Result<Self> {
        if args.data.is_empty() {
            return Ok(Self {
                files: vec![corpus::write(home)?],
                name: corpus::NAME.into(),
            });
        }
        for file in &args.data {
            std::fs::metadata(file).with_context(|| {
                format!(
                    "cannot read {}; give files or folders of text with --data",
                    file.display()
                )
            })?;
        }
        let stem = args.data[0]
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy();
        let name: String = stem
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_lowercase()
                } else {
                    '-'
                }
            })
            .take(40)
            .collect();
        let name = name.trim_matches('-').to_owned();
        Ok(Self {
            files: args.data.clone(),
            name: if name.is_empty() { "text".into() } else { name },
        })
    }
}
