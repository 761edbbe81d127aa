//! What a model is: the fields of a Hugging Face Llama `config.json`, the presets, and the
//! canonical order of its tensors.

use serde::{Deserialize, Serialize};

/// A Llama-family decoder. Field names are those of Hugging Face's `LlamaConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the SwiGLU hidden layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Longest context, in tokens; also the length of a training sequence.
    pub max_position_embeddings: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary embedding's wavelengths.
    pub rope_theta: f64,
    /// Whether the output projection is the embedding.
    pub tie_word_embeddings: bool,
}

/// One tensor of a model: its Hugging Face name and shape (row-major; linear weights are
/// `[out, in]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorShape {
    /// For example `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Sizes of its dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl TensorShape {
    /// Number of weights.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Whether it holds no weight.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The presets, smallest first: name, then width, feed-forward, layers, heads, key-value
/// heads, context, vocabulary, tied embeddings.
const PRESETS: &[(&str, [usize; 7], bool)] = &[
    ("pico", [64, 176, 2, 4, 2, 64, 512], true),
    ("nano", [128, 352, 4, 4, 2, 128, 1024], true),
    ("micro", [256, 704, 6, 4, 4, 256, 4096], true),
    ("mini", [512, 1376, 8, 8, 4, 512, 8192], true),
    ("small", [768, 2048, 12, 12, 4, 1024, 32000], true),
    ("base", [2048, 5632, 22, 32, 4, 2048, 32000], false),
];

/// Names of the presets, smallest first.
pub fn preset_names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|preset| preset.0)
}

impl ModelConfig {
    /// The preset of that name, if there is one.
    pub fn preset(name: &str) -> Option<Self> {
        let (
            _,
            [
                hidden,
                feed_forward,
                layers,
                heads,
                kv_heads,
                context,
                vocabulary,
            ],
            tied,
        ) = *PRESETS.iter().find(|preset| preset.0 == name)?;
        Some(Self {
            vocab_size: vocabulary,
            hidden_size: hidden,
            intermediate_size: feed_forward,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            max_position_embeddings: context,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            tie_word_embeddings: tied,
        })
    }

    /// Every tensor in canonical order: the order of a revision's flat weights, of its
    /// digest and of every update.
    pub fn tensors(&self) -> Vec<TensorShape> {
        let hidden = self.hidden_size;
        let key_value = hidden / self.num_attention_heads * self.num_key_value_heads;
        let mut tensors = Vec::new();
        let mut add = |name: String, shape: Vec<usize>| tensors.push(TensorShape { name, shape });
        add(
            "model.embed_tokens.weight".into(),
            vec![self.vocab_size, hidden],
        );
        for layer in 0..self.num_hidden_layers {
            let mut add =
                |name: &str, shape| add(format!("model.layers.{layer}.{name}.weight"), shape);
            add("input_layernorm", vec![hidden]);
            add("self_attn.q_proj", vec![hidden, hidden]);
            add("self_attn.k_proj", vec![key_value, hidden]);
            add("self_attn.v_proj", vec![key_value, hidden]);
            add("self_attn.o_proj", vec![hidden, hidden]);
            add("post_attention_layernorm", vec![hidden]);
            add("mlp.gate_proj", vec![self.intermediate_size, hidden]);
            add("mlp.up_proj", vec![self.intermediate_size, hidden]);
            add("mlp.down_proj", vec![hidden, self.intermediate_size]);
        }
        add("model.norm.weight".into(), vec![hidden]);
        if !self.tie_word_embeddings {
            add("lm_head.weight".into(), vec![self.vocab_size, hidden]);
        }
        tensors
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(TensorShape::len).sum()
    }

    /// Floating-point operations that training takes for one token, forward and backward: six
    /// for each weight that is multiplied with, and twelve for each pair of a query's channel
    /// and a position of the context (Chowdhery et al. 2022, "PaLM", appendix B). Layers that
    /// are computed again for their gradient count once.
    pub fn training_flops_per_token(&self) -> u64 {
        let embedded = self.vocab_size * self.hidden_size;
        // The input embedding is a lookup; tied, it is the head's product too.
        let looked_up = if self.tie_word_embeddings {
            0
        } else {
            embedded
        };
        let multiplied = (self.parameters() - looked_up) as u64;
        let attention = self.num_hidden_layers * self.hidden_size * self.max_position_embeddings;
        6 * multiplied + 12 * attention as u64
    }

    /// Refuses a configuration that no decoder can have, in a sentence with the numbers.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        if let Some((name, _)) = positive.iter().find(|field| field.1 == 0) {
            return Err(format!("{name} is 0; it must be at least 1"));
        }
        let (hidden, heads, key_value) = (
            self.hidden_size,
            self.num_attention_heads,
            self.num_key_value_heads,
        );
        if hidden % heads != 0 || (hidden / heads) % 2 != 0 {
            return Err(format!(
                "hidden_size {hidden} over num_attention_heads {heads} must be a whole even number"
            ));
        }
        if heads % key_value != 0 {
            return Err(format!(
                "num_attention_heads {heads} must be a multiple of num_key_value_heads {key_value}"
            ));
        }
        Ok(())
    }
}
