"""Ids of a Hugging Face tokenizer, and what ends a text."""

from __future__ import annotations

import json
import types
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from corpora import job, own_folders, prepared_data  # noqa: F401  # a fixture that acts by itself

from workloads import preparation, shards
from workloads.tokenizers import load_tokenizer


def vocabulary_of(folder: Path, words: dict[str, int], special: tuple[str, ...] = (), **config) -> Path:
    """A folder with a tokenizer of whole words, and its configuration if there is any."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0, **words}, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(special))
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_token_ids_beyond_a_gap_are_kept_whole(tmp_path):
    tokenizer = load_tokenizer(str(vocabulary_of(tmp_path / "gaps", {"</s>": 1, "alpha": 2, "beta": 70_000})))
    assert tokenizer.vocab == 70_001
    data = prepared_data(tmp_path, tokenizer=tokenizer)
    tokens = np.concatenate(shards.map_shards(tmp_path / "data" / "mine", data.meta, "train")[0])
    assert set(tokens) == {0, 1, 2, 70_000}
    assert data.meta.dtype == "uint32"
    understated = load_tokenizer(str(tmp_path / "gaps"))
    understated.vocab = 4
    with pytest.raises(AssertionError, match="uint16 does not hold token id 70000"):
        list(preparation.prepare(job(tmp_path / "text.jsonl", tokenizer=understated), tmp_path / "data" / "wrong"))


@pytest.mark.parametrize(
    ("config", "asked", "eos", "bos"),
    [
        ({}, None, 1, 4),
        ({"eos_token": "<|endoftext|>"}, None, 2, 4),
        ({"eos_token": {"content": "<|endoftext|>"}, "bos_token": {"content": "[BOS]"}}, None, 2, 5),
        ({"eos_token": None, "bos_token": None}, None, 1, None),
        ({"eos_token": "<|endoftext|>"}, "[EOS]", 3, 4),
    ],
    ids=["known", "text", "object", "null", "asked"],
)
def test_the_end_of_a_text_is_the_one_that_is_declared(tmp_path, config, asked, eos, bos):
    words = {"</s>": 1, "<|endoftext|>": 2, "[EOS]": 3, "<s>": 4, "[BOS]": 5}
    folder = vocabulary_of(tmp_path / "t", words, **config)
    for place in (folder, folder / "tokenizer.json"):
        tokenizer = load_tokenizer(str(place), eos=asked)
        assert (tokenizer.eos, tokenizer.bos) == (eos, bos)
        assert tokenizer.identity()["eos"] == eos


def test_an_end_that_is_not_there_is_said_with_the_way_to_name_one(tmp_path):
    folder = vocabulary_of(tmp_path / "t", {"[EOS]": 1})
    with pytest.raises(ValueError, match=r"does not say which token ends a text: .*name another with --eos TOKEN"):
        load_tokenizer(str(folder))
    assert load_tokenizer(str(folder), eos="[EOS]").eos == 1
    with pytest.raises(ValueError, match=r"has no token '<end>' \(--eos\)"):
        load_tokenizer(str(folder), eos="<end>")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    with pytest.raises(ValueError, match=r"has no token '</s>' \(eos_token of its tokenizer_config\.json\)"):
        load_tokenizer(str(folder))
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is not JSON"):
        load_tokenizer(str(folder))
    with pytest.raises(ValueError, match="bytes end a text with the byte 1"):
        load_tokenizer("bytes", eos="[EOS]")


def test_a_tokenizer_of_the_hub_brings_its_configuration_if_there_is_one(tmp_path, monkeypatch):
    folder = vocabulary_of(tmp_path / "t", {"</s>": 1, "<end>": 2}, eos_token="<end>")
    local = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    monkeypatch.setattr("tokenizers.Tokenizer", types.SimpleNamespace(from_pretrained=lambda name: local))
    assert load_tokenizer("nobody/offline").eos == 1
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, file: folder / file)
    assert load_tokenizer("nobody/online").eos == 2


def test_a_text_that_spells_the_end_does_not_end(tmp_path):
    words = {"alpha": 1, "beta": 2, "<|endoftext|>": 3}
    special = load_tokenizer(str(vocabulary_of(tmp_path / "special", words, special=("<|endoftext|>",))))
    plain = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", -9.0), ("</s>", 0.0), ("alpha", -1.0), (" ", -1.0)], unk_id=0))
    plain.save(str(tmp_path / "unigram.json"))
    for tokenizer, text_ in ((special, "alpha <|endoftext|> beta"), (load_tokenizer(str(tmp_path / "unigram.json")), "alpha </s> alpha")):
        (ids,) = tokenizer.encode([text_])
        assert ids.tolist().count(tokenizer.eos) == 1
        assert ids[-1] == tokenizer.eos
        assert ids.dtype == np.uint32
