//! Hugging Face folders: written, read back, and refused when they lie; and sampling, which
//! needs a tokenizer too.

use std::path::{Path, PathBuf};

use opengpu_trainer_protocol::{ErrorCode, ReplyBody, RequestBody};
use serde_json::{Value, json};

use crate::errors::refused;
use crate::support::{Bench, Trainer};

/// A tokenizer of `count` words.
fn write_tokenizer(path: &Path, count: usize) {
    let words: serde_json::Map<String, Value> =
        (0..count).map(|id| (format!("w{id}"), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [{
            "id": count, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        }],
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": words, "unk_token": "w0" },
    });
    std::fs::write(path, tokenizer.to_string()).unwrap();
}

fn export(bench: &Bench, weights: &str, out: &str, max_file_bytes: u64) -> RequestBody {
    RequestBody::Export {
        model: bench.model.clone(),
        weights: bench.path(weights),
        tokenizer: Some(bench.path("tokenizer.json")),
        out: bench.path(out),
        max_file_bytes,
    }
}

fn import(bench: &Bench, folder: &str) -> RequestBody {
    RequestBody::Import {
        folder: bench.path(folder),
        out: bench.path("imported"),
    }
}

fn names(files: &[PathBuf]) -> Vec<&str> {
    files
        .iter()
        .map(|file| file.file_name().unwrap().to_str().unwrap())
        .collect()
}

fn json_of(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A bench with weights `w0`, a tokenizer, and an export of both.
fn exported(max_file_bytes: u64) -> (Bench, Trainer, Vec<PathBuf>) {
    let bench = Bench::new();
    let mut trainer = Trainer::start(1);
    trainer.ask(bench.initialise(1, "w0"));
    write_tokenizer(&bench.path("tokenizer.json"), 95);
    match trainer.ask(export(&bench, "w0", "model", max_file_bytes)) {
        ReplyBody::Written { files, .. } => (bench, trainer, files),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_small_model_is_one_file_and_comes_back_the_same() {
    let (bench, mut trainer, files) = exported(1 << 30);
    assert_eq!(
        names(&files),
        [
            "tokenizer.json",
            "tokenizer_config.json",
            "model.safetensors",
            "generation_config.json",
            "config.json"
        ]
    );
    assert_eq!(std::fs::read_dir(bench.path("model")).unwrap().count(), 5);
    let config = json_of(bench.path("model/config.json"));
    assert_eq!(config["architectures"], json!(["LlamaForCausalLM"]));
    assert_eq!(config["eos_token_id"], 95);
    let reply = trainer.ask(import(&bench, "model"));
    assert!(matches!(reply, ReplyBody::Written { ref model, .. } if *model == bench.model));
    let read = |name| std::fs::read(bench.path(name)).unwrap();
    assert_eq!(read("w0"), read("imported"));
}

#[test]
fn a_large_model_is_cut_into_files_with_an_index_and_comes_back_the_same() {
    let (bench, mut trainer, files) = exported(8000);
    let shards = files
        .iter()
        .filter(|file| file.extension().unwrap() == "safetensors")
        .count();
    assert!(shards > 2, "{files:?}");
    let index = json_of(bench.path("model/model.safetensors.index.json"));
    let map = index["weight_map"].as_object().unwrap();
    assert_eq!(map.len(), bench.model.tensors().len());
    assert_eq!(
        index["metadata"]["total_size"],
        bench.model.parameters() * 4
    );
    // A file exceeds the limit only if it holds one tensor alone.
    for file in files
        .iter()
        .filter(|file| file.extension().unwrap() == "safetensors")
    {
        let name = file.file_name().unwrap().to_str().unwrap();
        let tensors = map.values().filter(|value| *value == name).count();
        assert!(
            tensors == 1 || std::fs::metadata(file).unwrap().len() < 8000 + 2000,
            "{name}"
        );
    }
    trainer.ask(import(&bench, "model"));
    let read = |name| std::fs::read(bench.path(name)).unwrap();
    assert_eq!(read("w0"), read("imported"));
}

#[test]
fn a_tokenizer_with_too_many_tokens_is_refused() {
    let (bench, mut trainer, _) = exported(1 << 30);
    write_tokenizer(&bench.path("tokenizer.json"), 96);
    let reply = trainer.ask(export(&bench, "w0", "other", 1 << 30));
    refused(
        &reply,
        ErrorCode::BadFile,
        "has 97 tokens, the model's vocabulary only 96",
    );
}

#[test]
fn folders_that_lie_are_refused_with_the_reason() {
    let (bench, mut trainer, _) = exported(1 << 30);
    let config_path = bench.path("model/config.json");
    let config = json_of(config_path.clone());
    let mut with_config = |change: &dyn Fn(&mut Value), part: &str| {
        let mut config = config.clone();
        change(&mut config);
        std::fs::write(&config_path, config.to_string()).unwrap();
        refused(
            &trainer.ask(import(&bench, "model")),
            ErrorCode::BadFile,
            part,
        );
    };
    with_config(
        &|config| config["model_type"] = json!("mamba"),
        "`mamba`; only `llama`",
    );
    with_config(
        &|config| config["attention_bias"] = json!(true),
        "attention_bias is true",
    );
    with_config(
        &|config| config["hidden_size"] = json!(-4),
        "hidden_size is -4",
    );
    with_config(
        &|config| config["hidden_size"] = json!(1u64 << 31),
        "larger than this trainer",
    );
    with_config(&|config| config["head_dim"] = json!(16), "head_dim is 16");
    with_config(
        &|config| config["rope_parameters"] = json!({"rope_type": "yarn"}),
        "`yarn`",
    );
    with_config(
        &|config| config["vocab_size"] = json!(97),
        "config.json says [97, 32]",
    );
    with_config(
        &|config| config["num_hidden_layers"] = json!(3),
        "no tensor model.layers.2",
    );
    std::fs::write(&config_path, config.to_string()).unwrap();

    let path = bench.path("model/model.safetensors");
    let good = std::fs::read(&path).unwrap();
    let mut with_bytes = |bytes: &[u8], code, part: &str| {
        std::fs::write(&path, bytes).unwrap();
        refused(&trainer.ask(import(&bench, "model")), code, part);
    };
    let file = ErrorCode::BadFile;
    with_bytes(&good[..good.len() - 4], file, "beyond the file's end");
    with_bytes(&good[..5], file, "model.safetensors");
    with_bytes(&[0xff; 64], file, "no complete safetensors file");
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let mut nan = good.clone();
    nan[8 + header..][..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    with_bytes(
        &nan,
        ErrorCode::NotFinite,
        "number 0 of model.embed_tokens.weight is inf",
    );
    let mut other = good.clone();
    let place = other.windows(3).position(|bytes| bytes == b"F32").unwrap();
    other[place..place + 3].copy_from_slice(b"I32");
    with_bytes(&other, file, "only F32, F16 and BF16");
    std::fs::write(&path, &good).unwrap();
    assert!(matches!(
        trainer.ask(import(&bench, "model")),
        ReplyBody::Written { .. }
    ));
}

/// Headers from strangers: whatever a byte is changed to, there is an answer and no panic.
#[test]
fn no_changed_byte_of_a_header_ends_the_trainer() {
    let (bench, mut trainer, _) = exported(1 << 30);
    let path = bench.path("model/model.safetensors");
    let good = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let mut state = 1u64;
    for _ in 0..400 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let mut bytes = good.clone();
        let place = (state >> 33) as usize % (header + 8);
        bytes[place] = (state >> 20) as u8;
        std::fs::write(&path, bytes).unwrap();
        let reply = trainer.ask(import(&bench, "model"));
        if let ReplyBody::Error { message, .. } = reply {
            assert!(!message.contains("unexpectedly"), "byte {place}: {message}");
        }
    }
}

#[test]
fn samples_repeat_for_a_seed_and_fill_beyond_the_context() {
    let (bench, mut trainer, _) = exported(1 << 30);
    let mut sample = |prompt: &str, temperature, seed| {
        trainer.ask(bench.load("w0"));
        let request = RequestBody::Sample {
            tokenizer: bench.path("tokenizer.json"),
            prompt: prompt.into(),
            max_tokens: 40,
            temperature,
            seed,
        };
        match trainer.ask(request) {
            ReplyBody::Sampled { text } => text,
            other => panic!("{other:?}"),
        }
    };
    let text = sample("w1 w2", 1.0, 1);
    // Some of the 40 are the end-of-text token, which has no text.
    let words = text.split_whitespace().count();
    assert!((30..=40).contains(&words), "{text}");
    assert!(!text.starts_with("w1 w2"));
    assert_eq!(text, sample("w1 w2", 1.0, 1));
    assert_ne!(text, sample("w1 w2", 1.0, 2));
    assert_eq!(sample("", 0.0, 1), sample("", 0.0, 2));
    let mut refuse = |temperature| {
        let tokenizer = bench.path("tokenizer.json");
        let prompt = String::new();
        let request = RequestBody::Sample {
            tokenizer,
            prompt,
            max_tokens: 1,
            temperature,
            seed: 1,
        };
        trainer.ask(request)
    };
    refused(&refuse(-1.0), ErrorCode::BadRequest, "temperature is -1");
}
