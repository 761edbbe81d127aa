//! The fused kernels on Burn's CPU backend: the order in which they run.

mod memory;

use burn::backend::Flex;
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::{FloatTensor, IntTensor};

use self::memory::{dense, integers, slice, slice_mut, tensor};
use super::muon::MuonOps;
use super::{
    AttentionInputs, AttentionSaved, FusedKernels, HeadInputs, LayerSettings, MlpInputs, Numerics,
};
use crate::kernels::adamw::{self, Step};
use crate::kernels::attention::{self, Saved};
use crate::kernels::buffer::Buffer;
use crate::kernels::matrix::{Into, Matrix, ROWS_PER_TASK, for_tasks, multiply};
use crate::kernels::precision::Precision;
use crate::kernels::{loss, muon, norm, rotary, swiglu};

fn sizes<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    tensor.shape().dims()
}

/// `out[N, K] = x[N, C] · weight[K, C]ᵀ`.
fn linear(x: &[f32], weight: &[f32], width: usize, precision: Precision) -> Buffer {
    let (rows, outputs) = (x.len() / width, weight.len() / width);
    let mut out = Buffer::take(rows * outputs);
    let x = Matrix::new(x, rows, width);
    let weight = Matrix::new(weight, outputs, width);
    multiply(&mut out, Into::Set, x, weight.t(), precision);
    out
}

/// `out[N, C] = x[N, C] + hidden[N, K] · weight[C, K]ᵀ`.
fn residual(
    x: &[f32],
    hidden: &[f32],
    weight: &[f32],
    width: usize,
    precision: Precision,
) -> Buffer {
    let mut out = Buffer::take(x.len());
    let part = ROWS_PER_TASK * width;
    for_tasks(&mut out, part, |index, out| {
        out.copy_from_slice(&x[index * part..][..out.len()]);
    });
    let (rows, inputs) = (x.len() / width, weight.len() / width);
    let hidden = Matrix::new(hidden, rows, inputs);
    let weight = Matrix::new(weight, width, inputs);
    multiply(&mut out, Into::Add, hidden, weight.t(), precision);
    out
}

/// `dx[N, C] = dy[N, K] · weight[K, C]`.
fn input_gradient(dy: &[f32], weight: &[f32], width: usize, precision: Precision) -> Buffer {
    let outputs = weight.len() / width;
    let rows = dy.len() / outputs;
    let mut dx = Buffer::take(rows * width);
    let dy = Matrix::new(dy, rows, outputs);
    let weight = Matrix::new(weight, outputs, width);
    multiply(&mut dx, Into::Set, dy, weight, precision);
    dx
}

/// `dweight[K, C] = dy[N, K]ᵀ · x[N, C]`.
fn weight_gradient(dy: &[f32], x: &[f32], width: usize, precision: Precision) -> Buffer {
    let rows = x.len() / width;
    let outputs = dy.len() / rows;
    let mut dweight = Buffer::take(outputs * width);
    let (dy, x) = (Matrix::new(dy, rows, outputs), Matrix::new(x, rows, width));
    multiply(&mut dweight, Into::Set, dy.t(), x, precision);
    dweight
}

fn normalised(x: &[f32], gain: &[f32], eps: f32) -> Buffer {
    let mut out = Buffer::take(x.len());
    norm::forward(&mut out, x, gain, eps);
    out
}

impl FusedKernels for Flex {
    fn embed_forward(table: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self> {
        let [_, width] = sizes(&table);
        let (table, tokens) = (dense(table), integers::<u32>(tokens));
        let mut out = Buffer::take(tokens.len() * width);
        for (out, &token) in out.chunks_exact_mut(width).zip(&tokens) {
            out.copy_from_slice(&slice(&table)[token as usize * width..][..width]);
        }
        tensor(out, [tokens.len(), width])
    }

    fn embed_backward(
        dy: FloatTensor<Self>,
        tokens: IntTensor<Self>,
        vocabulary: usize,
    ) -> FloatTensor<Self> {
        let [_, width] = sizes(&dy);
        let dy = dense(dy);
        let mut dtable = Buffer::zeros(vocabulary * width);
        for (dy, token) in slice(&dy).chunks_exact(width).zip(integers::<u32>(tokens)) {
            let row = &mut dtable[token as usize * width..][..width];
            row.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
        }
        tensor(dtable, [vocabulary, width])
    }

    fn norm_forward(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        let shape = sizes::<2>(&x);
        let (x, gain) = (dense(x), dense(gain));
        tensor(normalised(slice(&x), slice(&gain), eps), shape)
    }

    fn norm_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        eps: f32,
    ) -> [FloatTensor<Self>; 2] {
        let shape = sizes::<2>(&x);
        let (dy, x, gain) = (dense(dy), dense(x), dense(gain));
        let mut dx = Buffer::zeros(slice(&x).len());
        let dgain = norm::backward(&mut dx, slice(&dy), slice(&x), slice(&gain), eps);
        [tensor(dx, shape), tensor(dgain, [shape[1]])]
    }

    fn attention_forward(
        inputs: &AttentionInputs<Self>,
        settings: LayerSettings,
    ) -> (FloatTensor<Self>, AttentionSaved<Self>) {
        let LayerSettings {
            sequence,
            heads,
            numerics: Numerics { eps, precision },
            ..
        } = settings;
        let [rows, width] = sizes(&inputs.x);
        let x = dense(inputs.x.clone());
        let (gain, qkv) = (dense(inputs.gain.clone()), dense(inputs.qkv.clone()));
        let (output, table) = (dense(inputs.output.clone()), dense(inputs.rotary.clone()));
        let from = integers::<u32>(inputs.visible_from.clone());
        let (packed_width, mixed_width) = (heads.packed_width(), heads.width());
        let sequences = rows / sequence;

        let normalised = normalised(slice(&x), slice(&gain), eps);
        let mut packed = linear(&normalised, slice(&qkv), width, precision);
        drop(normalised);
        rotary::rotate(&mut packed, heads, slice(&table), sequence, 1.0);
        let mut mixed = Buffer::take(rows * mixed_width);
        let mut log_sums = Buffer::take(sequences * heads.heads * sequence);
        attention::forward(
            &mut mixed,
            &mut log_sums,
            &packed,
            sequence,
            heads,
            &from,
            precision,
        );
        let out = residual(slice(&x), &mixed, slice(&output), width, precision);
        let saved = AttentionSaved {
            packed: tensor(packed, [rows, packed_width]),
            mixed: tensor(mixed, [rows, mixed_width]),
            log_sums: tensor(log_sums, [sequences, heads.heads, sequence]),
        };
        (tensor(out, [rows, width]), saved)
    }

    fn attention_backward(
        mut dy: FloatTensor<Self>,
        inputs: AttentionInputs<Self>,
        saved: AttentionSaved<Self>,
        settings: LayerSettings,
    ) -> [FloatTensor<Self>; 4] {
        let LayerSettings {
            sequence,
            heads,
            numerics: Numerics { eps, precision },
            ..
        } = settings;
        let [rows, width] = sizes(&inputs.x);
        let x = dense(inputs.x);
        let (gain, qkv) = (dense(inputs.gain), dense(inputs.qkv));
        let (output, table) = (dense(inputs.output), dense(inputs.rotary));
        let from = integers::<u32>(inputs.visible_from);
        let (packed_width, mixed_width) = (heads.packed_width(), heads.width());
        let dx = slice_mut(&mut dy);

        let dmixed = input_gradient(dx, slice(&output), mixed_width, precision);
        let doutput = weight_gradient(dx, slice(&saved.mixed), mixed_width, precision);
        let mut dpacked = Buffer::take(rows * packed_width);
        let kept = Saved {
            packed: slice(&saved.packed),
            out: slice(&saved.mixed),
            log_sums: slice(&saved.log_sums),
        };
        attention::backward(
            &mut dpacked,
            &dmixed,
            kept,
            sequence,
            heads,
            &from,
            precision,
        );
        drop((saved, dmixed));
        rotary::rotate(&mut dpacked, heads, slice(&table), sequence, -1.0);
        let normalised = normalised(slice(&x), slice(&gain), eps);
        let dqkv = weight_gradient(&dpacked, &normalised, width, precision);
        drop(normalised);
        let dnormalised = input_gradient(&dpacked, slice(&qkv), width, precision);
        // `dx` holds `dy`, the gradient that bypasses the block; the block's is added.
        let dgain = norm::backward(dx, &dnormalised, slice(&x), slice(&gain), eps);
        [
            dy,
            tensor(dgain, [width]),
            tensor(dqkv, [packed_width, width]),
            tensor(doutput, [width, mixed_width]),
        ]
    }

    fn mlp_forward(
        inputs: &MlpInputs<Self>,
        Numerics { eps, precision }: Numerics,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [rows, width] = sizes(&inputs.x);
        let [_, hidden_width] = sizes(&inputs.down);
        let (x, gain) = (dense(inputs.x.clone()), dense(inputs.gain.clone()));
        let (gate_up, down) = (dense(inputs.gate_up.clone()), dense(inputs.down.clone()));

        let normalised = normalised(slice(&x), slice(&gain), eps);
        let projected = linear(&normalised, slice(&gate_up), width, precision);
        drop(normalised);
        let mut hidden = Buffer::take(rows * hidden_width);
        swiglu::forward(&mut hidden, &projected, hidden_width);
        let out = residual(slice(&x), &hidden, slice(&down), width, precision);
        (
            tensor(out, [rows, width]),
            tensor(projected, [rows, 2 * hidden_width]),
        )
    }

    fn mlp_backward(
        mut dy: FloatTensor<Self>,
        inputs: MlpInputs<Self>,
        mut gate_up: FloatTensor<Self>,
        Numerics { eps, precision }: Numerics,
    ) -> [FloatTensor<Self>; 4] {
        let [_, width] = sizes(&inputs.x);
        let [_, hidden_width] = sizes(&inputs.down);
        let (x, gain) = (dense(inputs.x), dense(inputs.gain));
        let (weight, down) = (dense(inputs.gate_up), dense(inputs.down));
        let dx = slice_mut(&mut dy);

        let mut dhidden = input_gradient(dx, slice(&down), hidden_width, precision);
        // The projections become their own gradients, and `dhidden` the hidden values.
        let dprojected = slice_mut(&mut gate_up);
        swiglu::backward(dprojected, &mut dhidden, hidden_width);
        let ddown = weight_gradient(dx, &dhidden, hidden_width, precision);
        drop(dhidden);
        let normalised = normalised(slice(&x), slice(&gain), eps);
        let dweight = weight_gradient(dprojected, &normalised, width, precision);
        drop(normalised);
        let dnormalised = input_gradient(dprojected, slice(&weight), width, precision);
        let dgain = norm::backward(dx, &dnormalised, slice(&x), slice(&gain), eps);
        [
            dy,
            tensor(dgain, [width]),
            tensor(dweight, [2 * hidden_width, width]),
            tensor(ddown, [width, hidden_width]),
        ]
    }

    fn head_losses(
        inputs: &HeadInputs<Self>,
        targets: IntTensor<Self>,
        Numerics { eps, precision }: Numerics,
    ) -> FloatTensor<Self> {
        let [vocabulary, _] = sizes(&inputs.weight);
        let (x, gain) = (dense(inputs.x.clone()), dense(inputs.gain.clone()));
        let weight = dense(inputs.weight.clone());
        let targets = integers::<u32>(targets);
        let normalised = normalised(slice(&x), slice(&gain), eps);
        let losses =
            loss::token_losses(&normalised, slice(&weight), &targets, vocabulary, precision);
        tensor(losses, [targets.len()])
    }

    fn head_gradients(
        inputs: HeadInputs<Self>,
        targets: IntTensor<Self>,
        Numerics { eps, precision }: Numerics,
    ) -> (FloatTensor<Self>, [FloatTensor<Self>; 3]) {
        let [vocabulary, width] = sizes(&inputs.weight);
        let (x, gain, weight) = (dense(inputs.x), dense(inputs.gain), dense(inputs.weight));
        let targets = integers::<u32>(targets);
        let normalised = normalised(slice(&x), slice(&gain), eps);
        let (mean, dnormalised, dweight) = loss::mean_loss_and_gradients(
            &normalised,
            slice(&weight),
            &targets,
            vocabulary,
            precision,
        );
        drop(normalised);
        let mut dx = Buffer::zeros(dnormalised.len());
        let dgain = norm::backward(&mut dx, &dnormalised, slice(&x), slice(&gain), eps);
        let gradients = [
            tensor(dx, [targets.len(), width]),
            tensor(dgain, [width]),
            tensor(dweight, [vocabulary, width]),
        ];
        (tensor(Buffer::copy_of(&[mean]), [1]), gradients)
    }

    fn scale(mut gradient: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self> {
        let factor = slice(&dense(factor))[0];
        // A loss that is differentiated directly, of a whole batch, has a factor of 1.
        if factor != 1.0 {
            let values = slice_mut(&mut gradient);
            values.iter_mut().for_each(|value| *value *= factor);
        }
        gradient
    }

    fn sum_of_squares(numbers: FloatTensor<Self>) -> FloatTensor<Self> {
        let sum = adamw::sum_of_squares(slice(&dense(numbers)));
        tensor(Buffer::copy_of(&[sum as f32]), [1])
    }

    fn adamw_step(
        mut state: [FloatTensor<Self>; 3],
        gradient: FloatTensor<Self>,
        step: Step,
    ) -> [FloatTensor<Self>; 3] {
        let [weights, first, second] = &mut state;
        let gradient = dense(gradient);
        adamw::update(
            slice_mut(weights),
            slice_mut(first),
            slice_mut(second),
            slice(&gradient),
            step,
        );
        state
    }
}

impl MuonOps for Flex {
    fn muon(
        mut weights: FloatTensor<Self>,
        mut momentum: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        stack: muon::Stack,
        step: muon::Step,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let gradient = dense(gradient);
        let (weight, moment) = (slice_mut(&mut weights), slice_mut(&mut momentum));
        muon::update(weight, moment, slice(&gradient), stack, step);
        (weights, momentum)
    }
}
