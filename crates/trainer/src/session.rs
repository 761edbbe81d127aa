//! What the requests do: one session per process, with at most one model loaded.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use opengpu_dataset::{TokenStream, sequences};
use opengpu_trainer_protocol::{
    InnerSettings, ModelConfig, ReplyBody, RequestBody, TokenFiles, TrainRequest, VERSION,
};

use crate::compute::Compute;
use crate::device::{self, Chosen, Kind, Wish};
use crate::error::{Result, TrainerError};
use crate::preparing::{Reporter, saying};
use crate::tokens::{Pair, open_tokens};
use crate::train::{InnerLoop, Progress, Signals};
use crate::{evaluate, export, flat, import, initialise, sample};

/// How long a calibration goes on after its first step.
const CALIBRATION: Duration = Duration::from_millis(400);

/// How long trying devices, and a first step on one, may take.
const TRYING: Duration = Duration::from_secs(5 * 60);
const COMPILING: Duration = Duration::from_secs(20 * 60);

/// Weights of the largest model that a request may ask for (4 TB of float32).
const MOST_PARAMETERS: usize = 1 << 40;

/// Sequences in a step, at most.
const MOST_BATCH_SEQUENCES: usize = 1 << 16;

/// The state between requests.
pub struct Session {
    wish: Wish,
    /// Found by the first request, as trying devices may take a while.
    device: Option<Chosen>,
    loaded: Option<Loaded>,
}

struct Loaded {
    model: ModelConfig,
    weights: PathBuf,
    tokens: Option<TokenStream>,
    inner: InnerSettings,
    /// Made by the first assignment, so that evaluating needs no memory for moments.
    training: Option<InnerLoop>,
}

impl Loaded {
    /// How held-out losses and samples are computed: as in training, but in float32, so
    /// that they differ between processors by rounding alone.
    fn exact(&self) -> Compute {
        Compute {
            document_mask: self.inner.document_mask,
            ..Compute::float32()
        }
    }
}

impl Session {
    /// With nothing loaded, on the device that will be found for a wish.
    pub fn new(wish: Wish) -> Self {
        Self {
            wish,
            device: None,
            loaded: None,
        }
    }

    /// The device; its notes go to the log once.
    fn device(&mut self, reply: Reporter) -> Result<Chosen> {
        if let Some(device) = &self.device {
            return Ok(device.clone());
        }
        let wish = self.wish;
        let what = "trying the devices of this machine";
        let device = saying(reply, what, TRYING, |_| device::choose(wish));
        let device = device.map_err(|error| TrainerError::Failed(error.to_string()))?;
        for note in &device.notes {
            eprintln!("{note}");
        }
        self.device = Some(device.clone());
        Ok(device)
    }

    /// Forgets what was loaded.
    pub fn reset(&mut self) {
        self.loaded = None;
    }

    /// Carries out one request; `reply` takes progress.
    pub fn handle(
        &mut self,
        body: RequestBody,
        signals: &Signals,
        reply: Reporter,
    ) -> Result<ReplyBody> {
        match body {
            RequestBody::Hello { version } => self.hello(version, reply),
            RequestBody::Load {
                model,
                weights,
                tokens,
                inner,
            } => self.load(model, weights, tokens, inner),
            RequestBody::Calibrate { block_sequences } => self.calibrate(block_sequences, reply),
            RequestBody::Train(request) => self.train(&request, signals, reply),
            RequestBody::Evaluate {
                tokens,
                max_windows,
            } => self.evaluate(&tokens, max_windows, signals, reply),
            RequestBody::Sample {
                tokenizer,
                prompt,
                max_tokens,
                temperature,
                seed,
            } => {
                let loaded = self.loaded()?;
                let tokenizer = sample::read_tokenizer(&tokenizer, &loaded.model)?;
                let weights = flat::read(&loaded.weights, &loaded.model)?;
                let prompt = prompt.as_str();
                let sampling = sample::Sampling {
                    prompt,
                    max_tokens,
                    temperature,
                    seed,
                };
                let mut pace = Pace::new();
                let mut report = |done| {
                    pace.tell(reply, || (done, max_tokens as u64, 0.0));
                };
                let model = &loaded.model;
                let compute = loaded.exact();
                let text = sample::sample(
                    model,
                    &weights,
                    &compute,
                    &tokenizer,
                    &sampling,
                    signals,
                    &mut report,
                )?;
                Ok(ReplyBody::Sampled { text })
            }
            RequestBody::Initialise { model, seed, out } => {
                check_model(&model)?;
                flat::write(&out, &initialise::weights(&model, seed))?;
                Ok(ReplyBody::Written {
                    model,
                    files: vec![out],
                })
            }
            RequestBody::Export {
                model,
                weights,
                tokenizer,
                out,
                max_file_bytes,
            } => {
                check_model(&model)?;
                let weights = flat::read(&weights, &model)?;
                let files =
                    export::write(&model, &weights, tokenizer.as_deref(), &out, max_file_bytes)?;
                Ok(ReplyBody::Written { model, files })
            }
            RequestBody::Import { folder, out } => {
                let model = import::convert(&folder, &out)?;
                Ok(ReplyBody::Written {
                    model,
                    files: vec![out],
                })
            }
            // Both act in the reading thread, see `serve`.
            RequestBody::Finish | RequestBody::Stop => Err(TrainerError::BadRequest(
                "This request is answered elsewhere.".into(),
            )),
        }
    }

    fn hello(&mut self, version: u32, reply: Reporter) -> Result<ReplyBody> {
        if version != VERSION {
            return Err(TrainerError::BadRequest(format!(
                "This trainer speaks version {VERSION} of the trainer protocol, the caller {version}; \
                 use an agent and a trainer of the same release."
            )));
        }
        let device = self.device(reply)?;
        let backend = match device.kind {
            Kind::Cpu => "burn-flex",
            _ => "burn-cubecl",
        };
        Ok(ReplyBody::Hello {
            version: VERSION,
            trainer: format!("{backend} {}", env!("CARGO_PKG_VERSION")),
            device: device.name.clone(),
            numerics_class: Compute::of(&InnerSettings::default(), &device)
                .0
                .numerics_class(0),
        })
    }

    fn load(
        &mut self,
        model: ModelConfig,
        weights: PathBuf,
        tokens: Option<TokenFiles>,
        inner: InnerSettings,
    ) -> Result<ReplyBody> {
        self.loaded = None;
        check_model(&model)?;
        let batch = inner.batch_sequences;
        if !(1..=MOST_BATCH_SEQUENCES).contains(&batch) {
            return Err(TrainerError::BadRequest(format!(
                "batch_sequences is {batch}; it must be from 1 to {MOST_BATCH_SEQUENCES}"
            )));
        }
        let tokens = tokens
            .map(|files| open_tokens(&files, model.vocab_size))
            .transpose()?;
        let parameters = model.parameters() as u64;
        self.loaded = Some(Loaded {
            model,
            weights,
            tokens,
            inner,
            training: None,
        });
        Ok(ReplyBody::Loaded { parameters })
    }

    fn loaded(&mut self) -> Result<&mut Loaded> {
        self.loaded
            .as_mut()
            .ok_or_else(|| TrainerError::BadRequest("Nothing is loaded; send `load` first.".into()))
    }

    fn calibrate(&mut self, block_sequences: usize, reply: Reporter) -> Result<ReplyBody> {
        let device = self.device(reply)?;
        let Loaded {
            model,
            weights,
            tokens,
            inner,
            ..
        } = self.loaded()?;
        let tokens = tokens.as_mut().ok_or_else(no_tokens)?;
        let length = model.max_position_embeddings;
        let available = sequences(tokens.len(), length);
        if available == 0 {
            return Err(TrainerError::BadRequest(format!(
                "{} tokens hold no sequence of {length} tokens",
                tokens.len()
            )));
        }
        if block_sequences == 0 {
            return Err(TrainerError::BadRequest("block_sequences is 0.".into()));
        }
        let weights = flat::read(weights, model)?;
        // A loop of its own, so that the real moments stay as they are.
        let mut training = InnerLoop::on(model, inner, &device);
        let mut llama = training.place(&weights);
        drop(weights);
        let mut batch = Pair::default();
        for sequence in 0..inner.batch_sequences as u64 {
            let start = sequence % available * length as u64;
            batch.push(tokens, start, length)?;
        }
        compiling(reply, &device, |_| training.step(&mut llama, &batch, 0.0))?;
        let start = Instant::now();
        let mut done = 0;
        while done == 0 || start.elapsed() < CALIBRATION {
            training.step(&mut llama, &batch, 0.0)?;
            done += batch.inputs.len();
        }
        let tokens_per_second = done as f64 / start.elapsed().as_secs_f64();
        let blocks_per_second = tokens_per_second / (block_sequences * length) as f64;
        Ok(ReplyBody::Calibrated {
            blocks_per_second,
            tokens_per_second,
            micro_batch: training.micro_batch(),
            numerics_class: training.numerics_class(),
        })
    }

    fn train(
        &mut self,
        request: &TrainRequest,
        signals: &Signals,
        reply: Reporter,
    ) -> Result<ReplyBody> {
        let device = self.device(reply)?;
        let Loaded {
            model,
            weights,
            tokens,
            inner,
            training,
        } = self.loaded()?;
        let tokens = tokens.as_mut().ok_or_else(no_tokens)?;
        let weights = flat::read(weights, model)?;
        let cold = training.is_none();
        let training = training.get_or_insert_with(|| InnerLoop::on(model, inner, &device));
        let work = |begun: &AtomicBool| {
            let mut report = |progress: Progress| {
                begun.store(true, Ordering::Relaxed);
                reply(ReplyBody::Progress {
                    done: progress.done,
                    of: progress.of,
                    loss: progress.loss,
                    tokens_per_second: progress.tokens_per_second,
                });
            };
            training.train(weights, tokens, request, signals, &mut report)
        };
        let (trained, weights) = match cold {
            true => compiling(reply, &device, work)?,
            false => work(&AtomicBool::new(true))?,
        };
        flat::write(&request.out, &weights)?;
        Ok(ReplyBody::Trained {
            blocks_completed: trained.blocks,
            steps: trained.steps,
            tokens: trained.tokens,
            loss: trained.loss,
            seconds: trained.seconds,
            numerics_class: training.numerics_class(),
        })
    }

    fn evaluate(
        &mut self,
        files: &TokenFiles,
        max_windows: Option<usize>,
        signals: &Signals,
        reply: Reporter,
    ) -> Result<ReplyBody> {
        let loaded = self.loaded()?;
        let mut tokens = open_tokens(files, loaded.model.vocab_size)?;
        let weights = flat::read(&loaded.weights, &loaded.model)?;
        let mut pace = Pace::new();
        let mut report = |done, of, loss| pace.tell(reply, || (done, of, loss));
        let model = &loaded.model;
        let result = evaluate::evaluate(
            model,
            &weights,
            &loaded.exact(),
            &mut tokens,
            max_windows,
            signals,
            &mut report,
        )?;
        let known = result.whole && files.text_bytes > 0;
        let bits = result.nats / std::f64::consts::LN_2 / files.text_bytes.max(1) as f64;
        Ok(ReplyBody::Evaluated {
            nats_per_token: result.nats_per_token,
            bits_per_byte: known.then_some(bits),
            tokens: result.tokens,
        })
    }
}

/// Lets a progress reply through about twice a second.
struct Pace {
    last: Instant,
}

impl Pace {
    fn new() -> Self {
        Self {
            last: Instant::now(),
        }
    }
    fn tell(&mut self, reply: Reporter, figures: impl FnOnce() -> (u64, u64, f64)) {
        if self.last.elapsed() >= Duration::from_millis(500) {
            self.last = Instant::now();
            let (done, of, loss) = figures();
            reply(ReplyBody::Progress {
                done,
                of,
                loss,
                tokens_per_second: 0.0,
            });
        }
    }
}

/// The first step on a GPU, for which kernels are compiled and products measured.
fn compiling<T>(reply: Reporter, device: &Chosen, work: impl FnOnce(&AtomicBool) -> T) -> T {
    if device.kind == Kind::Cpu {
        return work(&AtomicBool::new(true));
    }
    let what = format!("compiling kernels for {}", device.name);
    saying(reply, &what, COMPILING, work)
}

fn no_tokens() -> TrainerError {
    TrainerError::BadRequest("No training tokens are loaded; name them in `load`.".into())
}

pub fn check_model(model: &ModelConfig) -> Result<()> {
    model.check().map_err(TrainerError::BadRequest)?;
    // Checked before anything is computed from the sizes, so that no product overflows.
    let sizes = [
        model.vocab_size,
        model.hidden_size,
        model.intermediate_size,
        model.num_hidden_layers,
        model.max_position_embeddings,
    ];
    let rough = sizes[1]
        .checked_mul(sizes[0].max(sizes[2]).max(sizes[1]))
        .and_then(|size| size.checked_mul(sizes[3].checked_add(2)?.checked_mul(8)?));
    match rough {
        Some(rough) if rough <= MOST_PARAMETERS && sizes[4] <= 1 << 24 => Ok(()),
        _ => Err(TrainerError::BadRequest(
            "The model is larger than this trainer can hold (2^40 weights, 2^24 positions).".into(),
        )),
    }
}
