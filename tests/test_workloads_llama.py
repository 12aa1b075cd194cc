"""The decoder against Hugging Face's, its size, its initialisation, and its checkpoints."""

from __future__ import annotations

import dataclasses
import json
import weakref

import pytest
import torch

from workloads.architecture import Architecture
from workloads.checkpoints import architecture_of, check_weights, config_of, hugging_face_name, load_checkpoint, save_checkpoint
from workloads.llama import Llama, initialise, summed_loss
from workloads.pretraining import WORKLOADS

SMALL = Architecture(hidden=48, mlp=96, layers=3, heads=4, vocab=97)
PUBLISHED = {
    "llama_60m": 58_073_600,
    "llama_130m": 134_105_856,
    "llama_350m": 367_969_280,
    "llama_1b": 1_339_082_752,
    "llama_7b": 6_738_415_616,
}


def small(shape: Architecture = SMALL, seed: int = 0, **options) -> Llama:
    model = Llama(shape, positions=32, **options)
    initialise(model, seed)
    return model


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 97, (2, 24), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    workload = next(workload for workload in WORKLOADS if workload.name == name)
    model = workload.build(0, "meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("changes", [{}, {"tied": True}, {"activation": "gelu", "init": "fan_in"}], ids=["llama", "tied", "gelu"])
def test_logits_equal_those_of_transformers(changes, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = small(dataclasses.replace(SMALL, **changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:  # all ones would hide a norm in the wrong place
                parameter.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(len(name)))
    save_checkpoint(model, tmp_path)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens()), theirs(tokens()).logits, rtol=0, atol=1e-5)


def test_a_checkpoint_of_transformers_loads_sharded_or_whole(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(**config_of(SMALL, positions=32))
    theirs = transformers.LlamaForCausalLM(config)
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    model = load_checkpoint(tmp_path)
    assert model.shape == SMALL
    with torch.no_grad():
        torch.testing.assert_close(model(tokens()), theirs(tokens()).logits, rtol=0, atol=1e-5)
    save_checkpoint(model, tmp_path / "again")
    for (name, ours), theirs_again in zip(model.named_parameters(), load_checkpoint(tmp_path / "again").parameters(), strict=True):
        assert torch.equal(ours, theirs_again), name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_key_value_heads": 2}, "num_key_value_heads = 2 is not supported"),
        ({"head_dim": 24}, "head_dim = 24 is not supported: expected 12, hidden_size / num_attention_heads"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
            r"rope_parameters = \{'rope_type': 'linear', .*\} is not",
        ),
        ({"rope_scaling": {"type": "dynamic"}}, r"rope_scaling = \{'type': 'dynamic'\} is not supported"),
        ({"num_hidden_layers": 4}, r"9 weights are missing, model\.layers\.3\."),
        ({"num_hidden_layers": 2}, r"weight 'model\.layers\.2\..*' has no place in a LLaMA decoder of 2 layers"),
        ({"intermediate_size": 100}, r"is \((96, 48|48, 96)\), but config\.json asks for \((100, 48|48, 100)\)"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5}, r"config\.json: model\.heads = 5: expected a number that divides"),
        ({"hidden_size": "48"}, r"config\.json: .*expected the configuration of a LLaMA"),
    ],
)
def test_a_configuration_of_another_model_is_refused_before_a_weight_is_read(tmp_path, changes, said):
    save_checkpoint(small(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=said):
        check_weights(tmp_path, architecture_of(config, tmp_path))
    with pytest.raises(ValueError, match=said):
        load_checkpoint(tmp_path)


def test_a_head_of_the_usual_size_may_be_named(tmp_path):
    save_checkpoint(small(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert architecture_of(config | {"head_dim": 12, "rope_parameters": {"rope_type": "default"}}, tmp_path) == SMALL


def test_broken_checkpoints_say_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json is missing: expected a checkpoint"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json holds no object but list"):
        load_checkpoint(tmp_path)
    save_checkpoint(small(), tmp_path)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut off or corrupt"):
        check_weights(tmp_path, SMALL)
    file.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"holds no weights as safetensors, but pytorch_model\.bin: expected model\.safetensors, or"):
        check_weights(tmp_path, SMALL)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": "model-00001.safetensors"}}))
    with pytest.raises(ValueError, match=r"model-00001\.safetensors is missing, which model\.safetensors\.index\.json names; fetch"):
        check_weights(tmp_path, SMALL)


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = small(seed=3).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = small(seed=3).state_dict()
    assert torch.equal(state, torch.get_rng_state()), "building the model used the global generator"
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = small(seed=4)
    assert all(not torch.equal(first[name], values) for name, values in other.state_dict().items() if "norm" not in name)


@pytest.mark.parametrize("init", ["llama", "fan_in"])
def test_initial_weights_have_the_declared_spread(init):
    shape = Architecture(hidden=128, mlp=352, layers=4, heads=4, vocab=256, init=init)
    model = small(shape)
    expected = {
        "embed": 0.5,
        "head": 0.02,
        "attn.q": 128**-0.5,
        "attn.o": (128 * 8) ** -0.5,
        "mlp.up": 128**-0.5,
        "mlp.down": (352 * 8) ** -0.5,
    }
    modules = [model.embed, model.head, *(model.layers[1].get_submodule(role) for role in list(expected)[2:])]
    for module, (role, std) in zip(modules, expected.items(), strict=True):
        assert module.role == role
        assert module.weight.std().item() == pytest.approx(0.02 if init == "llama" else std, rel=0.05)


def test_every_parameter_has_a_role_and_layers_are_listed():
    model = small()
    roles = [getattr(module, "role", None) for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    layer = ["norm", "attn.q", "attn.k", "attn.v", "attn.o", "norm", "mlp.gate", "mlp.up", "mlp.down"]
    assert sorted(map(str, roles)) == sorted(["embed", *3 * layer, "norm", "head"])
    assert len(model.layers) == 3
    assert hugging_face_name("layers.2.attn.o.weight") == "model.layers.2.self_attn.o_proj.weight"


def test_loss_in_pieces_and_recomputed_layers_change_no_gradient():
    def gradients(checkpointing: bool, chunk: int | None) -> tuple[float, list[torch.Tensor]]:
        model = small(checkpointing=checkpointing)
        targets = tokens(1)
        targets[0, :5] = -100
        loss = summed_loss(model(tokens()), targets) if chunk is None else model(tokens(), targets, chunk)
        loss.backward()
        return loss.item(), [parameter.grad for parameter in model.parameters()]

    plain = gradients(False, None)
    for other in (gradients(True, None), gradients(False, 7), gradients(True, 48)):
        assert other[0] == pytest.approx(plain[0], rel=1e-6)
        for ours, theirs in zip(plain[1], other[1], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_position_sees_no_later_token():
    model = small(dataclasses.replace(SMALL, norm="post", init="fan_in"))
    changed = tokens().clone()
    changed[:, 12:] = 5
    with torch.no_grad():
        ours, theirs = model(tokens()), model(changed)
    torch.testing.assert_close(ours[:, :12], theirs[:, :12])
    assert not torch.allclose(ours[:, 12:], theirs[:, 12:])


@pytest.mark.parametrize(("changes", "frozen"), [({}, ""), ({"tied": True}, ""), ({}, "head"), ({}, "layers")])
def test_loss_and_gradients_in_chunks_are_those_of_the_whole(changes, frozen):
    shape = dataclasses.replace(SMALL, **changes)
    targets = tokens(1)
    targets[0, 3:9] = -100
    found = []
    for chunk in (None, 7):  # 48 tokens: the last chunk is shorter
        model = small(shape)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not (frozen and name.startswith(frozen)))
        for _ in range(2):  # gradients add up over micro-batches
            loss = model(tokens(), targets, chunk)
            (loss / 42).backward()
        with torch.no_grad():
            torch.testing.assert_close(model(tokens(), targets, chunk), loss.detach(), rtol=1e-6, atol=0)
        found.append((loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_logits_of_one_chunk_are_alive_at_a_time():
    alive, most = set(), 0

    def watch(module, args, logits):
        nonlocal most
        alive.add(logits.untyped_storage()._cdata)
        weakref.finalize(logits.untyped_storage(), alive.discard, logits.untyped_storage()._cdata)
        most = max(most, len(alive))

    model = small()
    model.head.register_forward_hook(watch)
    loss = model(tokens(), tokens(1), 6)
    assert (most, len(alive)) == (1, 0)
    loss.backward()
