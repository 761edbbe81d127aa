//! Reading a Hugging Face folder into flat weights.
//!
//! The folder comes from anywhere: headers and shapes are bounded and checked before
//! anything is allocated, and tensors are converted one at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use opengpu_trainer_protocol::{ModelConfig, TensorShape};
use serde_json::Value;

use crate::error::{Result, TrainerError};

/// Largest JSON file (configuration, index, safetensors header) that is read.
const MOST_JSON_BYTES: u64 = 100 << 20;

/// Bytes converted at a time.
const PART: usize = 1 << 18;

/// Converts the model in `folder` and writes its flat weights to `out`.
pub fn convert(folder: &Path, out: &Path) -> Result<ModelConfig> {
    let config = folder.join("config.json");
    let model = read_config(&config, &read_json(&config)?)?;
    let found = find_tensors(folder)?;
    let partial = out.with_extension("partial");
    let file = File::create(&partial).map_err(|error| TrainerError::file(&partial, error))?;
    let mut writer = BufWriter::new(file);
    for tensor in model.tensors() {
        let stored = stored_tensor(&found, &tensor, folder)?;
        convert_tensor(stored, &tensor, &mut writer, out)?;
    }
    let done = writer.flush().and_then(|()| std::fs::rename(&partial, out));
    done.map_err(|error| TrainerError::file(out, error))?;
    Ok(model)
}

/// Reads the fields that this trainer implements and refuses what it does not.
fn read_config(path: &Path, json: &Value) -> Result<ModelConfig> {
    let refuse = |problem: String| Err(TrainerError::file(path, problem));
    let kind = json["model_type"].as_str().unwrap_or("none");
    if kind != "llama" {
        return refuse(format!(
            "model_type is `{kind}`; only `llama` can be imported"
        ));
    }
    for (field, allowed) in [
        ("hidden_act", Value::from("silu")),
        ("attention_bias", Value::from(false)),
        ("mlp_bias", Value::from(false)),
    ] {
        let value = &json[field];
        if !value.is_null() && *value != allowed {
            return refuse(format!(
                "{field} is {value}; only {allowed} can be imported"
            ));
        }
    }
    let rope = if json["rope_parameters"].is_object() {
        &json["rope_parameters"]
    } else {
        &json["rope_scaling"]
    };
    let rope_type = rope["rope_type"]
        .as_str()
        .or(rope["type"].as_str())
        .unwrap_or("default");
    if rope_type != "default" {
        return refuse(format!(
            "the rotary embedding is scaled (`{rope_type}`); only the default one can be imported"
        ));
    }
    let size = |field: &str| match json[field].as_u64() {
        Some(size) if size < 1 << 32 => Ok(size as usize),
        _ => Err(TrainerError::file(
            path,
            format!("{field} is {}; it must be a size", json[field]),
        )),
    };
    let number = |field: &str, missing: f64| json[field].as_f64().unwrap_or(missing);
    let heads = size("num_attention_heads")?;
    let model = ModelConfig {
        vocab_size: size("vocab_size")?,
        hidden_size: size("hidden_size")?,
        intermediate_size: size("intermediate_size")?,
        num_hidden_layers: size("num_hidden_layers")?,
        num_attention_heads: heads,
        num_key_value_heads: match json["num_key_value_heads"] {
            Value::Null => heads,
            _ => size("num_key_value_heads")?,
        },
        max_position_embeddings: size("max_position_embeddings")?,
        rms_norm_eps: number("rms_norm_eps", 1e-6),
        rope_theta: rope["rope_theta"]
            .as_f64()
            .unwrap_or(number("rope_theta", 10_000.0)),
        tie_word_embeddings: json["tie_word_embeddings"].as_bool().unwrap_or(false),
    };
    crate::session::check_model(&model)
        .map_err(|error| TrainerError::file(path, error.to_string()))?;
    let depth = json["head_dim"].as_u64();
    if depth.is_some_and(|depth| depth != (model.hidden_size / heads) as u64) {
        return refuse(format!(
            "head_dim is {}; only hidden_size / num_attention_heads = {} can be imported",
            json["head_dim"],
            model.hidden_size / heads
        ));
    }
    Ok(model)
}

/// A tensor in a safetensors file.
struct Stored {
    path: PathBuf,
    kind: Kind,
    shape: Vec<u64>,
    /// Place of its first byte in the file, and its bytes.
    start: u64,
    bytes: u64,
}

/// Number formats that are converted.
#[derive(Clone, Copy)]
enum Kind {
    F32,
    F16,
    Bf16,
}

/// All tensors of `model.safetensors`, or of the files that the index names.
fn find_tensors(folder: &Path) -> Result<BTreeMap<String, Stored>> {
    let (single, index) = (
        folder.join("model.safetensors"),
        folder.join("model.safetensors.index.json"),
    );
    let mut tensors = BTreeMap::new();
    if single.exists() || !index.exists() {
        read_header(&single, &mut tensors)?;
        return Ok(tensors);
    }
    let json = read_json(&index)?;
    let map = json["weight_map"]
        .as_object()
        .ok_or_else(|| TrainerError::file(&index, "has no weight_map"))?;
    let mut names: Vec<&str> = map.values().filter_map(Value::as_str).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        // A name is a file in this folder and nowhere else.
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(TrainerError::file(
                &index,
                format!("names the file `{name}`"),
            ));
        }
        read_header(&folder.join(name), &mut tensors)?;
    }
    Ok(tensors)
}

/// Adds the tensors of one safetensors file.
fn read_header(path: &Path, tensors: &mut BTreeMap<String, Stored>) -> Result<()> {
    let fail = |error: std::io::Error| TrainerError::file(path, error);
    let refuse = |problem: String| Err(TrainerError::file(path, problem));
    let mut file = File::open(path).map_err(fail)?;
    let file_bytes = file.metadata().map_err(fail)?.len();
    let mut length = [0u8; 8];
    file.read_exact(&mut length).map_err(fail)?;
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes > MOST_JSON_BYTES || header_bytes + 8 > file_bytes {
        return refuse(format!(
            "its header claims {header_bytes} bytes, the file has {file_bytes}; it is no complete \
             safetensors file"
        ));
    }
    let mut header = vec![0u8; header_bytes as usize];
    file.read_exact(&mut header).map_err(fail)?;
    let header: Value =
        serde_json::from_slice(&header).map_err(|error| TrainerError::file(path, error))?;
    let entries = header
        .as_object()
        .ok_or_else(|| TrainerError::file(path, "has no header"))?;
    for (name, entry) in entries.iter().filter(|(name, _)| *name != "__metadata__") {
        let kind = match entry["dtype"].as_str() {
            Some("F32") => Kind::F32,
            Some("F16") => Kind::F16,
            Some("BF16") => Kind::Bf16,
            other => {
                return refuse(format!(
                    "{name} is stored as {}; only F32, F16 and BF16 can be imported",
                    other.unwrap_or("nothing")
                ));
            }
        };
        let numbers = |value: &Value| -> Option<Vec<u64>> {
            value.as_array()?.iter().map(Value::as_u64).collect()
        };
        let (shape, offsets) = (numbers(&entry["shape"]), numbers(&entry["data_offsets"]));
        let (Some(shape), Some([from, to])) = (shape, offsets.as_deref()) else {
            return refuse(format!("{name} has no shape or no offsets"));
        };
        let (from, to) = (*from, *to);
        if from > to || to > file_bytes - 8 - header_bytes {
            return refuse(format!(
                "{name} lies at bytes {from} to {to}, beyond the file's end"
            ));
        }
        let start = 8 + header_bytes + from;
        let stored = Stored {
            path: path.to_owned(),
            kind,
            shape,
            start,
            bytes: to - from,
        };
        tensors.insert(name.clone(), stored);
    }
    Ok(())
}

fn stored_tensor<'a>(
    found: &'a BTreeMap<String, Stored>,
    tensor: &TensorShape,
    folder: &Path,
) -> Result<&'a Stored> {
    let stored = found
        .get(&tensor.name)
        .ok_or_else(|| TrainerError::file(folder, format!("has no tensor {}", tensor.name)))?;
    let expected: Vec<u64> = tensor.shape.iter().map(|&size| size as u64).collect();
    if stored.shape != expected {
        return Err(TrainerError::file(
            &stored.path,
            format!(
                "{} has shape {:?}; config.json says {expected:?}",
                tensor.name, stored.shape
            ),
        ));
    }
    let bytes = tensor.len() as u64 * stored.kind.bytes() as u64;
    if stored.bytes != bytes {
        return Err(TrainerError::file(
            &stored.path,
            format!(
                "{} has {} bytes; its shape needs {bytes}",
                tensor.name, stored.bytes
            ),
        ));
    }
    Ok(stored)
}

fn convert_tensor(
    stored: &Stored,
    tensor: &TensorShape,
    writer: &mut impl Write,
    out: &Path,
) -> Result<()> {
    let fail = |error: std::io::Error| TrainerError::file(&stored.path, error);
    let mut file = File::open(&stored.path).map_err(fail)?;
    file.seek(SeekFrom::Start(stored.start)).map_err(fail)?;
    let mut left = stored.bytes as usize;
    let (mut buffer, mut numbers, mut place) = (vec![0u8; PART], Vec::new(), 0);
    while left > 0 {
        let part = &mut buffer[..left.min(PART)];
        file.read_exact(part).map_err(fail)?;
        left -= part.len();
        numbers.clear();
        stored.kind.widen(part, &mut numbers);
        if let Some(bad) = numbers.iter().position(|number: &f32| !number.is_finite()) {
            return Err(TrainerError::NotFinite(format!(
                "{}: number {} of {} is {}",
                stored.path.display(),
                place + bad,
                tensor.name,
                numbers[bad]
            )));
        }
        place += numbers.len();
        for number in &numbers {
            let written = writer.write_all(&number.to_le_bytes());
            written.map_err(|error| TrainerError::file(out, error))?;
        }
    }
    Ok(())
}

impl Kind {
    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Appends the little-endian numbers in `bytes` as float32; exact for every kind.
    fn widen(self, bytes: &[u8], numbers: &mut Vec<f32>) {
        let halves = || {
            bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|half| u16::from_le_bytes(*half))
        };
        match self {
            Self::F32 => {
                numbers.extend(
                    bytes
                        .as_chunks::<4>()
                        .0
                        .iter()
                        .map(|b| f32::from_le_bytes(*b)),
                );
            }
            Self::F16 => {
                numbers.extend(halves().map(|half| burn::tensor::f16::from_bits(half).to_f32()))
            }
            Self::Bf16 => {
                numbers.extend(halves().map(|half| f32::from_bits(u32::from(half) << 16)))
            }
        }
    }
}

fn read_json(path: &Path) -> Result<Value> {
    let fail = |error: std::io::Error| TrainerError::file(path, error);
    let file = File::open(path).map_err(fail)?;
    let bytes = file.metadata().map_err(fail)?.len();
    if bytes > MOST_JSON_BYTES {
        return Err(TrainerError::file(
            path,
            format!("has {bytes} bytes; at most {MOST_JSON_BYTES} are read"),
        ));
    }
    let mut text = Vec::new();
    file.take(MOST_JSON_BYTES)
        .read_to_end(&mut text)
        .map_err(fail)?;
    serde_json::from_slice(&text).map_err(|error| TrainerError::file(path, error))
}
