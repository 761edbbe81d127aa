//! Error feedback on the worker's side: what compression leaves out of one update is kept
//! and goes into the next. Works on buffers of the caller, which may be memory-mapped, and
//! allocates nothing in proportion to the model but the payload.
//!
//! It is a transaction. [`send`] takes what it sends out of the buffer; the caller journals
//! the payload by its update's id. Merged whole: nothing is left to do. Merged in part, or
//! not at all: [`restore`] puts the part back. A refused [`send`] has changed nothing.

use rayon::prelude::*;

use crate::encode::{check_request, encode_each};
use crate::{Codec, DecodeError, EncodeError, Layout, Payload};

/// `e ← decay · e + (global − local)`, sends what the codec keeps of `e`, `e ← e − sent`.
/// Float32 operations in that order, none fused.
pub fn send(
    codec: Codec,
    layout: &Layout,
    decay: f32,
    feedback: &mut [f32],
    global: &[f32],
    local: &[f32],
) -> Result<Vec<u8>, EncodeError> {
    check_send(codec, layout, decay, feedback, global, local)?;
    Ok(encode_each(codec, layout, feedback, |whole, values| {
        for ((e, g), l) in values
            .iter_mut()
            .zip(&global[whole.clone()])
            .zip(&local[whole])
        {
            *e = accumulated(decay, *e, *g, *l);
        }
    }))
}

/// The first half of [`send`], for who looks at what was accumulated before it is sent:
/// `e ← decay · e + (global − local)`. [`crate::encode`] is the other half; both together give
/// what `send` gives, bit for bit. A refusal has changed nothing.
pub fn accumulate(
    codec: Codec,
    layout: &Layout,
    decay: f32,
    feedback: &mut [f32],
    global: &[f32],
    local: &[f32],
) -> Result<(), EncodeError> {
    check_send(codec, layout, decay, feedback, global, local)?;
    feedback
        .par_iter_mut()
        .zip(global.par_iter().zip(local))
        .for_each(|(e, (g, l))| *e = accumulated(decay, *e, *g, *l));
    Ok(())
}

fn accumulated(decay: f32, e: f32, global: f32, local: f32) -> f32 {
    decay * e + (global - local)
}

/// Refuses what can't be accumulated or sent, before anything is changed.
fn check_send(
    codec: Codec,
    layout: &Layout,
    decay: f32,
    feedback: &[f32],
    global: &[f32],
    local: &[f32],
) -> Result<(), EncodeError> {
    for buffer in [feedback, global, local] {
        check_request(codec, layout, buffer.len())?;
    }
    if !(0.0..=1.0).contains(&decay) {
        return Err(EncodeError::BadDecay {
            found: decay.to_string(),
        });
    }
    const BLOCK: usize = 1 << 16;
    let bad_block = feedback
        .par_chunks(BLOCK)
        .zip(global.par_chunks(BLOCK).zip(local.par_chunks(BLOCK)))
        .position_first(|(e, (global, local))| {
            let values = e.iter().zip(global).zip(local);
            values.fold(false, |any, ((e, g), l)| {
                any | !accumulated(decay, *e, *g, *l).is_finite()
            })
        });
    if let Some(block) = bad_block {
        let from = block * BLOCK;
        let values = feedback[from..]
            .iter()
            .zip(&global[from..])
            .zip(&local[from..]);
        let at = values
            .map(|((e, g), l)| accumulated(decay, *e, *g, *l))
            .position(|value| !value.is_finite())
            .unwrap_or_default();
        return Err(EncodeError::NotFinite { index: from + at });
    }
    Ok(())
}

/// Puts back the part of a sent payload that was not merged: 1 for an update that is in no
/// merge, `1 − factor` for a clipped one.
pub fn restore(
    layout: &Layout,
    payload: &[u8],
    part_not_merged: f32,
    feedback: &mut [f32],
) -> Result<(), DecodeError> {
    Payload::parse(layout, payload)?.add_scaled(layout, part_not_merged, feedback)
}
