//! Writing a model as a folder that Hugging Face's `transformers` loads.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use opengpu_trainer_protocol::{ModelConfig, TensorShape};
use serde_json::{Value, json};

use crate::error::{Result, TrainerError};
use crate::sample::read_tokenizer;

/// Writes `config.json`, `generation_config.json`, safetensors files of at most about
/// `max_file_bytes` (a single tensor may exceed it), and the tokenizer. Returns the files
/// in the order written; each is complete, written under another name and then renamed.
pub fn write(
    model: &ModelConfig,
    weights: &[f32],
    tokenizer: Option<&Path>,
    folder: &Path,
    max_file_bytes: u64,
) -> Result<Vec<PathBuf>> {
    if max_file_bytes == 0 {
        return Err(TrainerError::BadRequest(
            "max_file_bytes is 0; it must be at least 1".into(),
        ));
    }
    std::fs::create_dir_all(folder).map_err(|error| TrainerError::file(folder, error))?;
    let mut files = Vec::new();
    let mut special = SpecialTokens::default();
    if let Some(path) = tokenizer {
        read_tokenizer(path, model)?;
        let bytes = std::fs::read(path).map_err(|error| TrainerError::file(path, error))?;
        special = SpecialTokens::of(&bytes, path)?;
        files.push(write_file(folder, "tokenizer.json", |file| {
            file.write_all(&bytes)
        })?);
        let config = special.tokenizer_config(model);
        files.push(write_json(folder, "tokenizer_config.json", &config)?);
    }
    let tensors = place(model);
    let parts = cut(&tensors, max_file_bytes);
    let name_of = |part: usize| match parts.len() {
        1 => "model.safetensors".to_owned(),
        count => format!("model-{:05}-of-{count:05}.safetensors", part + 1),
    };
    for (part, tensors) in parts.iter().enumerate() {
        files.push(write_file(folder, &name_of(part), |file| {
            write_safetensors(file, tensors, weights)
        })?);
    }
    if parts.len() > 1 {
        let mut map = BTreeMap::new();
        for (part, tensors) in parts.iter().enumerate() {
            map.extend(
                tensors
                    .iter()
                    .map(|(_, tensor)| (tensor.name.clone(), name_of(part))),
            );
        }
        let index = json!({
            "metadata": { "total_size": weights.len() as u64 * 4 },
            "weight_map": map,
        });
        files.push(write_json(folder, "model.safetensors.index.json", &index)?);
    }
    files.push(write_json(
        folder,
        "generation_config.json",
        &special.ids(json!({
            "do_sample": true,
            "temperature": 0.8,
        })),
    )?);
    files.push(write_json(folder, "config.json", &config(model, &special))?);
    Ok(files)
}

/// The `LlamaConfig` of a model.
fn config(model: &ModelConfig, special: &SpecialTokens) -> Value {
    special.ids(json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_hidden_layers": model.num_hidden_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_key_value_heads,
        "head_dim": model.hidden_size / model.num_attention_heads,
        "max_position_embeddings": model.max_position_embeddings,
        "rms_norm_eps": model.rms_norm_eps,
        "rope_theta": model.rope_theta,
        "rope_parameters": { "rope_type": "default", "rope_theta": model.rope_theta },
        "tie_word_embeddings": model.tie_word_embeddings,
        "hidden_act": "silu",
        "attention_bias": false,
        "attention_dropout": 0.0,
        "mlp_bias": false,
        "initializer_range": 0.02,
        "use_cache": true,
        "torch_dtype": "float32",
    }))
}

/// Tokens with a role, found by the names that common tokenizers give them.
#[derive(Default)]
struct SpecialTokens {
    begin: Option<(String, u64)>,
    end: Option<(String, u64)>,
    pad: Option<(String, u64)>,
    unknown: Option<(String, u64)>,
}

impl SpecialTokens {
    fn of(tokenizer: &[u8], path: &Path) -> Result<Self> {
        let json: Value =
            serde_json::from_slice(tokenizer).map_err(|error| TrainerError::file(path, error))?;
        let added = json["added_tokens"].as_array().cloned().unwrap_or_default();
        let find = |names: &[&str]| {
            added
                .iter()
                .filter(|token| token["special"] == true)
                .find_map(|token| {
                    let content = token["content"].as_str()?;
                    names
                        .contains(&content)
                        .then(|| Some((content.to_owned(), token["id"].as_u64()?)))?
                })
        };
        let end = find(&["<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>"]);
        Ok(Self {
            begin: find(&["<s>", "<|begin_of_text|>", "<bos>"]),
            end,
            pad: find(&["<pad>", "<|pad|>"]),
            unknown: find(&["<unk>", "<|unk|>"]),
        })
    }

    fn ids(&self, mut config: Value) -> Value {
        config["bos_token_id"] = json!(self.begin.as_ref().map(|token| token.1));
        config["eos_token_id"] = json!(self.end.as_ref().map(|token| token.1));
        config["pad_token_id"] = json!(self.pad.as_ref().map(|token| token.1));
        config
    }

    fn tokenizer_config(&self, model: &ModelConfig) -> Value {
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": model.max_position_embeddings,
            "clean_up_tokenization_spaces": false,
        });
        let roles = [
            ("bos_token", &self.begin),
            ("eos_token", &self.end),
            ("pad_token", &self.pad),
            ("unk_token", &self.unknown),
        ];
        for (role, token) in roles {
            if let Some((content, _)) = token {
                config[role] = json!(content);
            }
        }
        config
    }
}

/// Each tensor with the place of its first weight in the flat weights.
fn place(model: &ModelConfig) -> Vec<(usize, TensorShape)> {
    let mut start = 0;
    let place = |tensor: TensorShape| {
        let here = start;
        start += tensor.len();
        (here, tensor)
    };
    model.tensors().into_iter().map(place).collect()
}

/// Cuts the tensors into runs of at most `max_bytes`, each of at least one tensor.
fn cut(tensors: &[(usize, TensorShape)], max_bytes: u64) -> Vec<&[(usize, TensorShape)]> {
    let mut parts = Vec::new();
    let mut rest = tensors;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |tensor: &&(usize, TensorShape)| {
            bytes += tensor.1.len() as u64 * 4;
            bytes <= max_bytes
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (part, after) = rest.split_at(count);
        parts.push(part);
        rest = after;
    }
    parts
}

/// The safetensors format: header length, JSON header, then the tensors' bytes in order.
fn write_safetensors(
    file: &mut impl Write,
    tensors: &[(usize, TensorShape)],
    weights: &[f32],
) -> std::io::Result<()> {
    let base = tensors[0].0;
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    for (start, tensor) in tensors {
        let from = (start - base) * 4;
        header.insert(
            tensor.name.clone(),
            json!({
                "dtype": "F32",
                "shape": tensor.shape,
                "data_offsets": [from, from + tensor.len() * 4],
            }),
        );
    }
    let mut header = serde_json::to_vec(&header)?;
    // Spaces up to a multiple of eight, so that the numbers are aligned.
    header.resize(header.len().next_multiple_of(8), b' ');
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    let count: usize = tensors.iter().map(|(_, tensor)| tensor.len()).sum();
    for weight in &weights[base..base + count] {
        file.write_all(&weight.to_le_bytes())?;
    }
    Ok(())
}

fn write_json(folder: &Path, name: &str, value: &Value) -> Result<PathBuf> {
    write_file(folder, name, |file| {
        serde_json::to_writer_pretty(&mut *file, value)?;
        file.write_all(b"\n")
    })
}

/// Writes a file under another name, syncs it and renames it.
fn write_file(
    folder: &Path,
    name: &str,
    write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<PathBuf> {
    let path = folder.join(name);
    let partial = folder.join(format!("{name}.partial"));
    let whole = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(&partial)?);
        write(&mut file)?;
        file.into_inner()
            .map_err(std::io::IntoInnerError::into_error)?
            .sync_all()?;
        std::fs::rename(&partial, &path)
    };
    whole().map_err(|error| TrainerError::file(&path, error))?;
    Ok(path)
}
