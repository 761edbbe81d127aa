//! The bundled corpus, tokenised for an experiment, and the model it is learned by.

use std::path::{Path, PathBuf};

use anyhow::{Error, Result, ensure};
use opengpu_dataset::{Options, PreparedPart, TokenStream, blocks_per_epoch};
use opengpu_trainer::{Compute, Signals, evaluate, open_tokens};
use opengpu_trainer_protocol::{ModelConfig, TokenFiles};

/// How large an experiment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// Minutes for a few rows.
    Short,
    /// A minute or two for a row.
    Full,
}

/// Data of an experiment. The files are removed when it is dropped.
pub struct Data {
    /// The model.
    pub model: ModelConfig,
    /// What is trained on.
    pub training: TokenFiles,
    /// The same with every token replaced by another: what a data poisoner trains on.
    poisoned: TokenFiles,
    /// What losses are measured on.
    pub held_out: TokenFiles,
    tokenizer: PathBuf,
    folder: tempfile::TempDir,
}

impl Data {
    /// Tokenises the bundled corpus.
    pub fn prepare(scale: Scale) -> Result<Self> {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../corpus/shakespeare.txt");
        let (vocabulary, hidden, layers, context) = match scale {
            Scale::Short => (512, 48, 2, 64),
            Scale::Full => (512, 64, 2, 64),
        };
        let model = ModelConfig {
            vocab_size: vocabulary,
            hidden_size: hidden,
            intermediate_size: hidden * 11 / 4 / 8 * 8,
            num_hidden_layers: layers,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            max_position_embeddings: context,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            tie_word_embeddings: true,
        };
        model.check().map_err(anyhow::Error::msg)?;
        let folder = tempfile::tempdir()?;
        let options = Options {
            vocab_size: vocabulary,
            ..Options::default()
        };
        let prepared =
            opengpu_dataset::prepare(&[corpus.into()], folder.path(), &options, &mut |_| ())?;
        ensure!(
            prepared.vocab_size == vocabulary,
            "the corpus gave a vocabulary of {} instead of {vocabulary}",
            prepared.vocab_size
        );
        let files = |part: &PreparedPart| TokenFiles {
            files: part.shards.iter().map(|shard| shard.path.clone()).collect(),
            token_bytes: prepared.token_bytes,
            tokens: part.tokens,
            text_bytes: part.text_bytes,
        };
        let training = files(&prepared.training);
        let poisoned = poison(&training, vocabulary, folder.path())?;
        Ok(Self {
            model,
            training,
            poisoned,
            held_out: files(&prepared.held_out),
            tokenizer: prepared.tokenizer,
            folder,
        })
    }

    /// The training tokens, opened.
    pub fn training(&self) -> Result<TokenStream> {
        Ok(open_tokens(&self.training, self.model.vocab_size)?)
    }

    /// The poisoned training tokens, opened.
    pub fn poisoned(&self) -> Result<TokenStream> {
        Ok(open_tokens(&self.poisoned, self.model.vocab_size)?)
    }

    /// Text of another kind, opened: the project's own pages in the tokens of the corpus, again
    /// and again until there are as many as in the training part, so that it has the same blocks.
    pub fn other_text(&self) -> Result<TokenStream> {
        let pages = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");
        let mut files = Vec::new();
        for entry in std::fs::read_dir(pages)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                files.push(path);
            }
        }
        files.sort();
        let mut text = String::new();
        for file in &files {
            text.push_str(&std::fs::read_to_string(file)?);
        }
        let tokenizer = tokenizers::Tokenizer::from_file(&self.tokenizer).map_err(Error::msg)?;
        let encoded = tokenizer.encode(text, false).map_err(Error::msg)?;
        ensure!(!encoded.is_empty(), "{pages} has no pages");
        let ids = encoded.get_ids().iter().cycle();
        let ids = ids.take(self.training.tokens as usize);
        let bytes: Vec<u8> = ids.flat_map(|id| (*id as u16).to_le_bytes()).collect();
        let path = self.folder.path().join("other-text");
        std::fs::write(&path, bytes)?;
        let tokens = TokenFiles {
            files: vec![path],
            ..self.training.clone()
        };
        Ok(open_tokens(&tokens, self.model.vocab_size)?)
    }

    /// Blocks of `batch` sequences in an epoch.
    pub fn blocks(&self, batch: usize) -> u64 {
        blocks_per_epoch(
            self.training.tokens,
            self.model.max_position_embeddings,
            batch,
        )
    }

    /// Mean loss over all held-out text. A part of it will not do: figures of a tenth of it
    /// differ by 2 % between seeds.
    pub fn held_out_loss(&self, weights: &[f32]) -> Result<f64> {
        self.loss(weights, None)
    }

    /// Mean loss over the first windows of held-out text: the probe of a merge.
    pub fn probe_loss(&self, weights: &[f32], windows: usize) -> Result<f64> {
        self.loss(weights, Some(windows))
    }

    fn loss(&self, weights: &[f32], windows: Option<usize>) -> Result<f64> {
        let mut tokens = open_tokens(&self.held_out, self.model.vocab_size)?;
        let evaluated = evaluate(
            &self.model,
            weights,
            &Compute::float32(),
            &mut tokens,
            windows,
            &Signals::default(),
            &mut |_, _, _| (),
        )?;
        Ok(evaluated.nats_per_token)
    }
}

/// Copies token files with each token replaced by its mirror image in the vocabulary.
fn poison(training: &TokenFiles, vocabulary: usize, folder: &Path) -> Result<TokenFiles> {
    ensure!(
        training.token_bytes == 2,
        "a token has 2 bytes in so small a vocabulary"
    );
    let mut files = Vec::new();
    for (number, file) in training.files.iter().enumerate() {
        let mut bytes = std::fs::read(file)?;
        for token in bytes.as_chunks_mut::<2>().0 {
            let mirrored = vocabulary as u16 - 1 - u16::from_le_bytes(*token);
            *token = mirrored.to_le_bytes();
        }
        let path = folder.join(format!("poisoned-{number}"));
        std::fs::write(&path, bytes)?;
        files.push(path);
    }
    Ok(TokenFiles {
        files,
        ..training.clone()
    })
}
