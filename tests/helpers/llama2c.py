"""llama2.c checkpoints as Hugging Face directories: real weights and a real tokenizer for tests, without a download.

Written apart from `rmjax.models.weights`, so that it can contradict it.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<unk>", "<s>", "</s>")


def convert(bin_path: Path | str, tokenizer_path: Path | str, out_dir: Path | str) -> Path:
    """Writes config.json, model.safetensors and a fast tokenizer; returns `out_dir`."""
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    config, tensors = read_weights(Path(bin_path))
    (out / "config.json").write_text(json.dumps(config))
    save_file(
        {name: np.ascontiguousarray(x) for name, x in tensors.items()}, out / "model.safetensors", {"format": "pt"}
    )
    tokenizer(Path(tokenizer_path), config["vocab_size"], config["max_position_embeddings"]).save_pretrained(out)
    return out


def read_weights(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """config.json's content and tensors by Hugging Face's names."""
    raw = path.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, context = struct.unpack("7i", raw[:28])
    tied, vocab, h = vocab > 0, abs(vocab), dim // heads
    data = np.frombuffer(raw, np.float32, offset=28)
    offset = 0

    def take(*shape: int) -> np.ndarray:
        nonlocal offset
        size = int(np.prod(shape))
        offset += size
        return data[offset - size : offset].reshape(shape)

    def halves(x: np.ndarray, n: int) -> np.ndarray:
        """Rotary pairs (0, 1), (2, 3), ... of a head -> (0, h/2), (1, h/2 + 1), ..."""
        return x.reshape(n, h // 2, 2, -1).swapaxes(1, 2).reshape(x.shape)

    tensors = {"model.embed_tokens.weight": take(vocab, dim)}
    stacks = {
        "input_layernorm": take(layers, dim),
        "self_attn.q_proj": take(layers, heads * h, dim),
        "self_attn.k_proj": take(layers, kv_heads * h, dim),
        "self_attn.v_proj": take(layers, kv_heads * h, dim),
        "self_attn.o_proj": take(layers, dim, heads * h),
        "post_attention_layernorm": take(layers, dim),
        "mlp.gate_proj": take(layers, hidden, dim),
        "mlp.down_proj": take(layers, dim, hidden),
        "mlp.up_proj": take(layers, hidden, dim),
    }
    for name, stack in stacks.items():
        for layer, x in enumerate(stack):
            n = {"self_attn.q_proj": heads, "self_attn.k_proj": kv_heads}.get(name)
            tensors[f"model.layers.{layer}.{name}.weight"] = x if n is None else halves(x, n)
    tensors["model.norm.weight"] = take(dim)
    take(2, context, h // 2)  # rotary tables, computed elsewhere
    if not tied:
        tensors["lm_head.weight"] = take(vocab, dim)
    assert offset == len(data), f"{path}: {len(data) - offset} numbers left over"
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": dim,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return config, tensors


def tokenizer(path: Path, vocab: int, context: int) -> PreTrainedTokenizerFast:
    """A sentencepiece BPE in llama2.c's format: per piece its score (higher merges first), length and bytes."""
    raw = path.read_bytes()
    pieces: list[str] = []
    scores: list[float] = []
    at = 4  # the longest piece's length comes first
    for index in range(vocab):
        score, size = struct.unpack("fi", raw[at : at + 8])
        text = raw[at + 8 : at + 8 + size].decode()
        at += 8 + size
        pieces.append(SPECIAL[index] if index < 3 else text.replace(" ", "▁"))
        scores.append(score)
    ids = {piece: index for index, piece in enumerate(pieces)}
    merges = []
    for piece in pieces[259:]:  # after the specials and the 256 bytes
        splits = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in ids and piece[i:] in ids]
        merges += [(-scores[ids[piece]], ids[a], ids[b], a, b) for a, b in splits]
    model = Tokenizer(
        BPE(ids, [(a, b) for *_, a, b in sorted(merges)], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    model.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    model.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    model.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    model.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=model,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=context,
    )
