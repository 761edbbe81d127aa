"""A training step of a Llama decoder in PyTorch, as a good program of today writes it: packed
projections, scaled_dot_product_attention, rms_norm, fused AdamW, clipping. The yardstick of the
`engine` measurement, which starts it and asks for steps in turn with the built-in trainer.

    pytorch.py MODEL.json SEQUENCES MODE        MODE: eager, compile, eager-bf16, compile-bf16

Prints a line of JSON when ready (after the first step); for every line "N" on standard input
makes N steps and prints their seconds; at the end of its input prints its peak of memory.
"""

import json
import os
import resource
import sys
import time

started = time.monotonic()

import torch
import torch.nn.functional as F
from torch import nn


def rotary_table(positions, depth, theta):
    inverse = 1.0 / theta ** (torch.arange(0, depth, 2).float() / depth)
    angles = torch.outer(torch.arange(positions).float(), inverse)  # [T, D/2]
    return angles.cos(), angles.sin()


def rotate(x, cosines, sines):  # x [B, H, T, D]
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cosines - b * sines, b * cosines + a * sines), dim=-1)


class Norm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.gain, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return F.rms_norm(x, self.gain.shape, self.gain, self.eps)


class Layer(nn.Module):
    def __init__(self, model):
        super().__init__()
        width, hidden = model["hidden_size"], model["intermediate_size"]
        self.heads, self.kv_heads = model["num_attention_heads"], model["num_key_value_heads"]
        self.depth = width // self.heads
        self.attention_norm = Norm(width, model["rms_norm_eps"])
        packed = (self.heads + 2 * self.kv_heads) * self.depth
        self.qkv = nn.Linear(width, packed, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.mlp_norm = Norm(width, model["rms_norm_eps"])
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x, cosines, sines):  # x [B, T, C]
        batch, time, width = x.shape
        packed = self.qkv(self.attention_norm(x)).view(batch, time, -1, self.depth).transpose(1, 2)
        queries, keys, values = packed.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        mixed = F.scaled_dot_product_attention(
            rotate(queries, cosines, sines),
            rotate(keys, cosines, sines),
            values,
            is_causal=True,
            enable_gqa=self.heads != self.kv_heads,
        )
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, time, width))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    def __init__(self, model):
        super().__init__()
        width = model["hidden_size"]
        self.embedding = nn.Embedding(model["vocab_size"], width)
        self.layers = nn.ModuleList(Layer(model) for _ in range(model["num_hidden_layers"]))
        self.norm = Norm(width, model["rms_norm_eps"])
        self.head = nn.Linear(width, model["vocab_size"], bias=False)
        if model["tie_word_embeddings"]:
            self.head.weight = self.embedding.weight
        depth = width // model["num_attention_heads"]
        table = rotary_table(model["max_position_embeddings"], depth, model["rope_theta"])
        self.register_buffer("cosines", table[0])
        self.register_buffer("sines", table[1])
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, inputs, targets):  # [B, T]
        x = self.embedding(inputs)
        for layer in self.layers:
            x = layer(x, self.cosines, self.sines)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def main():
    model_file, sequences, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    with open(model_file) as file:
        model = json.load(file)
    torch.set_num_threads(int(os.environ["OPENGPU_THREADS"]))
    torch.manual_seed(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    llama = Llama(model).to(device)
    decayed = [p for p in llama.parameters() if p.dim() > 1]
    others = [p for p in llama.parameters() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, fused=True)
    forward = torch.compile(llama) if mode.startswith("compile") else llama
    length, vocabulary = model["max_position_embeddings"], model["vocab_size"]
    count = sequences * length
    # The same tokens as the built-in trainer's (bench/src/bin/engine.rs).
    tokens = torch.tensor([(i * i + i // 7) % vocabulary for i in range(count + 1)], device=device)
    inputs, targets = tokens[:-1].view(sequences, length), tokens[1:].view(sequences, length)

    def step():
        begun = time.monotonic()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=mode.endswith("bf16")):
            loss = forward(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(llama.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        value = loss.item()
        return time.monotonic() - begun, value

    def say(**words):
        print(json.dumps(words), flush=True)

    first = step()[1]
    parameters = sum(p.numel() for p in llama.parameters())
    say(
        name=f"PyTorch {torch.__version__} {mode}",
        parameters=parameters,
        first_step_seconds=time.monotonic() - started,
        loss=first,
    )
    for line in sys.stdin:
        made = [step() for _ in range(int(line))]
        say(seconds=[seconds for seconds, _ in made], loss=made[-1][1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    say(peak_bytes=peak)


main()
