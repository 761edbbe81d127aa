//! Prepares files and prints what came of it and how long it took:
//! `cargo run --release -p opengpu-dataset --example prepare -- FOLDER VOCABULARY FILE…`

use std::path::Path;
use std::time::Instant;

use opengpu_dataset::{DatasetError, Options, prepare};

fn main() -> Result<(), DatasetError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, vocab_size, files @ ..] = arguments.as_slice() else {
        println!("usage: prepare FOLDER VOCABULARY FILE…");
        return Ok(());
    };
    let options = Options {
        vocab_size: vocab_size.parse().unwrap_or(1024),
        ..Options::default()
    };
    let files: Vec<_> = files.iter().map(Into::into).collect();
    let start = Instant::now();
    let mut stage = None;
    let prepared = prepare(&files, Path::new(folder), &options, &mut |progress| {
        if stage != Some(progress.stage) {
            println!(
                "{:7.3} s  {}",
                start.elapsed().as_secs_f64(),
                progress.stage
            );
            stage = Some(progress.stage);
        }
    })?;
    println!("{:7.3} s  done", start.elapsed().as_secs_f64());
    println!(
        "vocabulary {}, documents {}",
        prepared.vocab_size, prepared.documents
    );
    for (name, part) in [
        ("training", &prepared.training),
        ("held out", &prepared.held_out),
    ] {
        println!(
            "{name}: {} bytes, {} tokens ({:.3} bytes per token), {} shards",
            part.text_bytes,
            part.tokens,
            part.text_bytes as f64 / part.tokens as f64,
            part.shards.len()
        );
    }
    Ok(())
}
