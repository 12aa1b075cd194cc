"""LLaMA checkpoints in Hugging Face's format: `config.json` and safetensors, in one file or several with an index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workloads.architecture import Architecture
from workloads.llama import Llama

if TYPE_CHECKING:
    from collections.abc import Mapping

ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
NAMES = {
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
}
"""Our modules' names and Hugging Face's."""


def load_checkpoint(folder: Path, *, positions: int | None = None, checkpointing: bool = False) -> Llama:
    """The model in `folder`, on the current default device, in the dtype of the file; `positions` defaults to the config's.

    Raises:
        ValueError: files are missing, or the model is not a LLaMA that this decoder can be.
    """
    config = read_config(folder)
    shape = architecture_of(config, folder)
    check_weights(folder, shape)
    model = Llama(shape, positions=positions or int(config.get("max_position_embeddings", 2048)), checkpointing=checkpointing)
    wanted = {hugging_face_name(name): parameter for name, parameter in model.named_parameters()}
    for file in _files(folder):
        with _opened(file) as weights:
            for name in wanted.keys() & set(weights.keys()):
                wanted[name].data = weights.get_tensor(name).to(wanted[name].device)
    if shape.tied:
        model.head.weight = model.embed.weight
    return model


def check_weights(folder: Path, shape: Architecture) -> None:
    """Compares what the files of a checkpoint say that they hold with what a decoder of this shape needs; reads no weight.

    Raises:
        ValueError: a file is missing or cut off, or a weight is missing, of another shape, or of no use.
    """
    with torch.device("meta"):
        parameters = dict(Llama(shape, positions=1).named_parameters())
    wanted = {hugging_face_name(name): tuple(parameter.shape) for name, parameter in parameters.items()}
    found: dict[str, tuple[int, ...]] = {}
    for file in _files(folder):
        with _opened(file) as weights:
            found |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118  # no mapping
    for name, size in found.items():
        useless = name.endswith("rotary_emb.inv_freq") or (shape.tied and name == "lm_head.weight")
        if name not in wanted and not useless:
            raise ValueError(f"{folder}: weight {name!r} has no place in a LLaMA decoder of {shape.layers} layers without biases")
        if size != wanted.get(name, size):
            raise ValueError(f"{folder}: {name} is {size}, but config.json asks for {wanted[name]}")
    if missing := sorted(wanted.keys() - found.keys()):
        raise ValueError(f"{folder}: {len(missing)} weights are missing, {missing[0]} among them; fetch the checkpoint again")


def save_checkpoint(model: Llama, folder: Path) -> None:
    """Writes `config.json` and `model.safetensors`, which `transformers.LlamaForCausalLM.from_pretrained` loads."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {hugging_face_name(name): values.detach().contiguous() for name, values in model.named_parameters()}
    save_file(weights, folder / ONE_FILE, metadata={"format": "pt"})
    config = config_of(model.shape, positions=model.cos_tk.shape[0], dtype=model.embed.weight.dtype)
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def config_of(shape: Architecture, *, positions: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Hugging Face's configuration of a shape.

    Raises:
        ValueError: a post-norm decoder, which their LLaMA is not.
    """
    if shape.norm != "pre":
        raise ValueError("a post-norm decoder is no LLaMA of Hugging Face's: only pre-norm models can be written as their checkpoints")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "vocab_size": shape.vocab,
        "hidden_act": shape.activation,
        "tie_word_embeddings": shape.tied,
        "rms_norm_eps": shape.eps,
        "rope_theta": shape.rope_base,
        "max_position_embeddings": positions,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def architecture_of(config: Mapping[str, Any], folder: Path) -> Architecture:
    """The shape in a Hugging Face configuration.

    Raises:
        ValueError: it asks for something this decoder does not have.
    """
    heads = config.get("num_attention_heads")
    rope_key = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    rope = config.get(rope_key) or {}
    supported = {
        "model_type": config.get("model_type") == "llama",
        "num_key_value_heads": config.get("num_key_value_heads", heads) == heads,
        "hidden_act": config.get("hidden_act", "silu") in ("silu", "gelu"),
        "attention_bias": not config.get("attention_bias", False),
        "mlp_bias": not config.get("mlp_bias", False),
        rope_key: rope.get("rope_type", rope.get("type", "default")) == "default",
    }
    for key, fine in supported.items():
        if not fine:
            raise ValueError(f"{folder / 'config.json'}: {key} = {config.get(key)!r} is not supported: expected the original LLaMA's")
    try:
        shape = Architecture(
            hidden=config["hidden_size"],
            mlp=config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            vocab=config["vocab_size"],
            activation=config.get("hidden_act", "silu"),
            tied=config.get("tie_word_embeddings", False),
            eps=config.get("rms_norm_eps", 1e-6),
            rope_base=float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
        )
        shape.check()
    except KeyError as error:
        raise ValueError(f"{folder / 'config.json'} lacks {error.args[0]!r}: expected the configuration of a LLaMA") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'}: {error}; expected the configuration of a LLaMA") from None
    head, usual = config.get("head_dim"), shape.hidden // shape.heads
    if head not in (None, usual):
        raise ValueError(
            f"{folder / 'config.json'}: head_dim = {head!r} is not supported: expected {usual}, hidden_size / num_attention_heads"
        )
    return shape


def hugging_face_name(name: str) -> str:
    """`model.layers.3.self_attn.q_proj.weight` for `layers.3.attn.q.weight`."""
    module, _, parameter = name.rpartition(".")
    if module.startswith("layers."):
        _, number, inner = module.split(".", 2)
        return f"model.layers.{number}.{NAMES[inner]}.{parameter}"
    return f"{NAMES[module]}.{parameter}"


def read_config(folder: Path) -> dict[str, Any]:
    """What `config.json` says.

    Raises:
        ValueError: it is missing or broken.
    """
    return _read_json(folder / "config.json")


def _files(folder: Path) -> list[Path]:
    """The files that hold the weights."""
    if (folder / ONE_FILE).exists():
        return [folder / ONE_FILE]
    if (folder / INDEX).exists():
        return [folder / file for file in sorted(set(_read_json(folder / INDEX).get("weight_map", {}).values()))]
    others = sorted(file.name for ending in ("bin", "pth", "pt", "gguf") for file in folder.glob(f"*.{ending}"))
    raise ValueError(
        f"{folder} holds no weights as safetensors{', but ' + ', '.join(others[:3]) if others else ''}: expected {ONE_FILE}, or {INDEX} "
        "and its files; to convert a checkpoint, load it with transformers and save it by save_pretrained"
    )


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    if not file.exists():
        raise ValueError(f"{file} is missing, which {INDEX} names; fetch the checkpoint again")
    try:
        with safe_open(file, framework="pt") as weights:
            yield weights
    except SafetensorError as error:
        raise ValueError(f"{file} is cut off or corrupt ({error}); fetch the checkpoint again") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(f"{path} is missing: expected a checkpoint of Hugging Face") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); fetch the checkpoint again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no object but {type(found).__name__}; fetch the checkpoint again")
    return found
