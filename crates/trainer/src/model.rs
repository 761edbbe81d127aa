//! The Llama decoder: embedding, layers of attention and SwiGLU, final norm, output
//! projection. Names and conventions are those of Hugging Face's `LlamaForCausalLM`.

use burn::tensor::{Gradients, Int, Tensor, TensorData};
use opengpu_trainer_protocol::ModelConfig;

use crate::compute::{Compute, Form};
use crate::gradient::Gradient;
use crate::kernels::{attention::Heads, muon::Stack, rotary};
use crate::ops::{self, LayerSettings, LayerWeights, Numerics, plain};
use crate::tokens::first_visible;

/// A model with its weights on a device, `V` tokens, width `C`, feed-forward width `F`.
pub struct Llama {
    config: ModelConfig,
    compute: Compute,
    embedding: Tensor<2>, // [V, C]
    layers: Vec<LayerWeights>,
    norm: Tensor<1>,         // [C]
    head: Option<Tensor<2>>, // [V, C]; None: the embedding
    rotary: Tensor<2>,       // [positions, D]
}

/// Something done to every tensor of a model, in canonical order.
pub trait Visitor {
    /// To one tensor.
    fn visit<const D: usize>(&mut self, tensor: &mut Tensor<D>);
}

impl Llama {
    /// A model with these flat weights, for training: its tensors are tracked.
    ///
    /// Query, key and value projections follow each other in canonical order, as gate and
    /// up do, so each stack is one tensor.
    pub fn new(config: &ModelConfig, weights: &[f32], compute: &Compute) -> Self {
        Self::build(config, weights, compute, true)
    }

    /// The same for inference: nothing is kept for gradients.
    pub fn frozen(config: &ModelConfig, weights: &[f32], compute: &Compute) -> Self {
        Self::build(config, weights, compute, false)
    }

    fn build(config: &ModelConfig, weights: &[f32], compute: &Compute, tracked: bool) -> Self {
        let count = config.parameters();
        assert_eq!(weights.len(), count, "flat weights of another model");
        let (width, hidden) = (config.hidden_size, config.intermediate_size);
        let packed = heads(config).packed_width();
        let mut from = Cursor {
            rest: weights,
            compute,
            tracked,
        };
        let embedding = from.take([config.vocab_size, width]);
        let layers = (0..config.num_hidden_layers)
            .map(|_| LayerWeights {
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
        let rotary = Cursor {
            rest: &table,
            compute,
            tracked: false,
        }
        .take([positions, depth]);
        let rotary = if tracked {
            Tensor::from_inner(rotary)
        } else {
            rotary
        };
        Self {
            config: config.clone(),
            compute: compute.clone(),
            embedding,
            layers,
            norm,
            head,
            rotary,
        }
    }

    /// Shows every tensor, in canonical order.
    pub fn visit(&mut self, visitor: &mut impl Visitor) {
        visitor.visit(&mut self.embedding);
        for layer in &mut self.layers {
            visitor.visit(&mut layer.attention_norm);
            visitor.visit(&mut layer.qkv);
            visitor.visit(&mut layer.output);
            visitor.visit(&mut layer.mlp_norm);
            visitor.visit(&mut layer.gate_up);
            visitor.visit(&mut layer.down);
        }
        visitor.visit(&mut self.norm);
        if let Some(head) = &mut self.head {
            visitor.visit(head);
        }
    }

    /// Of every tensor that [`Self::visit`] shows, in that order, the matrices of a hidden layer
    /// that it is a stack of; none for embedding, head and gains.
    pub fn stacks(&self) -> Vec<Option<Stack>> {
        let (width, hidden) = (self.config.hidden_size, self.config.intermediate_size);
        let heads = heads(&self.config);
        let kv_width = heads.kv_heads * heads.head_width;
        let stack = |rows, columns| Some(Stack { rows, columns });
        let layer = [
            None,
            stack([width, kv_width, kv_width], width), // query, key, value
            stack([width, 0, 0], width),
            None,
            stack([hidden, hidden, 0], width), // gate, up
            stack([width, 0, 0], hidden),
        ];
        let mut stacks = vec![None];
        stacks.extend(self.layers.iter().flat_map(|_| layer));
        stacks.push(None);
        stacks.extend(self.head.as_ref().map(|_| None));
        stacks
    }

    /// The flat weights, in canonical order.
    pub fn weights(&mut self) -> Vec<f32> {
        struct Collect(Vec<f32>);
        impl Visitor for Collect {
            fn visit<const D: usize>(&mut self, tensor: &mut Tensor<D>) {
                self.0.extend(numbers(tensor.clone()));
            }
        }
        let mut collect = Collect(Vec::with_capacity(self.config.parameters()));
        self.visit(&mut collect);
        collect.0
    }

    /// How it is computed.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// Lets go of what a forward pass that was given up has left behind.
    ///
    /// Burn keeps an unfinished graph for as long as one of its leaves lives, and then
    /// takes it down from its roots, a rank of nodes for each backward pass that ends.
    pub fn forget_unfinished(&mut self) {
        struct Renew;
        impl Visitor for Renew {
            fn visit<const D: usize>(&mut self, tensor: &mut Tensor<D>) {
                let nothing = Tensor::empty([0; D], &tensor.device());
                let weights = std::mem::replace(tensor, nothing).inner();
                *tensor = Tensor::from_inner(weights).require_grad();
            }
        }
        self.visit(&mut Renew);
        // Embedding, layers and loss are a rank each.
        for _ in 0..self.layers.len() + 4 {
            let leaf = Tensor::<1>::zeros([1], &self.compute.device);
            let leaf = Tensor::from_inner(leaf).require_grad();
            drop(leaf.mul_scalar(1.0).backward());
        }
    }

    /// Whether gradients compute each layer's forward pass again.
    pub fn set_recompute(&mut self, recompute: bool) {
        self.compute.recompute = recompute;
    }

    /// Residual stream `[N, C]` after the last layer, for sequences of `length` tokens one
    /// after the other.
    fn residual(&self, tokens: &[u32], length: usize) -> Tensor<2> {
        let settings = LayerSettings {
            sequence: length,
            heads: heads(&self.config),
            numerics: self.numerics(),
            recompute: self.compute.recompute,
        };
        let visible_from = match self.compute.document_mask {
            true => first_visible(tokens, length),
            false => vec![0; tokens.len()],
        };
        let visible_from = self.integers(&visible_from);
        let tokens = self.integers(tokens);
        let (embed, layer) = match self.compute.forms.layers {
            Form::Fused => (
                ops::embed as fn(_, _) -> _,
                ops::layer as fn(_, _, _, _, _) -> _,
            ),
            Form::Plain => (plain::embed as _, plain::layer as _),
        };
        let x: Tensor<2> = embed(self.embedding.clone(), tokens);
        self.layers.iter().fold(x, |x, weights| {
            let (rotary, visible_from) = (self.rotary.clone(), visible_from.clone());
            layer(x, weights.clone(), rotary, visible_from, settings)
        })
    }

    /// Mean loss `[1]` of predicting `targets` from `inputs`, in nats per token.
    fn loss(&self, inputs: &[u32], targets: &[u32], length: usize) -> Tensor<1> {
        let (x, targets) = (self.residual(inputs, length), self.integers(targets));
        let function = match self.compute.forms.head {
            Form::Fused => ops::head_loss,
            Form::Plain => plain::head_loss,
        };
        function(
            x,
            self.norm.clone(),
            self.projection(),
            targets,
            self.numerics(),
        )
    }

    /// Loss of every token, in nats.
    pub fn token_losses(&self, inputs: &[u32], targets: &[u32], length: usize) -> Vec<f32> {
        let (x, targets) = (self.residual(inputs, length), self.integers(targets));
        let function = match self.compute.forms.head {
            Form::Fused => ops::head_token_losses,
            Form::Plain => plain::head_token_losses,
        };
        let (norm, projection) = (self.norm.clone(), self.projection());
        numbers(function(x, norm, projection, targets, self.numerics()))
    }

    /// Logits `[rows, V]` of the last `rows` positions of one sequence.
    pub fn logits(&self, tokens: &[u32], rows: usize) -> Vec<f32> {
        let x = self
            .residual(tokens, tokens.len())
            .narrow(0, tokens.len() - rows, rows);
        let eps = self.numerics().eps;
        let x = match self.compute.forms.head {
            Form::Fused => ops::norm(x, self.norm.clone(), eps),
            Form::Plain => plain::norm(x, self.norm.clone(), eps),
        };
        numbers(x.matmul(self.projection().transpose()))
    }

    /// Mean loss over the tokens, and the gradient of `share` times it by every weight.
    pub fn loss_and_gradient(
        &mut self,
        inputs: &[u32],
        targets: &[u32],
        length: usize,
        share: f32,
    ) -> (f32, Gradient) {
        let loss = self.loss(inputs, targets, length);
        let mean = loss.clone().inner();
        let loss = if share == 1.0 {
            loss
        } else {
            loss.mul_scalar(share)
        };
        let mut take = Take {
            gradients: loss.backward(),
            taken: Vec::new(),
        };
        self.visit(&mut take);
        (numbers(mean)[0], Gradient::new(take.taken))
    }

    fn projection(&self) -> Tensor<2> {
        self.head.as_ref().unwrap_or(&self.embedding).clone()
    }

    fn numerics(&self) -> Numerics {
        Numerics {
            eps: self.config.rms_norm_eps as f32,
            precision: self.compute.precision,
        }
    }

    fn integers(&self, tokens: &[u32]) -> Tensor<1, Int> {
        let tokens: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
        let shape = [tokens.len()];
        Tensor::from_data(TensorData::new(tokens, shape), &self.embedding.device())
    }
}

/// Takes tensors off the front of flat weights.
struct Cursor<'a> {
    rest: &'a [f32],
    compute: &'a Compute,
    tracked: bool,
}

impl Cursor<'_> {
    fn take<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<D> {
        let (here, rest) = self.rest.split_at(shape.iter().product());
        self.rest = rest;
        let data = TensorData::new(here.to_vec(), shape);
        let tensor = Tensor::from_data(data, &self.compute.device);
        if self.tracked {
            Tensor::from_inner(tensor).require_grad()
        } else {
            tensor
        }
    }
}

/// Takes every tensor's gradient out of a backward pass.
struct Take {
    gradients: Gradients,
    taken: Vec<Tensor<1>>,
}

impl Visitor for Take {
    fn visit<const D: usize>(&mut self, tensor: &mut Tensor<D>) {
        let gradient = tensor
            .grad_remove(&mut self.gradients)
            .expect("every weight takes part in the loss");
        let count = gradient.shape().num_elements();
        self.taken.push(gradient.reshape([count]));
    }
}

fn heads(config: &ModelConfig) -> Heads {
    Heads {
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_width: config.hidden_size / config.num_attention_heads,
    }
}

/// A tensor's numbers, in its order.
pub fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data();
    data.as_slice::<f32>()
        .expect("the model keeps float32")
        .to_vec()
}
