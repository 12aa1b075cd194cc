"""The declared pre-training workloads: their recipe, loss, evaluation, overrides and targets."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from runner import catalog
from workloads import preparation, prepared, targets, text
from workloads.architecture import Architecture
from workloads.base import Batch, Precision, Target
from workloads.batches import to_batch
from workloads.pretraining import BASES, WORKLOADS
from workloads.tokenizers import Bytes

BY_NAME = {workload.name: workload for workload in WORKLOADS}
TINY = replace(
    BY_NAME["llama_nano"],
    model=Architecture(hidden=32, mlp=48, layers=2, heads=2, vocab=256),
    batch=Batch(sequences=6, length=48, micro=4),
    data="mine",
    layout=None,
    validation_tokens=1000,
    legacy_sequences=5,
)


@pytest.fixture(params=["packed", "padded"])
def layout(request, tmp_path, monkeypatch):
    monkeypatch.setenv("SLIMPERF_DATA", str(tmp_path))
    lines = [f"{number} " + "a line of text that goes on, " * (number % 5) for number in range(800)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    source = text.local_text(tmp_path / "mine.jsonl")
    task = preparation.Preparation(name="mine", source=source, tokenizer=Bytes(), layout=request.param, length=100)
    list(preparation.prepare(task, tmp_path / "mine"))
    return request.param


def test_the_ladder_follows_the_published_recipe():
    steps = {"llama_60m": 10_000, "llama_130m": 20_000, "llama_350m": 60_000, "llama_1b": 100_000, "llama_7b": 150_000}
    perplexity = {"llama_60m": 34.06, "llama_130m": 25.08, "llama_350m": 18.80, "llama_1b": 15.56}
    for name, count in steps.items():
        workload = BY_NAME[name]
        assert workload.budget.steps == count
        assert (workload.batch.sequences, workload.batch.length, workload.batch.tokens) == (512, 256, 131_072)
        assert 512 % workload.batch.micro == 0
        assert (workload.data, workload.tokenizer, workload.layout) == ("c4", "t5-base", "padded")
        assert workload.precision == Precision(weights="bf16")
        assert 2048 <= workload.loss_chunk <= 8192
        assert workload.validation_tokens == 10_000_000
        if name in perplexity:
            assert workload.target.metric == "legacy_ppl"
            assert workload.target.value == perplexity[name]
            assert workload.target.provisional
            assert "2403.03507" in workload.target.source
        else:
            assert workload.target is None


def test_every_workload_has_five_variants_that_change_one_thing():
    for base in (BASES[0], BASES[-1]):
        variants = {workload.name.removeprefix(base.name + "_"): workload for workload in WORKLOADS if workload.variant_of == base.name}
        assert sorted(variants) == ["gelu", "long", "postnorm", "tied", "wide"]
        assert variants["gelu"].model == replace(base.model, activation="gelu")
        assert variants["long"].batch.tokens == base.batch.tokens
        count = {name: sum(p.numel() for p in v.build(0, "meta").parameters()) for name, v in {"base": base, **variants}.items()}
        assert count["gelu"] == count["postnorm"] == count["long"] == count["base"] == count["tied"] + base.model.vocab * base.model.hidden
        assert count["wide"] > 2 * count["base"]


def test_cpu_members_have_the_declared_size():
    counts = {name: sum(p.numel() for p in BY_NAME[name].build(0, "meta").parameters()) for name in ("llama_nano", "llama_micro")}
    assert counts == {"llama_nano": 869_504, "llama_micro": 2_810_304}
    assert [BY_NAME[name].loss_chunk for name in counts] == [None, None]


def test_declarations_load_no_torch():
    code = "import sys; from workloads import pretraining, targets; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_loss_is_a_sum_whose_parts_add_up_to_the_global_batch(layout):
    data = TINY.open_data()
    model = TINY.build(0, "cpu")
    pieces = [TINY.loss(model, batch) for batch in data.micro_batches(0, 3, TINY.batch, "cpu")]
    whole = next(data.micro_batches(0, 3, replace(TINY.batch, micro=None), "cpu"))
    loss, count = TINY.loss(model, whole)
    assert len(pieces) == 2
    assert sum(part.item() for part, _ in pieces) == pytest.approx(loss.item(), rel=1e-5)
    assert sum(number for _, number in pieces) == count == data.target_tokens(0, 3, TINY.batch)
    flat = F.cross_entropy(model(whole.inputs_bt).flatten(0, 1), whole.targets_bt.flatten(), reduction="none")
    assert flat.sum().item() == pytest.approx(loss.item(), rel=1e-5)
    chunked, _ = replace(TINY, loss_chunk=11).loss(model, whole)
    assert chunked.item() == pytest.approx(loss.item(), rel=1e-5)


def test_evaluation_is_the_exact_mean_whatever_the_batch_size(layout):
    data = TINY.open_data()
    model = TINY.build(0, "cpu").train()
    with torch.no_grad():
        model.head.weight.mul_(50)  # losses that differ from token to token
    metrics = [replace(TINY, batch=replace(TINY.batch, micro=micro)).evaluate(model, data, "cpu") for micro in (1, 3, 4, 100)]
    rows, count = data.validation_rows(1000)
    batch = to_batch(data.validation.read(rows), "cpu")
    with torch.no_grad():
        losses = F.cross_entropy(model(batch.inputs_bt).flatten(0, 1), batch.targets_bt.flatten(), reduction="none").double()
    assert 1000 <= count < 1000 + TINY.batch.length or len(rows) == len(data.validation)
    exact = losses.sum().item() / count
    batches = math.ceil(len(rows) / 5)
    for found in metrics:
        assert found["val_loss"] == pytest.approx(exact, rel=1e-6)
        assert found["val_ppl"] == pytest.approx(math.exp(exact), rel=1e-5)
        assert found["legacy_ppl"] == pytest.approx(math.exp(exact * batches / (batches + 1)), rel=1e-5)
    assert model.training
    assert torch.is_grad_enabled()


def test_evaluation_of_a_broken_model_is_nan_or_infinite(layout):
    data = TINY.open_data()
    model = TINY.build(0, "cpu")
    with torch.no_grad():
        model.head.weight.fill_(math.nan)
    assert all(math.isnan(value) for value in TINY.evaluate(model, data, "cpu").values())
    model = TINY.build(0, "cpu")
    with torch.no_grad():
        model.head.weight.mul_(1e6)
    assert TINY.evaluate(model, data, "cpu")["val_ppl"] == math.inf


@pytest.mark.parametrize("precision", [Precision(weights="bf16"), Precision(autocast="bf16")], ids=["weights", "autocast"])
def test_precision_is_what_was_asked(layout, precision):
    workload = replace(TINY, precision=precision)
    model = workload.build(0, "cpu")
    seen = []
    model.head.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    loss, _ = workload.loss(model, next(workload.open_data().micro_batches(0, 1, workload.batch, "cpu")))
    loss.backward()
    assert seen == [torch.bfloat16]
    assert loss.dtype == torch.float32
    stored = torch.bfloat16 if precision.weights == "bf16" else torch.float32
    assert {p.dtype for p in model.parameters()} == {p.grad.dtype for p in model.parameters()} == {stored}
    full = replace(TINY, precision=Precision()).build(0, "cpu")
    exact, _ = TINY.loss(full, next(TINY.open_data().micro_batches(0, 1, TINY.batch, "cpu")))
    assert loss.item() == pytest.approx(exact.item(), rel=0.01)


def test_the_example_has_the_shape_of_a_micro_batch(layout):
    real = next(TINY.open_data().micro_batches(0, 1, TINY.batch, "cpu"))
    example = TINY.example("meta")
    assert example.inputs_bt.shape == real.inputs_bt.shape
    assert example.inputs_bt.dtype == real.inputs_bt.dtype
    loss, _ = TINY.loss(TINY.build(0, "meta"), example)
    assert loss.is_meta


def test_other_data_bring_their_vocabulary_and_lose_the_target(layout):
    changed = catalog.workload("llama_60m", {"data": "mine", "steps": 500, "batch.length": 64})
    assert (changed.budget.steps, changed.target, changed.model.vocab) == (500, None, None)
    assert changed.architecture().vocab == 256
    assert changed.build(0, "meta").embed.weight.shape == (256, 512)
    assert changed.open_data().identity()["layout"] == layout
    assert "data=mine" in changed.name
    kept = catalog.workload("llama_60m", {"data": "mine", "target": 3.5})
    assert (kept.target.value, kept.target.metric) == (3.5, "legacy_ppl")


def test_a_target_survives_only_changes_that_leave_the_task_alone():
    assert catalog.workload("llama_60m", {"steps": 100, "batch.micro": 8}).target == BY_NAME["llama_60m"].target
    for change in ({"batch.length": 128}, {"validation_tokens": 1000}, {"model.layers": 2}):
        assert catalog.workload("llama_60m", change).target is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch.length": 0}, "batch.length = 0: expected a whole number of at least 1"),
        ({"batch.sequences": -1}, "batch.sequences = -1: expected a whole number of at least 1"),
        ({"batch.micro": 0}, "batch.micro = 0: expected"),
        ({"legacy_sequences": 0}, "legacy_sequences = 0: expected"),
        ({"validation_tokens": 0}, "validation_tokens = 0: expected"),
        ({"loss_chunk": 0}, "loss_chunk = 0: expected"),
        ({"evaluate_every": 0}, "evaluate_every = 0: expected"),
        ({"model.layers": 0}, "model.layers = 0: expected"),
        ({"model.eps": 0.0}, "model.eps = 0.0: expected a positive number"),
        ({"model.heads": 3}, "model.heads = 3: expected a number that divides model.hidden = 128 into parts of an even size"),
        ({"model.heads": 128}, "model.heads = 128: expected a number that divides"),
        ({"devices": 3}, "batch.sequences = 8: expected a multiple of devices = 3"),
        ({"diverged_above": 0.0}, "diverged_above = 0.0: expected a positive number"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_values_that_no_trial_could_have_are_refused_before_there_is_one(changes, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        catalog.workload("llama_nano", changes)


def test_fields_that_depend_on_each_other_may_be_changed_one_after_the_other():
    assert catalog.workload("llama_nano", {"model.hidden": 90, "model.heads": 3}).model.heads == 3


def test_data_without_a_token_to_predict_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIMPERF_DATA", str(tmp_path))
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps({"text": "ab" if number == 39 else "-"}) + "\n" for number in range(40)))

    class Words(Bytes):
        """Every word is a token, but `-` is none."""

        def encode(self, documents):
            return (np.array([*(2 for _ in document.strip("-")), 1], dtype=np.uint32) for document in documents)

    def opened(name, **changes):
        source = text.local_text(tmp_path / "mine.jsonl")
        task = preparation.Preparation(name=name, source=source, tokenizer=Words(), layout="padded", **changes)
        list(preparation.prepare(task, tmp_path / name))
        return prepared.open_tokens(name, length=1 if name == "short" else 8)

    for name in ("empty", "short"):
        with pytest.raises(ValueError, match=r"hold no training document with a second token, .* batch\.length = [18]:"):
            opened(name)
    data = opened("some", validation=text.local_text(tmp_path / "mine.jsonl"))
    steps = [data.rows(0, step, Batch(sequences=4, length=8)) for step in range(1, 11)]
    full = next(step for step, rows in enumerate(steps, start=1) if 39 in rows)
    assert data.target_tokens(0, full, Batch(sequences=4, length=8)) == 2
    with pytest.raises(ValueError, match=r"none of the 4 sequences of step \d+ has a token to predict within batch\.length = 8"):
        data.target_tokens(0, full % 10 + 1, Batch(sequences=4, length=8))


def test_unprepared_data_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIMPERF_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"slimperf data prepare c4 --name c4 --tokenizer t5-base --layout padded --length 256"):
        BY_NAME["llama_60m"].open_data()


def test_a_frozen_target_is_read_back_with_its_provenance(tmp_path):
    target = Target(metric="val_loss", value=2.25, provisional=True)
    provenance = {"baseline": "adam", "seeds": [0, 1], "values": [2.25, 2.26], "data_sha256": "ab" * 32, "python": "3.11.7"}
    targets.save_target("w", target, provenance, tmp_path)
    read = targets.load_target("w", tmp_path)
    assert (read.metric, read.value, read.mode, read.provisional) == ("val_loss", 2.25, "min", True)
    assert "baseline adam" in read.source
    assert targets.data_mismatch(read, "ab" * 32) is None
    expected = "set on other data (sha256 abababababab of Python 3.11.7) than these (cdcdcdcdcdcd)"
    assert targets.data_mismatch(read, "cd" * 32) == expected
    assert targets.data_mismatch(target, "cd" * 32) is None, "nobody knows what it was set on"
    assert targets.load_target("unknown", tmp_path) is None
    (tmp_path / "w.yaml").write_text("metric: val_loss\nvalue: low\n")
    with pytest.raises(ValueError, match=r"w\.yaml is not a target file: expected metric, value"):
        targets.load_target("w", tmp_path)


def test_the_data_command_prepares_lists_and_verifies(tmp_path, monkeypatch, capsys):
    from runner import cli

    monkeypatch.setenv("SLIMPERF_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SLIMPERF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "book.txt").write_text("\n\n".join(f"paragraph {number} of a small book" for number in range(500)))
    assert cli.main(["data", "list"]) == 0
    assert "nothing is prepared" in capsys.readouterr().out
    assert cli.main(["data", "prepare", str(tmp_path / "book.txt"), "--layout", "padded"]) == 0
    assert "tokens from 500 documents" in capsys.readouterr().out
    assert prepared.open_tokens("book", length=16, layout="padded").meta.length == 512
    assert cli.main(["data", "prepare", str(tmp_path / "book.txt"), "--layout", "padded"]) == 0
    assert "is there already" in capsys.readouterr().out
    assert cli.main(["data", "prepare", str(tmp_path / "book.txt")]) == 2
    assert "made with another layout (padded; asked for: packed), length (512; asked for: none)" in capsys.readouterr().err
    assert cli.main(["data", "verify", "book"]) == 0
    assert "are as they were prepared" in capsys.readouterr().out
    assert cli.main(["data", "list"]) == 0
    assert "book  bytes" in capsys.readouterr().out
    (tmp_path / "data" / "book" / "train-00000.tokens").write_bytes(b"")
    assert cli.main(["data", "verify", "book"]) == 2
    assert "train-00000.tokens has 0 bytes" in capsys.readouterr().err


def test_a_folder_with_validation_files_brings_its_own_split(tmp_path, monkeypatch):
    from runner import cli

    monkeypatch.setenv("SLIMPERF_DATA", str(tmp_path / "data"))
    for split, count in (("train", 40), ("validation", 10)):
        rows = [json.dumps({"text": f"{split} {number}"}) + "\n" for number in range(count)]
        (tmp_path / f"c4-{split}.00000-of-00001.jsonl").write_text("".join(rows))
    assert cli.main(["data", "prepare", str(tmp_path), "--name", "mini", "--layout", "padded", "--quiet"]) == 0
    data = prepared.open_tokens("mini", length=32)
    assert (len(data.train), len(data.validation)) == (40, 10)
    assert bytes(data.validation.read(data.validation_rows(10**6)[0])[3][:12].tolist()) == b"validation 3"
