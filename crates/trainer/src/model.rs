//! The Llama decoder: embedding, layers of attention and SwiGLU, final norm, output
//! projection. Names and conventions are those of Hugging Face's `LlamaForCausalLM`.

use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use opengpu_trainer_protocol::ModelConfig;

use crate::kernels::{attention::Heads, rotary};
use crate::ops::{self, AttentionSizes, plain};

/// Which form of the operations a model uses; both compute the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One hand-written step for half a layer.
    Fused,
    /// Ordinary Burn operations.
    Plain,
}

/// A model with its weights, `V` tokens, width `C`, feed-forward width `F`.
pub struct Llama {
    config: ModelConfig,
    form: Form,
    embedding: Tensor<2>, // [V, C]
    layers: Vec<Layer>,
    norm: Tensor<1>,         // [C]
    head: Option<Tensor<2>>, // [V, C]; None: the embedding
    rotary: Tensor<2>,       // [positions, D]
}

struct Layer {
    attention_norm: Tensor<1>, // [C]
    qkv: Tensor<2>,            // [(heads + 2 kv_heads)·D, C]
    output: Tensor<2>,         // [C, C]
    mlp_norm: Tensor<1>,       // [C]
    gate_up: Tensor<2>,        // [2F, C]
    down: Tensor<2>,           // [C, F]
}

/// Takes tensors off the front of flat weights.
struct Cursor<'a> {
    rest: &'a [f32],
    device: &'a Device,
    tracked: bool,
}

impl Cursor<'_> {
    fn take<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<D> {
        let (here, rest) = self.rest.split_at(shape.iter().product());
        self.rest = rest;
        let tensor = Tensor::from_data(TensorData::new(here.to_vec(), shape), self.device);
        if self.tracked {
            tensor.require_grad()
        } else {
            tensor
        }
    }
}

impl Llama {
    /// A model with these flat weights. On an autodiff device all of them are tracked.
    ///
    /// Query, key and value projections follow each other in canonical order, as gate and
    /// up do, so each stack is one tensor.
    pub fn new(config: &ModelConfig, weights: &[f32], device: &Device, form: Form) -> Self {
        assert_eq!(
            weights.len(),
            config.parameters(),
            "flat weights of another model"
        );
        let (width, hidden) = (config.hidden_size, config.intermediate_size);
        let packed = sizes(config, 1).heads.packed_width();
        let mut from = Cursor {
            rest: weights,
            device,
            tracked: device.is_autodiff(),
        };
        let embedding = from.take([config.vocab_size, width]);
        let layers = (0..config.num_hidden_layers)
            .map(|_| Layer {
                attention_norm: from.take([width]),
                qkv: from.take([packed, width]),
                output: from.take([width, width]),
                mlp_norm: from.take([width]),
                gate_up: from.take([2 * hidden, width]),
                down: from.take([width, hidden]),
            })
            .collect();
        let norm = from.take([width]);
        let head = (!config.tie_word_embeddings).then(|| from.take([config.vocab_size, width]));
        let depth = width / config.num_attention_heads;
        let positions = config.max_position_embeddings;
        let table = rotary::table(positions, depth, config.rope_theta);
        let rotary = Tensor::from_data(TensorData::new(table, [positions, depth]), device);
        Self {
            config: config.clone(),
            form,
            embedding,
            layers,
            norm,
            head,
            rotary,
        }
    }

    /// Residual stream `[N, C]` after the last layer, for sequences of `length` tokens one
    /// after the other.
    fn residual(&self, tokens: &[u32], length: usize) -> Tensor<2> {
        let sizes = sizes(&self.config, length);
        let tokens = self.token_tensor(tokens);
        let x = match self.form {
            Form::Fused => ops::embed(self.embedding.clone(), tokens),
            Form::Plain => plain::embed(self.embedding.clone(), tokens),
        };
        self.layers.iter().fold(x, |x, layer| {
            layer.forward(x, &self.rotary, sizes, self.form)
        })
    }

    /// Mean loss `[1]` of predicting `targets` from `inputs`, in nats per token.
    pub fn loss(&self, inputs: &[u32], targets: &[u32], length: usize) -> Tensor<1> {
        let (x, targets) = (self.residual(inputs, length), self.token_tensor(targets));
        let function = match self.form {
            Form::Fused => ops::head_loss,
            Form::Plain => plain::head_loss,
        };
        function(x, self.norm.clone(), self.projection(), targets, self.eps())
    }

    /// Loss of every token, in nats.
    pub fn token_losses(&self, inputs: &[u32], targets: &[u32], length: usize) -> Vec<f32> {
        let (x, targets) = (self.residual(inputs, length), self.token_tensor(targets));
        let function = match self.form {
            Form::Fused => ops::head_token_losses,
            Form::Plain => plain::head_token_losses,
        };
        numbers(function(
            x,
            self.norm.clone(),
            self.projection(),
            targets,
            self.eps(),
        ))
    }

    /// Logits `[rows, V]` of the last `rows` positions of one sequence.
    pub fn logits(&self, tokens: &[u32], rows: usize) -> Vec<f32> {
        let x = self
            .residual(tokens, tokens.len())
            .narrow(0, tokens.len() - rows, rows);
        let x = match self.form {
            Form::Fused => ops::norm(x, self.norm.clone(), self.eps()),
            Form::Plain => plain::norm(x, self.norm.clone(), self.eps()),
        };
        numbers(x.matmul(self.projection().transpose()))
    }

    /// Loss and its gradient by every weight, flat in canonical order, into `gradient`.
    pub fn loss_and_gradient(
        &self,
        inputs: &[u32],
        targets: &[u32],
        length: usize,
        gradient: &mut [f32],
    ) -> f32 {
        let loss = self.loss(inputs, targets, length);
        let mut gradients = loss.backward();
        let mut rest = gradient;
        take(&self.embedding, &mut gradients, &mut rest);
        for layer in &self.layers {
            take(&layer.attention_norm, &mut gradients, &mut rest);
            take(&layer.qkv, &mut gradients, &mut rest);
            take(&layer.output, &mut gradients, &mut rest);
            take(&layer.mlp_norm, &mut gradients, &mut rest);
            take(&layer.gate_up, &mut gradients, &mut rest);
            take(&layer.down, &mut gradients, &mut rest);
        }
        take(&self.norm, &mut gradients, &mut rest);
        if let Some(head) = &self.head {
            take(head, &mut gradients, &mut rest);
        }
        numbers(loss)[0]
    }

    fn projection(&self) -> Tensor<2> {
        self.head.as_ref().unwrap_or(&self.embedding).clone()
    }

    fn eps(&self) -> f32 {
        self.config.rms_norm_eps as f32
    }

    fn token_tensor(&self, tokens: &[u32]) -> Tensor<1, Int> {
        let tokens: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
        let shape = [tokens.len()];
        Tensor::from_data(TensorData::new(tokens, shape), &self.embedding.device())
    }
}

impl Layer {
    fn forward(
        &self,
        x: Tensor<2>,
        rotary: &Tensor<2>,
        sizes: AttentionSizes,
        form: Form,
    ) -> Tensor<2> {
        let (attention, mlp) = match form {
            Form::Fused => (
                ops::attention_block as fn(_, _, _, _, _, _) -> _,
                ops::mlp_block as fn(_, _, _, _, _) -> _,
            ),
            Form::Plain => (plain::attention_block as _, plain::mlp_block as _),
        };
        let (qkv, output) = (self.qkv.clone(), self.output.clone());
        let x = attention(
            x,
            self.attention_norm.clone(),
            qkv,
            output,
            rotary.clone(),
            sizes,
        );
        mlp(
            x,
            self.mlp_norm.clone(),
            self.gate_up.clone(),
            self.down.clone(),
            sizes.eps,
        )
    }
}

fn sizes(config: &ModelConfig, sequence: usize) -> AttentionSizes {
    let heads = Heads {
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_width: config.hidden_size / config.num_attention_heads,
    };
    AttentionSizes {
        sequence,
        heads,
        eps: config.rms_norm_eps as f32,
    }
}

/// Moves the gradient of `tensor` to the front of `rest`.
fn take<const D: usize>(tensor: &Tensor<D>, gradients: &mut Gradients, rest: &mut &mut [f32]) {
    let (here, after) = std::mem::take(rest).split_at_mut(tensor.shape().num_elements());
    *rest = after;
    match tensor.grad_remove(gradients) {
        Some(gradient) => {
            let data = gradient.into_data();
            here.copy_from_slice(data.as_slice::<f32>().expect("gradients are float32"));
        }
        None => here.fill(0.0),
    }
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .into_data()
        .try_into_vec::<f32>()
        .expect("the model computes in float32")
}
