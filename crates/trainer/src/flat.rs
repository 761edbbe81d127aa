//! Flat weights: every tensor of a model in canonical order, one after the other, as
//! little-endian float32. Also the form of gradients and of the optimiser's moments.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use opengpu_trainer_protocol::ModelConfig;

use crate::error::{Result, TrainerError};

/// Numbers converted at a time while reading and writing.
const PART: usize = 1 << 16;

/// Reads the weights of `model`; refuses a file of another size and numbers that are not
/// finite.
pub fn read(path: &Path, model: &ModelConfig) -> Result<Vec<f32>> {
    let count = model.parameters();
    let bytes = count as u64 * 4;
    let mut file = File::open(path).map_err(|error| TrainerError::file(path, error))?;
    let found = file
        .metadata()
        .map_err(|error| TrainerError::file(path, error))?
        .len();
    if found != bytes {
        return Err(TrainerError::file(
            path,
            format!(
                "holds {found} bytes; weights of this model are {bytes} bytes ({count} float32 \
                 numbers). Give the weights that belong to the model's configuration."
            ),
        ));
    }
    let mut weights = Vec::with_capacity(count);
    let mut buffer = vec![0u8; PART * 4];
    while weights.len() < count {
        let part = &mut buffer[..4 * PART.min(count - weights.len())];
        file.read_exact(part)
            .map_err(|error| TrainerError::file(path, error))?;
        let numbers = part.as_chunks::<4>().0;
        weights.extend(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)));
    }
    check_finite(&weights, "the weights that were given")?;
    Ok(weights)
}

/// Writes flat weights. A file of the right size is overwritten in place, so that whoever
/// has it mapped sees the new contents.
pub fn write(path: &Path, weights: &[f32]) -> Result<()> {
    let fail = |error| TrainerError::file(path, error);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error: std::io::Error| fail(error))?;
    let mut buffer = Vec::with_capacity(PART * 4);
    for part in weights.chunks(PART) {
        buffer.clear();
        part.iter()
            .for_each(|weight| buffer.extend_from_slice(&weight.to_le_bytes()));
        file.write_all(&buffer).map_err(fail)?;
    }
    file.set_len(weights.len() as u64 * 4).map_err(fail)
}

/// Refuses NaN and infinity, naming the first place.
pub fn check_finite(numbers: &[f32], what: &str) -> Result<()> {
    match numbers.iter().position(|number| !number.is_finite()) {
        None => Ok(()),
        Some(place) => Err(TrainerError::NotFinite(format!(
            "Number {place} of {what} is {}; training can't go on from there. Roll the run back \
             to an earlier checkpoint, or lower its learning rate.",
            numbers[place]
        ))),
    }
}
