"""Checks the built-in trainer against torch and transformers on the same weights and tokens.

For each model: the trainer makes weights and exports a Hugging Face folder; AutoModelForCausalLM
and AutoTokenizer load it; logits, losses, gradients and a few AdamW steps must agree within 1e-4
relative; what transformers saves (in float32, float16 and bfloat16) must import to the same weights.

    compare_transformers.py PROBE [--golden]

PROBE is the trainer's example program of that name. --golden also writes the small golden files
from which the Rust tests check the same without Python.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

TOLERANCE = 1e-4
GOLDEN = Path(__file__).resolve().parents[2] / "crates/trainer/tests/golden"
INNER = {
    "batch_sequences": 3,
    "learning_rate": 2e-3,
    "beta1": 0.9,
    "beta2": 0.95,
    "epsilon": 1e-8,
    "weight_decay": 0.1,
    "gradient_clip": 1.0,
    "warmup_fraction": 0.0,
    "schedule": "constant",
    "final_fraction": 1.0,
    "state": "carry",
}
STEPS, RATE = 5, 2e-3


def config(vocabulary, width, feed_forward, layers, heads, kv_heads, context, tied, theta=10_000.0):
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "rope_theta": theta,
        "tie_word_embeddings": tied,
    }


# The two small ones become golden files.
CASES = {
    "tied-grouped": config(320, 24, 40, 2, 6, 2, 11, True),
    "untied-full": config(288, 16, 24, 2, 2, 2, 9, False, theta=500_000.0),
    "tied-full": config(512, 64, 176, 3, 4, 4, 80, True),
    "untied-grouped": config(512, 64, 176, 3, 8, 1, 200, False),
    "documents": config(512, 64, 176, 2, 8, 2, 150, True),
}
GOLDEN_CASES = ["tied-grouped", "untied-full"]


class Trainer:
    """A trainer process, spoken to in JSON lines."""

    def __init__(self, probe):
        self.process = subprocess.Popen([probe], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.next = 0

    def ask(self, **body):
        self.next += 1
        self.process.stdin.write(json.dumps({"id": self.next, **body}) + "\n")
        self.process.stdin.flush()
        while True:
            reply = json.loads(self.process.stdout.readline())
            if reply["type"] == "error":
                raise SystemExit(f"the trainer refused {body['type']}: {reply['message']}")
            if reply["type"] != "progress":
                return reply


def numbers(path):
    return np.fromfile(path, dtype="<f4")


def compare(what, ours, theirs, tolerance=TOLERANCE):
    """The largest difference, relative to the largest number of the tensor."""
    ours, theirs = np.asarray(ours, np.float64).ravel(), np.asarray(theirs, np.float64).ravel()
    if ours.shape != theirs.shape:
        raise SystemExit(f"{what}: {ours.shape} numbers against {theirs.shape}")
    error = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)
    if not error <= tolerance:
        raise SystemExit(f"{what}: relative difference {error:.2e}, more than {tolerance:.0e}")
    return error


def make_tokenizer(path):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog " * 20], trainer)
    tokenizer.save(str(path))
    return tokenizer


def canonical_names(model_config):
    """Names of the tensors in the order of a revision's flat weights."""
    parts = (
        "input_layernorm self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj "
        "post_attention_layernorm mlp.gate_proj mlp.up_proj mlp.down_proj"
    ).split()
    layers = range(model_config["num_hidden_layers"])
    return [
        "model.embed_tokens.weight",
        *(f"model.layers.{layer}.{part}.weight" for layer in layers for part in parts),
        "model.norm.weight",
        *([] if model_config["tie_word_embeddings"] else ["lm_head.weight"]),
    ]


def document_mask(tokens):
    """What is added to scores [B, 1, T, T], so that a token sees only its own document, which
    begins with the end-of-text token (0) of the one before."""
    document = (tokens == 0).cumsum(dim=1)  # [B, T]
    seen = document[:, :, None] == document[:, None, :]
    seen &= torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)[:, None]


def flat(model, names, of):
    parameters = dict(model.named_parameters())
    return np.concatenate([of(parameters[name]).detach().numpy().ravel() for name in names])


def check(name, model_config, trainer, probe, folder):
    tokenizer_path = folder / "tokenizer.json"
    tokenizer = make_tokenizer(tokenizer_path)
    weights_path = folder / "weights.f32"
    written = trainer.ask(type="initialise", model=model_config, seed=7, out=str(weights_path))
    assert written["model"] == model_config
    # Larger than fresh weights, so that every part of the model matters; gains beside 1.
    weights = numbers(weights_path) * 6
    gains = 1 + 0.2 * np.sin(np.arange(weights.size))
    weights = np.where(weights == 6, gains, weights).astype("<f4")
    weights.tofile(weights_path)

    errors = {}
    exported = folder / "model"
    for max_file_bytes in (20_000, 1 << 30):
        shutil.rmtree(exported, ignore_errors=True)
        files = trainer.ask(
            type="export",
            model=model_config,
            weights=str(weights_path),
            tokenizer=str(tokenizer_path),
            out=str(exported),
            max_file_bytes=max_file_bytes,
        )["files"]
        shards = [file for file in files if file.endswith(".safetensors")]
        assert (len(shards) > 1) == (max_file_bytes == 20_000), shards
        model, report = AutoModelForCausalLM.from_pretrained(
            exported, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            assert not report[kind], f"{name}: {kind} {report[kind]}"
    loaded = AutoTokenizer.from_pretrained(exported)
    text = "the lazy fox — naïve 狐\n  jumps<|endoftext|>"
    assert loaded(text)["input_ids"] == tokenizer.encode(text).ids, name
    assert loaded.decode(loaded(text)["input_ids"]) == text, name
    assert loaded.eos_token == "<|endoftext|>", loaded.eos_token

    names = canonical_names(model_config)
    assert sorted(names) == sorted(dict(model.named_parameters()))
    errors["weights"] = compare(f"{name}: weights", weights, flat(model, names, lambda p: p), 0.0)

    length = model_config["max_position_embeddings"]
    generator = np.random.default_rng(3)
    sequences = generator.integers(0, model_config["vocab_size"], (3, length + 1))
    inner = INNER
    if name == "documents":
        sequences[generator.random(sequences.shape) < 0.03] = 0
        inner = INNER | {"document_mask": True}
    sequences = sequences.tolist()
    case = {"model": model_config, "sequences": sequences, "inner": inner, "steps": STEPS, "rate": RATE}
    (folder / "case.json").write_text(json.dumps(case) + "\n")
    subprocess.run([probe, str(folder)], check=True)

    tokens = torch.tensor(sequences)
    mask = document_mask(tokens[:, :-1]) if name == "documents" else None
    logits = model(tokens[:, :-1], attention_mask=mask).logits
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    losses.mean().backward()
    errors["logits"] = compare(f"{name}: logits", numbers(folder / "logits.f32"), logits.detach())
    errors["losses"] = compare(f"{name}: losses", numbers(folder / "losses.f32"), losses.detach())
    gradient, start = numbers(folder / "gradient.f32"), 0
    errors["gradients"] = 0.0
    parameters = dict(model.named_parameters())
    for parameter_name in names:
        parameter = parameters[parameter_name]
        ours = gradient[start : start + parameter.numel()]
        start += parameter.numel()
        error = compare(f"{name}: gradient of {parameter_name}", ours, parameter.grad)
        errors["gradients"] = max(errors["gradients"], error)
    assert start == gradient.size
    truth = {
        "logits": logits.detach().numpy(),
        "losses": losses.detach().numpy(),
        "gradient": flat(model, names, lambda p: p.grad),
    }

    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": INNER["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=RATE, betas=(INNER["beta1"], INNER["beta2"]), eps=INNER["epsilon"])
    for _ in range(STEPS):
        optimiser.zero_grad()
        logits = model(tokens[:, :-1], attention_mask=mask).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), INNER["gradient_clip"])
        optimiser.step()
    truth["trained"] = flat(model, names, lambda p: p)
    # AdamW's first step is g / (|g| + epsilon): where a gradient is itself no more than rounding,
    # rounding decides the step, and only its size can be compared.
    trained = numbers(folder / "trained.f32")
    sizes = np.abs(truth["gradient"])
    clear = (sizes == 0) | (sizes > 1e-6 * sizes.max())
    assert clear.mean() > 0.99, f"{name}: {clear.mean():.3f} of the gradients are zero or more than rounding"
    errors["trained"] = compare(f"{name}: trained", trained[clear], truth["trained"][clear])
    compare(f"{name}: trained from rounding", trained, truth["trained"], 10 * TOLERANCE)

    for kind in (torch.float32, torch.float16, torch.bfloat16):
        saved = folder / str(kind)
        model.to(kind).save_pretrained(saved, max_shard_size="60KB")
        reply = trainer.ask(type="import", folder=str(saved), out=str(folder / "imported.f32"))
        assert reply["model"] == model_config, (reply["model"], model_config)
        compare(f"{name}: import of {kind}", numbers(folder / "imported.f32"),
                flat(model.to(torch.float32), names, lambda p: p), 0.0)
        model = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
    print(f"{name}: " + ", ".join(f"{what} {error:.1e}" for what, error in errors.items()))
    return case, truth


def write_golden(name, case, truth):
    folder = GOLDEN / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "case.json").write_text(json.dumps(case) + "\n")
    for what, values in truth.items():
        np.asarray(values, "<f4").ravel().tofile(folder / f"{what}.f32")


def main():
    probe = str(Path(sys.argv[1]).resolve())
    torch.manual_seed(0)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print("relative differences between the trainer and transformers, largest of each kind:")
    trainer = Trainer(probe)
    for name, model_config in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            case, truth = check(name, model_config, trainer, probe, Path(folder))
        if "--golden" in sys.argv[2:] and name in GOLDEN_CASES:
            write_golden(name, case, truth)
    trainer.process.stdin.close()
    assert trainer.process.wait() == 0
    print("The trainer and transformers agree.")


main()
