//! The fused kernels on Burn's CPU backend: buffers in and out of tensors, and the order in
//! which the kernels run.

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{Bytes, DType, Shape};
use rayon::prelude::*;

use super::{
    AttentionInputs, AttentionSaved, AttentionSizes, FusedKernels, FusedOps, HeadInputs, MlpInputs,
};
use crate::kernels::matrix::{Into, Matrix, multiply};
use crate::kernels::{attention, loss, norm, rotary, swiglu};

/// A tensor that owns `data`.
fn tensor<const D: usize>(data: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    assert_eq!(
        data.len(),
        shape.iter().product::<usize>(),
        "a buffer does not fill its shape"
    );
    FlexTensor::new(
        Bytes::from_elems(data),
        Layout::contiguous(Shape::from(shape)),
        DType::F32,
    )
}

/// A tensor whose elements lie one after the other from the start of its buffer.
fn dense(tensor: FlexTensor) -> FlexTensor {
    tensor.to_contiguous()
}

/// The elements of a [`dense`] tensor.
fn slice(tensor: &FlexTensor) -> &[f32] {
    tensor
        .as_slice::<f32>()
        .expect("kernels are only given dense float32 tensors")
}

/// The elements of a tensor, copied only if someone else holds it.
fn into_vec(tensor: FlexTensor) -> Vec<f32> {
    let data = tensor.into_data();
    data.try_into_vec::<f32>()
        .expect("kernels are only given float32 tensors")
}

fn indices(tensor: IntTensor<Flex>) -> Vec<usize> {
    let tensor = dense(tensor);
    match tensor.dtype() {
        DType::I64 => to_usize(tensor.as_slice::<i64>()),
        DType::I32 => to_usize(tensor.as_slice::<i32>()),
        other => unreachable!("Flex makes no {other:?} token tensors"),
    }
}

fn to_usize<I: Copy + TryInto<usize>>(values: Option<&[I]>) -> Vec<usize> {
    let values = values.expect("the type was just asked and the tensor is dense");
    values
        .iter()
        .map(|&value| value.try_into().unwrap_or(usize::MAX))
        .collect()
}

fn sizes<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    tensor.shape().dims()
}

/// `out[N, K] = x[N, C] · weight[K, C]ᵀ`.
fn linear(x: &[f32], weight: &[f32], width: usize) -> Vec<f32> {
    let (rows, outputs) = (x.len() / width, weight.len() / width);
    let mut out = vec![0.0; rows * outputs];
    let (x, weight) = (
        Matrix::new(x, rows, width),
        Matrix::new(weight, outputs, width),
    );
    multiply(&mut out, Into::Set, x, weight.t());
    out
}

/// `dx[N, C] = dy[N, K] · weight[K, C]`.
fn linear_input_gradient(dy: &[f32], weight: &[f32], width: usize) -> Vec<f32> {
    let outputs = weight.len() / width;
    let rows = dy.len() / outputs;
    let mut dx = vec![0.0; rows * width];
    let (dy, weight) = (
        Matrix::new(dy, rows, outputs),
        Matrix::new(weight, outputs, width),
    );
    multiply(&mut dx, Into::Set, dy, weight);
    dx
}

/// `dweight[K, C] = dy[N, K]ᵀ · x[N, C]`.
fn linear_weight_gradient(dy: &[f32], x: &[f32], width: usize) -> Vec<f32> {
    let rows = x.len() / width;
    let outputs = dy.len() / rows;
    let mut dweight = vec![0.0; outputs * width];
    let (dy, x) = (Matrix::new(dy, rows, outputs), Matrix::new(x, rows, width));
    multiply(&mut dweight, Into::Set, dy.t(), x);
    dweight
}

fn normalised(x: &[f32], gain: &[f32], eps: f32) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    norm::forward(&mut out, x, gain, eps);
    out
}

impl FusedKernels for Flex {
    fn embed_forward(table: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self> {
        let [_, width] = sizes(&table);
        let (table, tokens) = (dense(table), indices(tokens));
        let mut out = Vec::with_capacity(tokens.len() * width);
        for &token in &tokens {
            out.extend_from_slice(&slice(&table)[token * width..][..width]);
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
        let mut dtable = vec![0.0; vocabulary * width];
        for (dy, token) in slice(&dy).chunks_exact(width).zip(indices(tokens)) {
            let row = &mut dtable[token * width..][..width];
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
        let mut dx = vec![0.0; slice(&x).len()];
        let dgain = norm::backward(&mut dx, slice(&dy), slice(&x), slice(&gain), eps);
        [tensor(dx, shape), tensor(dgain, [shape[1]])]
    }

    fn attention_forward(
        inputs: &AttentionInputs<Self>,
        AttentionSizes {
            sequence,
            heads,
            eps,
        }: AttentionSizes,
    ) -> (FloatTensor<Self>, AttentionSaved<Self>) {
        let [rows, width] = sizes(&inputs.x);
        let x = dense(inputs.x.clone());
        let (gain, qkv) = (dense(inputs.gain.clone()), dense(inputs.qkv.clone()));
        let (output, table) = (dense(inputs.output.clone()), dense(inputs.rotary.clone()));
        let (packed_width, mixed_width) = (heads.packed_width(), heads.width());
        let sequences = rows / sequence;

        let normalised = normalised(slice(&x), slice(&gain), eps);
        let mut packed = linear(&normalised, slice(&qkv), width);
        let mut mixed = vec![0.0; rows * mixed_width];
        let mut log_sums = vec![0.0; sequences * heads.heads * sequence];
        packed
            .par_chunks_mut(sequence * packed_width)
            .zip(mixed.par_chunks_mut(sequence * mixed_width))
            .zip(log_sums.par_chunks_mut(heads.heads * sequence))
            .for_each(|((packed, mixed), log_sums)| {
                let (turned, depth) = (heads.heads + heads.kv_heads, heads.head_width);
                rotary::rotate(packed, packed_width, turned, slice(&table), depth, 1.0);
                attention::forward(mixed, log_sums, packed, heads);
            });
        let mut out = slice(&x).to_vec();
        let result = Matrix::new(&mixed, rows, mixed_width);
        let projection = Matrix::new(slice(&output), width, mixed_width);
        multiply(&mut out, Into::Add, result, projection.t());
        let saved = AttentionSaved {
            packed: tensor(packed, [rows, packed_width]),
            mixed: tensor(mixed, [rows, mixed_width]),
            log_sums: tensor(log_sums, [sequences, heads.heads, sequence]),
        };
        (tensor(out, [rows, width]), saved)
    }

    fn attention_backward(
        dy: FloatTensor<Self>,
        inputs: AttentionInputs<Self>,
        saved: AttentionSaved<Self>,
        AttentionSizes {
            sequence,
            heads,
            eps,
        }: AttentionSizes,
    ) -> [FloatTensor<Self>; 4] {
        let [rows, width] = sizes(&inputs.x);
        let x = dense(inputs.x);
        let (gain, qkv) = (dense(inputs.gain), dense(inputs.qkv));
        let (output, table) = (dense(inputs.output), dense(inputs.rotary));
        let (packed_width, mixed_width) = (heads.packed_width(), heads.width());
        let mut dx = into_vec(dense(dy));

        let dmixed = linear_input_gradient(&dx, slice(&output), mixed_width);
        let doutput = linear_weight_gradient(&dx, slice(&saved.mixed), mixed_width);
        let mut dpacked = vec![0.0; rows * packed_width];
        dpacked
            .par_chunks_mut(sequence * packed_width)
            .zip(dmixed.par_chunks(sequence * mixed_width))
            .zip(slice(&saved.mixed).par_chunks(sequence * mixed_width))
            .zip(slice(&saved.log_sums).par_chunks(heads.heads * sequence))
            .zip(slice(&saved.packed).par_chunks(sequence * packed_width))
            .for_each(|((((dpacked, dmixed), mixed), log_sums), packed)| {
                attention::backward(dpacked, dmixed, mixed, log_sums, packed, heads);
                let (turned, depth) = (heads.heads + heads.kv_heads, heads.head_width);
                rotary::rotate(dpacked, packed_width, turned, slice(&table), depth, -1.0);
            });
        let normalised = normalised(slice(&x), slice(&gain), eps);
        let dqkv = linear_weight_gradient(&dpacked, &normalised, width);
        let dnormalised = linear_input_gradient(&dpacked, slice(&qkv), width);
        // `dx` holds `dy`, the gradient that bypasses the block; the block's is added.
        let dgain = norm::backward(&mut dx, &dnormalised, slice(&x), slice(&gain), eps);
        [
            tensor(dx, [rows, width]),
            tensor(dgain, [width]),
            tensor(dqkv, [packed_width, width]),
            tensor(doutput, [width, mixed_width]),
        ]
    }

    fn mlp_forward(inputs: &MlpInputs<Self>, eps: f32) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [rows, width] = sizes(&inputs.x);
        let [_, hidden_width] = sizes(&inputs.down);
        let (x, gain) = (dense(inputs.x.clone()), dense(inputs.gain.clone()));
        let (gate_up, down) = (dense(inputs.gate_up.clone()), dense(inputs.down.clone()));

        let normalised = normalised(slice(&x), slice(&gain), eps);
        let projected = linear(&normalised, slice(&gate_up), width);
        let mut hidden = vec![0.0; rows * hidden_width];
        swiglu::forward(&mut hidden, &projected, hidden_width);
        let mut out = slice(&x).to_vec();
        let hidden = Matrix::new(&hidden, rows, hidden_width);
        multiply(
            &mut out,
            Into::Add,
            hidden,
            Matrix::new(slice(&down), width, hidden_width).t(),
        );
        (
            tensor(out, [rows, width]),
            tensor(projected, [rows, 2 * hidden_width]),
        )
    }

    fn mlp_backward(
        dy: FloatTensor<Self>,
        inputs: MlpInputs<Self>,
        gate_up: FloatTensor<Self>,
        eps: f32,
    ) -> [FloatTensor<Self>; 4] {
        let [rows, width] = sizes(&inputs.x);
        let [_, hidden_width] = sizes(&inputs.down);
        let (x, gain) = (dense(inputs.x), dense(inputs.gain));
        let (weight, down) = (dense(inputs.gate_up), dense(inputs.down));
        let mut dx = into_vec(dense(dy));

        let mut dhidden = linear_input_gradient(&dx, slice(&down), hidden_width);
        let mut dprojected = vec![0.0; rows * 2 * hidden_width];
        swiglu::backward(&mut dprojected, &mut dhidden, slice(&gate_up), hidden_width);
        let ddown = linear_weight_gradient(&dx, &dhidden, hidden_width);
        let normalised = normalised(slice(&x), slice(&gain), eps);
        let dweight = linear_weight_gradient(&dprojected, &normalised, width);
        let dnormalised = linear_input_gradient(&dprojected, slice(&weight), width);
        let dgain = norm::backward(&mut dx, &dnormalised, slice(&x), slice(&gain), eps);
        [
            tensor(dx, [rows, width]),
            tensor(dgain, [width]),
            tensor(dweight, [2 * hidden_width, width]),
            tensor(ddown, [width, hidden_width]),
        ]
    }

    fn head_losses(
        inputs: &HeadInputs<Self>,
        targets: IntTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self> {
        let [vocabulary, _] = sizes(&inputs.weight);
        let (x, gain) = (dense(inputs.x.clone()), dense(inputs.gain.clone()));
        let weight = dense(inputs.weight.clone());
        let targets = indices(targets);
        let normalised = normalised(slice(&x), slice(&gain), eps);
        let losses = loss::token_losses(&normalised, slice(&weight), &targets, vocabulary);
        tensor(losses, [targets.len()])
    }

    fn head_gradients(
        inputs: HeadInputs<Self>,
        targets: IntTensor<Self>,
        eps: f32,
    ) -> (FloatTensor<Self>, [FloatTensor<Self>; 3]) {
        let [vocabulary, width] = sizes(&inputs.weight);
        let (x, gain, weight) = (dense(inputs.x), dense(inputs.gain), dense(inputs.weight));
        let targets = indices(targets);
        let normalised = normalised(slice(&x), slice(&gain), eps);
        let (mean, dnormalised, dweight) =
            loss::mean_loss_and_gradients(&normalised, slice(&weight), &targets, vocabulary);
        let mut dx = vec![0.0; dnormalised.len()];
        let dgain = norm::backward(&mut dx, &dnormalised, slice(&x), slice(&gain), eps);
        let gradients = [
            tensor(dx, [targets.len(), width]),
            tensor(dgain, [width]),
            tensor(dweight, [vocabulary, width]),
        ];
        (tensor(vec![mean], [1]), gradients)
    }

    fn scale(gradient: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self> {
        let factor = slice(&dense(factor))[0];
        // A loss that is differentiated directly, as in training, has a factor of 1.
        if factor == 1.0 {
            return gradient;
        }
        let shape = gradient.shape();
        let mut values = into_vec(dense(gradient));
        values.iter_mut().for_each(|value| *value *= factor);
        FlexTensor::new(
            Bytes::from_elems(values),
            Layout::contiguous(shape),
            DType::F32,
        )
    }
}

/// Without autodiff an operation is its forward pass.
impl FusedOps for Flex {
    fn embed(table: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self> {
        Self::embed_forward(table, tokens)
    }
    fn norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        Self::norm_forward(x, gain, eps)
    }
    fn attention_block(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        qkv: FloatTensor<Self>,
        output: FloatTensor<Self>,
        rotary: FloatTensor<Self>,
        sizes: AttentionSizes,
    ) -> FloatTensor<Self> {
        Self::attention_forward(
            &AttentionInputs {
                x,
                gain,
                qkv,
                output,
                rotary,
            },
            sizes,
        )
        .0
    }
    fn mlp_block(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        gate_up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self> {
        Self::mlp_forward(
            &MlpInputs {
                x,
                gain,
                gate_up,
                down,
            },
            eps,
        )
        .0
    }
    fn head_loss(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self> {
        let losses = into_vec(Self::head_losses(
            &HeadInputs { x, gain, weight },
            targets,
            eps,
        ));
        let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
        tensor(vec![(sum / losses.len() as f64) as f32], [1])
    }
    fn head_token_losses(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self> {
        Self::head_losses(&HeadInputs { x, gain, weight }, targets, eps)
    }
}
