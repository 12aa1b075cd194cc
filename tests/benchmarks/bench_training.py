"""Training throughput: the runner against a bare PyTorch loop and Hugging Face's Trainer, and how much of the device each of them uses.

    python tests/benchmarks/bench_training.py [--workload llama_nano] [--sequence N] [--batch N] [--rounds N] [--write]
    python tests/benchmarks/bench_training.py --device cuda --workload llama_60m llama_130m --compile --write

All sides have the same weights, micro-batches, precision and fused AdamW, and no clipping. The runner reads its tokens from prepared data,
writes its record and reads the losses at the end of each block of steps; the other two get the same tokens from memory and log nothing.
Blocks alternate, on the wall's clock. `--write` keeps results/performance/training*.csv; the exit code is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import flops
import torch
from measured import Measured, as_trials_run, keep, missed, of

from runner import catalog, hyperparameters, record, train
from runner.clock import Clock
from runner.devices import Group
from runner.trial import Trial
from submissions.adam import Adam
from workloads.batches import Tokens
from workloads.checkpoints import config_of, hugging_face_name
from workloads.pretraining import PretrainingWorkload

LR = 1e-3
PACKAGES = {"bare loop": ("torch",), "Trainer": ("torch", "transformers", "accelerate")}
ENDLESS = {"steps": 10**6, "seconds": 1e9, "evaluate_every": 10**6}
Block = Callable[[], float]
"""Trains for a number of steps and returns the seconds they took."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all sides share."""

    name: str
    overrides: dict[str, Any]
    device: str
    threads: int
    steps: int

    @cached_property
    def workload(self) -> PretrainingWorkload:
        found = catalog.workload(self.name, self.overrides)
        assert isinstance(found, PretrainingWorkload), found
        return found

    def batches(self) -> list[list[Tokens]]:
        """The micro-batches of each step of a block, in memory."""
        data, batch = self.workload.open_data(), self.workload.batch
        return [list(data.micro_batches(0, step, batch, "cpu")) for step in range(1, self.steps + 1)]


def runner(setup: Setup, folder: Path) -> Block:
    """The training loop of `train.execute`."""
    dtype = setup.workload.precision.weights  # of the moments too, as in the other two
    trial = Trial(
        study="bench",
        workload=setup.name,
        overrides=setup.overrides,
        submission="adam",
        hyperparameters=hyperparameters.values(Adam(lr=LR, state_dtype=dtype)),
        seed=0,
        stop="budget",
    )
    writer, clock = record.Writer(folder / "live.jsonl"), Clock(torch.device(setup.device))
    terms = train.Terms(setup.device, setup.threads, 1e9, True, lambda: False, Group())
    attempt, _ = train.prepare(trial, folder, 0, terms, writer, clock)
    attempt._attach()

    def block() -> float:
        began = flops.now(setup.device)
        for _ in range(setup.steps):
            attempt.step()
            attempt.pause()
        attempt.measure(last=False)
        return flops.now(setup.device) - began

    return block


def bare(setup: Setup) -> Block:
    """What one writes in a page: all logits at once, the model compiled as a whole."""
    workload = replace(setup.workload, loss_chunk=None)
    model = workload.build(0, setup.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, fused=True)
    if workload.compile:
        model.compile()
    batches = setup.batches()
    if setup.device != "cpu":
        batches = [[Tokens(micro[0].pin_memory(), micro[1].pin_memory(), micro[2]) for micro in step] for step in batches]

    def block() -> float:
        began = flops.now(setup.device)
        for step in batches:
            tokens = sum(micro.target_count for micro in step)
            for micro in step:
                inputs_bt, targets_bt = (part.to(setup.device, non_blocking=True) for part in micro[:2])
                loss, _ = workload.loss(model, Tokens(inputs_bt, targets_bt, micro.target_count))
                (loss / tokens).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            optimizer.zero_grad()
        return flops.now(setup.device) - began

    return block


def trainer(setup: Setup, folder: Path) -> Block:
    """`transformers.Trainer` on `LlamaForCausalLM`, from the end of its first step to the end of its last."""
    import transformers

    workload, device = setup.workload, setup.device
    model = llama_of(workload, device)
    if workload.checkpointing:
        model.gradient_checkpointing_enable()
    steps = setup.batches()
    rows = [row for step in [steps[-1], *steps] for micro in step for row in rows_of(micro)]  # the first step is not timed
    micro = workload.batch.micro or workload.batch.sequences
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=setup.steps + 1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=workload.batch.sequences // micro,
        learning_rate=LR,
        weight_decay=0.0,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        bf16=workload.precision.autocast == "bf16",
        torch_compile=workload.compile,
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
        remove_unused_columns=False,
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,  # it would wait for the device at every step
        report_to=[],
        disable_tqdm=True,
    )
    marks: list[float] = []

    class Stopwatch(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in (1, args.max_steps):
                marks.append(flops.now(device))

    theirs = transformers.Trainer(
        model=model, args=arguments, train_dataset=rows, data_collator=transformers.default_data_collator, callbacks=[Stopwatch()]
    )
    theirs.remove_callback(transformers.PrinterCallback)

    def block() -> float:
        marks.clear()
        theirs.train()
        began, ended = marks
        return ended - began

    return block


def llama_of(workload: PretrainingWorkload, device: str) -> Any:
    """Hugging Face's model with the workload's initial weights."""
    import transformers

    ours = workload.build(0, device)
    config = transformers.LlamaConfig(**config_of(workload.architecture(), positions=workload.batch.length), use_cache=False)
    model: Any = transformers.LlamaForCausalLM(config)
    model.to(device, next(ours.parameters()).dtype)
    weights = {hugging_face_name(name): parameter.detach() for name, parameter in ours.named_parameters()}
    absent = model.load_state_dict(weights, strict=False)
    assert not absent.unexpected_keys, absent
    assert set(absent.missing_keys) <= {"lm_head.weight"}, absent  # tied, it is the embedding
    inputs_bt = workload.example(device).inputs_bt[:1]
    with torch.no_grad():
        expected = ours(inputs_bt).float()
        found = model(inputs_bt).logits.float()
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05 * float(expected.abs().max()))  # bf16 rounds differently on the way
    return model


def rows_of(micro: Tokens) -> Iterator[dict[str, torch.Tensor]]:
    """One example per sequence; the targets are shifted already."""
    for inputs_t, targets_t in zip(micro.inputs_bt, micro.targets_bt, strict=True):
        yield {"input_ids": inputs_t, "labels": targets_t, "shift_labels": targets_t}


def compare(setup: Setup, rounds: int) -> Iterator[Measured]:
    """Tokens per second of each side, their ratios, and what part of the measured matrix peak they make use of."""
    workload = setup.workload
    tokens, cost, dtype = setup.steps * workload.batch.tokens, flops.per_token(workload), flops.dtype_of(workload)
    rates: dict[str, list[float]] = {"runner": [], "bare loop": [], "Trainer": []}
    peaks: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sides: dict[str, Block] = {"runner": runner(setup, folder), "bare loop": bare(setup), "Trainer": trainer(setup, folder)}
        for number in range(rounds + 1):
            names = list(sides)
            for name in names if number % 2 else names[::-1]:
                seconds = sides[name]()
                if number:  # the first round makes states, and compiles
                    rates[name].append(tokens / seconds)
            peaks.append(flops.matmul_rate(setup.device, dtype))
    peak = max(peaks)
    batch, micro = workload.batch, workload.batch.micro or workload.batch.sequences
    what = f"{setup.name} {batch.sequences}x{batch.length}{' compiled' if workload.compile else ''}"
    note = f"micro-batches of {micro}, {setup.steps} steps a round"
    for name, values in rates.items():
        yield of(f"{what}: {name}", values, "tokens/s", note=note)
    for name, goal in (("bare loop", 0.97), ("Trainer", 1.0)):
        quotients = [ours / other for ours, other in zip(rates["runner"], rates[name], strict=True)]
        yield of(f"{what}: runner over {name}", quotients, "x", goal, versions(name))
    told = f"{cost / 1e6:.4g} MFLOP a token; best {str(dtype).removeprefix('torch.')} matrix product {peak / 1e12:.4g} TFLOP/s"
    for name, values in rates.items():
        yield of(f"{what}: {name}, model FLOPs utilisation", [rate * cost / peak for rate in values], "of the peak", note=told)


def versions(name: str) -> str:
    """Of the packages behind a side."""
    return ", ".join(f"{package} {metadata.version(package)}" for package in PACKAGES[name])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", nargs="+", default=["llama_nano"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", default="stdlib", help="prepared data to read, whatever the workload's own are")
    parser.add_argument("--sequence", type=int, help="tokens of a sequence")
    parser.add_argument("--batch", type=int, help="sequences of a step")
    parser.add_argument("--micro", type=int, help="sequences at once")
    parser.add_argument("--steps", type=int, default=10, help="of a block")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="torch.compile on every side")
    parser.add_argument("--write", action="store_true", help="keep the rows in results/performance")
    options = parser.parse_args()
    as_trials_run(options.threads)
    torch.set_num_threads(options.threads)
    rows: list[Measured] = []
    for name in options.workload:
        sizes = {"batch.length": options.sequence, "batch.sequences": options.batch, "batch.micro": options.micro}
        declared = catalog.registered(name)
        if not isinstance(declared, PretrainingWorkload):
            parser.error(f"--workload {name}: expected a pre-training workload, such as llama_nano or llama_60m")
        vocab = declared.model.vocab  # other data would bring their own
        overrides = ENDLESS | {"data": options.data, "model.vocab": vocab, "compile": options.compile}
        overrides |= {key: size for key, size in sizes.items() if size}
        setup = Setup(name=name, overrides=overrides, device=options.device, threads=options.threads, steps=options.steps)
        for found in compare(setup, options.rounds):
            rows.append(found)
            print(found, flush=True)
        gc.collect()  # the Trainer refers to itself, and the next workload wants the memory
    file = f"training{'' if options.device == 'cpu' else '_cuda'}{'_compiled' if options.compile else ''}"
    return keep(file, rows, options.threads, options.device) if options.write else missed(rows)


if __name__ == "__main__":
    sys.exit(main())
