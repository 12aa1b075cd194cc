from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runner import catalog
from tests.commonsense import overrides, write_base, write_tasks
from workloads import commonsense_bases, commonsense_files, commonsense_scoring
from workloads.base import Batch
from workloads.batches import IGNORED
from workloads.commonsense import CommonsenseWorkload
from workloads.commonsense_data import CommonsenseData
from workloads.commonsense_scoring import Question
from workloads.llama import Llama
from workloads.tokenizers import Bytes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commonsense")
    commonsense_files.prepare(write_tasks(folder / "source"), folder / "data")
    write_base(folder / "base")
    return folder


def opened(place: Path, kind: str = "full", **changed: Any) -> tuple[CommonsenseWorkload, CommonsenseData, Llama]:
    workload = catalog.workload(f"commonsense_nano_{kind}", overrides(place, **changed))
    assert isinstance(workload, CommonsenseWorkload)
    data, model = workload.open_data(), workload.build(0, "cpu")
    assert isinstance(data, CommonsenseData)
    assert isinstance(model, Llama)
    return workload, data, model


def questions(count: int = 17) -> list[Question]:
    random = np.random.default_rng(0)
    return [
        Question(random.integers(2, 256, random.integers(5, 20)), tuple(random.integers(2, 256, random.integers(1, 6)) for _ in range(3)))
        for _ in range(count)
    ]


def test_options_after_a_shared_question_have_the_likelihood_of_whole_sequences(place: Path) -> None:
    _, _, model = opened(place)
    asked = questions()
    for found, question in zip(commonsense_scoring.likelihoods(model, asked, "cpu", tokens=60), asked, strict=True):
        for value, option in zip(found, question.options, strict=True):
            whole = torch.from_numpy(np.concatenate([question.prompt, option]))
            logs = model(whole[None]).log_softmax(-1)[0].detach()
            start = len(question.prompt) - 1
            expected = sum(float(logs[start + place, token]) for place, token in enumerate(option.tolist()))
            assert value == pytest.approx(expected, abs=1e-4)


def test_options_of_one_token_need_no_second_pass(place: Path) -> None:
    _, _, model = opened(place)
    prompt = np.arange(5, 12)
    (found,) = commonsense_scoring.likelihoods(model, [Question(prompt, (np.array([7]), np.array([9])))], "cpu", tokens=64)
    logs = model(torch.from_numpy(prompt)[None]).log_softmax(-1)[0, -1].detach()
    assert found == pytest.approx([float(logs[7]), float(logs[9])], abs=1e-5)


def test_beam_search_is_that_of_transformers(place: Path) -> None:
    transformers = pytest.importorskip("transformers")
    _, _, model = opened(place)
    theirs = transformers.LlamaForCausalLM.from_pretrained(place / "base")
    config = transformers.GenerationConfig(num_beams=4, max_new_tokens=10, do_sample=False, eos_token_id=1, pad_token_id=0)
    prompts = [question.prompt for question in questions(8)]
    for found, prompt in zip(commonsense_scoring.generate(model, prompts, "cpu", eos=1, length=10, tokens=200), prompts, strict=True):
        expected = theirs.generate(torch.from_numpy(prompt)[None], generation_config=config)[0, len(prompt) :].tolist()
        assert found == (expected[: expected.index(1)] if 1 in expected else expected)


def test_a_batch_is_a_function_of_seed_and_step_and_an_epoch_reads_every_example_once(place: Path) -> None:
    _, data, _ = opened(place)
    batch = Batch(sequences=2, length=200)

    def rows(seed: int, step: int) -> list[list[int]]:
        (micro,) = data.micro_batches(seed, step, batch, "cpu")
        return [row[row > 0].tolist() for row in micro.inputs_bt]

    assert rows(0, 3) == rows(0, 3)
    assert rows(0, 3) != rows(1, 3)
    assert len(data.train) == 34
    epoch = [tuple(row) for step in range(1, 18) for row in rows(5, step)]
    assert len(set(epoch)) == 34
    shares = [next(iter(data.micro_batches(0, 3, batch, "cpu", rank=rank, world=2))) for rank in range(2)]
    assert [share.inputs_bt[0][share.inputs_bt[0] > 0].tolist() for share in shares] == rows(0, 3)
    assert sum(share.target_count for share in shares) == data.target_tokens(0, 3, batch)


def test_loss_bears_on_the_question_or_on_the_answer_alone_and_long_examples_lose_their_end(place: Path) -> None:
    _, data, _ = opened(place)
    _, silent, _ = opened(place, prompt_loss=False)
    example = data.train[0]
    text = example.prompt("plain") + example.output
    ((inputs, targets),) = data.encode([example], 500)
    assert bytes(inputs.astype(np.uint8)) == text.encode()
    assert bytes(targets.astype(np.uint8)) == text.encode()[1:] + b"\x01"
    ((_, answers),) = silent.encode([example], 500)
    assert bytes(answers[answers != IGNORED].astype(np.uint8)) == example.output.encode() + b"\x01"
    ((short, _),) = data.encode([example], 20)
    assert bytes(short.astype(np.uint8)) == text.encode()[:19]


def test_held_out_examples_are_the_same_for_every_seed_and_never_trained_on(place: Path) -> None:
    _, data, _ = opened(place)
    _, again, _ = opened(place)
    assert data.validation == again.validation
    assert len(data.validation) == 6
    assert not set(data.validation) & set(data.train)


def test_evaluation_says_accuracy_by_task_and_does_not_depend_on_how_it_is_batched(place: Path) -> None:
    workload, data, model = opened(place, grid_examples=None)
    found = workload.evaluate(model, data, "cpu")
    assert found["accuracy"] == pytest.approx((found["accuracy/boolq"] + found["accuracy/ARC-Easy"]) / 2)
    other, _, _ = opened(place, grid_examples=None, scoring_tokens=300, **{"batch.micro": 1})
    assert other.evaluate(model, data, "cpu") == pytest.approx(found, abs=1e-4)
    assert 0 < found["answer_nats"] < 10
    assert model.training


def test_a_model_that_knows_the_answers_is_right_everywhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workload, data, model = opened(place)

    def knowing(model: Llama, asked: list[Question], device: str, *, tokens: int) -> list[list[float]]:
        found = []
        for question in asked:
            text = bytes(question.prompt.astype(np.uint8)).decode()
            options = [bytes(option.astype(np.uint8)).decode().strip() for option in question.options]
            number = int("".join(letter for letter in text.partition("\n")[0] if letter.isdigit()))
            right = ("true" if number % 3 else "false") if "true" in options else f"answer{number % 3 + 1}"
            found.append([0.0 if option == right else -9.0 * len(option) for option in options])
        return found

    monkeypatch.setattr(commonsense_scoring, "likelihoods", knowing)
    found = workload.conclude(model, data, "cpu")
    assert found["test_accuracy"] == found["test_accuracy/boolq"] == found["test_accuracy/ARC-Easy"] == 1.0
    assert found["test_answer_nats"] == pytest.approx(0, abs=1e-9)
    assert found["test_chance/boolq"] == 0.5
    assert found["test_chance/ARC-Easy"] == pytest.approx(1 / 3)
    assert found["test_count/boolq"] == 8


def test_guessing_costs_the_log_of_the_number_of_options(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workload, data, model = opened(place)
    monkeypatch.setattr(
        commonsense_scoring, "likelihoods", lambda model, asked, device, *, tokens: [[-3.0] * len(q.options) for q in asked]
    )
    found = workload.evaluate(model, data, "cpu")
    assert found["answer_nats/ARC-Easy"] == pytest.approx(math.log(3))
    assert found["answer_nats/boolq"] == pytest.approx(math.log(2))


def test_generation_reports_how_often_its_text_does_not_parse(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workload, data, model = opened(place, scoring="generate", tasks=["boolq"], test_examples=0)
    texts = [b"it is true", b"no idea", b"false, not true"]
    monkeypatch.setattr(
        commonsense_scoring, "generate", lambda model, prompts, device, **_: [list(texts[number % 3]) for number in range(len(prompts))]
    )
    found = workload.evaluate(model, data, "cpu")
    examples, _ = data.questions("boolq", 20)
    given = [("true", None, "false")[number % 3] for number in range(len(examples))]
    assert found["parse_failure"] == pytest.approx(given.count(None) / len(given))
    right = sum(answer == example.answer for answer, example in zip(given, examples, strict=True))
    assert found["accuracy"] == pytest.approx(right / len(given))
    assert workload.conclude(model, data, "cpu") == {}


def test_the_kinds_differ_in_what_trains_and_every_seed_starts_from_the_same_base(place: Path) -> None:
    workload, data, whole = opened(place, "full")
    _, _, frozen = opened(place, "adapters")
    assert all(parameter.requires_grad for parameter in whole.parameters())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    other = workload.build(7, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))
    identity = data.identity()
    assert identity["missing"] == ["piqa", "social_i_qa", "hellaswag", "winogrande", "ARC-Challenge", "openbookqa"]
    assert len(identity["checkpoint_sha256"]) == 64


def test_seven_billion_parameters_are_known_without_a_checkpoint() -> None:
    for kind in ("adapters", "full"):
        model = catalog.registered(f"commonsense_llama7b_{kind}").build(0, "meta")
        assert sum(parameter.numel() for parameter in model.parameters()) == 6_738_415_616
    nano = catalog.registered("commonsense_nano_full").build(0, "meta")  # not made here either
    assert sum(parameter.numel() for parameter in nano.parameters()) == 869_504
    assert catalog.registered("commonsense_llama7b_full").batch == Batch(sequences=16, length=256, micro=4)


def refused(place: Path, said: str, **changed: Any) -> None:
    with pytest.raises(ValueError, match=said):
        catalog.workload("commonsense_nano_full", overrides(place, **changed)).open_data()


def test_what_does_not_fit_together_is_said_before_anything_trains(place: Path, tmp_path: Path) -> None:
    refused(place, r"tasks = \['boolk'\]: 'boolk' is none of boolq, piqa", tasks=["boolk"])
    refused(place, r"held_out = 0: expected a whole number of at least 1", held_out=0)
    refused(place, r"grid_examples = 0: expected a whole number of at least 1", grid_examples=0)
    refused(place, r"test_examples = -1: expected a whole number, 0 for none, or null for all", test_examples=-1)
    refused(place, r"batch\.length = 1: expected at least 2 tokens", **{"batch.length": 1})
    refused(place, r"batch\.length = 8 cuts all 6 held-out examples before their answers", prompt_loss=False, **{"batch.length": 8})
    refused(place, "has no tests of hellaswag: it has boolq, ARC-Easy", tasks=["hellaswag"])
    refused(place, "40 training examples, expected more than the 40 held out", held_out=40)
    refused(place, "commonsense data 'elsewhere' are not prepared", data="elsewhere")
    refused(place, "checkpoint 'nobody/nothing' is no folder, and no LLaMA of the Hugging Face hub", checkpoint="nobody/nothing")
    refused(place, "no such recipe; there are made:llama_nano", checkpoint="made:llama_9b")
    refused(place, "the base made:llama_nano is not made yet.*slimperf data prepare commonsense-base", checkpoint="made:llama_nano")
    large = write_base(tmp_path / "large", vocab=4096)
    refused(place, "tokenizer bytes has 256 tokens, .* an embedding of 4096 rows: they do not belong together", checkpoint=str(large))
    other = write_base(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "gpt_neox"}))
    refused(place, "model_type = 'gpt_neox' is not supported: expected the original LLaMA's", checkpoint=str(other))
    with pytest.raises(ValueError, match=r"has the shape .*; for another one set model=null"):
        CommonsenseWorkload.open_data(wrong_shape(place))


def test_a_base_without_whole_weights_is_refused_before_anything_trains(place: Path, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    refused(place, r"holds no weights as safetensors, but pytorch_model\.bin", checkpoint=str(base))


@pytest.mark.parametrize(
    ("tokens", "rows"), [(32_000, 32_000), (128_256, 128_256), (32_022, 32_256), (49_151, 49_152), (1000, 1024)], ids=str
)
def test_an_embedding_may_be_rounded_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: int, rows: int) -> None:
    tokenizer = Bytes()
    tokenizer.vocab = tokens
    monkeypatch.setattr("workloads.tokenizers.load_tokenizer", lambda name: tokenizer)
    assert commonsense_bases.open_tokenizer(tmp_path, None, rows) is tokenizer
    for others in (tokens - 1, rows + 256, rows + 512):
        with pytest.raises(ValueError, match=r"they do not belong together; expected as many rows, or the next multiple of 8, 16, "):
            commonsense_bases.open_tokenizer(tmp_path, None, others)


def test_a_small_tokenizer_does_not_pass_for_that_of_a_larger_embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Bytes()
    tokenizer.vocab = 600
    monkeypatch.setattr("workloads.tokenizers.load_tokenizer", lambda name: tokenizer)
    with pytest.raises(ValueError, match=r"has 600 tokens, .* an embedding of 1024 rows: they do not belong together"):
        commonsense_bases.open_tokenizer(tmp_path, None, 1024)


def wrong_shape(place: Path) -> CommonsenseWorkload:
    import dataclasses

    workload = catalog.workload("commonsense_nano_full", overrides(place))
    assert isinstance(workload, CommonsenseWorkload)
    return dataclasses.replace(workload, model=catalog.registered("commonsense_llama7b_full").model)  # type: ignore[attr-defined]  # its own field


def test_a_base_of_ours_keeps_its_tokenizer(place: Path, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    (base / "recipe.json").write_text("{}")
    assert commonsense_bases.open_tokenizer(base, None, 256).name == "bytes"
    with pytest.raises(ValueError, match="was trained on bytes; expected tokenizer=bytes, or null"):
        commonsense_bases.open_tokenizer(base, "t5-base", 256)
