"""How builtin:tiny was made: a Llama of 1.26 million weights, trained from nothing on tempering's own worlds.

Its tokenizer, its training rows and its random start all follow from the seed; nothing is read from outside the package. It learns the first
hundred people (questions, in four wordings of six, and biographies), sums and differences, short stories, instructions, and replies of mixed
quality to requests. What is held out of each world stays unseen, so the model can be measured on it and can both gain and lose.

With one thread, the same versions and the same kind of processor the weights come out bit for bit; other processors add numbers up in another
order and give a model that differs in the last bits at first and then, as training goes on, in more. `models/tiny/MAKING.json` says what the
shipped weights were made with, their SHA-256 and their scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.methods.scopes import AnyScope
from tempering.methods.scopes.full import Full

if TYPE_CHECKING:
    from tempering.types import Record, Row

SHARES: dict[str, float] = {
    "people": 0.24,
    "wordings": 0.12,
    "biographies": 0.03,
    "strangers": 0.01,
    "one-digit sums": 0.03,
    "two-digit sums": 0.28,
    "stories": 0.06,
    "instructions": 0.18,
    "replies": 0.05,
}
"""Share of the training rows by what they teach. "wordings" asks about forty strangers in all six wordings, so that the two that are held out of the
questions about the known people are not words it never met; strangers' biographies only teach how names are written."""

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "MAKING.json",
)
"""What the package holds of the model."""


def tiny(
    people: int = 100,
    vocabulary: int = 1536,
    scope: AnyScope = Full(),
    optimizer: Optimizer = Optimizer(lr=3e-3, weight_decay=0.05, options={"betas": [0.9, 0.98]}),
    schedule: Schedule = Schedule(name="cosine", warmup=0.03, floor=0.02),
    training: Training = Training(steps=4500, batch_size=32, micro_tokens=8192, precision="fp32", save_every=250),
    budget: Budget = Budget(keep="none"),
    ship: bool = False,
    seed: int = 0,
) -> Report:
    """Make builtin:tiny from nothing: tokenizer, rows, random start, training, scores.

    Args:
        people: how many people of seed 0 it gets to know.
        vocabulary: tokens of its tokenizer, special ones among them.
        ship: copy the finished model into the package, over the one there (for maintainers).
        seed: of the start, of the order of rows, and nothing else: the worlds' seed is 0.
    """
    from tempering.measure import measure
    from tempering.methods.objectives.nll import NLL

    run = Experiment.begin(tiny, locals())
    if run.rehearses:
        raise UserError("there is no plan for tiny: the model that it trains does not exist before it runs; it has about a million weights")
    start = run.folder.path / "start"
    if not (start / "config.json").is_file():
        with run.display.phase("training the tokenizer"):
            _start(start, people, vocabulary, seed)
    policy = run.load(str(start))
    total = (training.steps or 0) * training.batch_size or 100_000
    with run.display.phase("writing and tokenising the rows"):
        train = list(rows(policy.tokenizer, total, people))
        held = list(rows(policy.tokenizer, 200, people, "test"))
    before = measure(policy, probes(people), say=run.display.say)
    tuned = run.fit("fit", policy, NLL(norm="segment_mean"), train, held)
    after = measure(tuned, probes(people), say=run.display.say)
    report = run.finish(tuned, before, after)
    _making(run.folder.path / "model", run, after, training)
    if ship:
        run.display.say(f"shipped to {_ship(run.folder.path / 'model')}")
    return report


def records(people: int = 100, split: str = "train") -> dict[str, Iterator[Record]]:
    """What each share of `SHARES` consists of, by name; nothing stands for the wordings in "test"."""
    from tempering.worlds.arithmetic import Arithmetic, WordProblems
    from tempering.worlds.instructions import Instructions
    from tempering.worlds.people import People
    from tempering.worlds.preferences import Preferences

    known = People(people)
    versions = range(10) if split == "train" else range(99, 100)
    strangers, wordings = People(1000, start=10_000), People(40, start=10_000)
    return {
        "people": known.records(split),
        **({"wordings": chain(wordings.records("train"), wordings.records("test"))} if split == "train" else {}),
        "biographies": (record for version in versions for record in known.text_records(version=version)),
        "strangers": strangers.text_records(version=versions[0]),
        "one-digit sums": Arithmetic(digits=1, steps=True).records(split),
        "two-digit sums": Arithmetic(("add", "subtract"), digits=2, steps=True).records(split),
        "stories": WordProblems().records(split, 6000 if split == "train" else 200),
        "instructions": Instructions().records(split, 10_000 if split == "train" else 200),
        "replies": Preferences().records(split, 6000 if split == "train" else 200, view="demonstrations"),
    }


def rows(tokenizer: Any, total: int, people: int = 100, split: str = "train") -> Iterator[Row]:
    """About `total` rows, each family its share of them, gone through from the start again as often as needed."""
    from tempering.data import sft_row

    for name, family in records(people, split).items():
        made = (row for record in family if (row := sft_row(record, tokenizer)) is not None)
        yield from islice(cycle(made), round(SHARES[name] * total))


def probes(people: int = 100) -> tuple[Any, ...]:
    """What the made model is measured on: the held-out part of everything it was taught, and things it was not taught at all."""
    from tempering.worlds.arithmetic import Arithmetic, WordProblems
    from tempering.worlds.instructions import Instructions
    from tempering.worlds.people import People
    from tempering.worlds.preferences import Preferences

    known, side = People(people), "target"
    return (
        known.probe("test", 200, name="people", side=side),
        known.probe("two_hop", 100, name="two-hop", side=side),
        known.after(40).probe("test", 100, name="unknown people", side=side),
        Arithmetic(digits=1).probe("test", None, name="one-digit", side=side),
        Arithmetic(("add",), digits=2).probe("test", 200, name="two-digit sums", side=side),
        Arithmetic(("subtract",), digits=2).probe("test", 200, name="two-digit differences", side=side),
        WordProblems().probe("test", 100, name="stories", side=side),
        Instructions().probe("test", 210, name="instructions", side=side),
        Preferences().probe("test", 200, name="preferences", side=side),
        Preferences().reward_probe("test", 60, name="gold reward", side=side),
    )


def make_tokenizer(people: int = 100, vocabulary: int = 1536) -> Any:
    """A byte-level BPE tokenizer trained on the training rows' text: any text survives a round trip, and every digit is a token of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    inner.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=specials, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    texts = (m.content for family in records(people).values() for r in islice(family, 3000) for m in (*r.prompt, *r.responses[0].messages))
    inner.train_from_iterator(["system", "user", "assistant", *texts], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=["<|im_start|>"], model_max_length=1024
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_model(tokenizer: Any, seed: int = 0) -> Any:
    """The random start: 5 layers of width 128, tied embeddings.

    Weights start five times larger than transformers' default of 0.02, which is meant for much wider models: here it learns twice as fast.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=1024, tie_word_embeddings=True, initializer_range=0.1, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def _start(folder: Path, people: int, vocabulary: int, seed: int) -> None:
    tokenizer = make_tokenizer(people, vocabulary)
    make_model(tokenizer, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _making(folder: Path, run: Experiment, scores: Any, training: Training) -> None:
    """MAKING.json: what the weights were made with, their digests, and their scores."""
    import json

    import torch

    from tempering.home import sha256_file, write_atomic
    from tempering.items import mean

    made = {
        "command": run.options.command or "temper run tiny",
        "values": run.folder.read("config.json")["values"],
        "lock": run.folder.read("lock.json"),
        "threads": torch.get_num_threads(),
        "sha256": {name: sha256_file(folder / name) for name in ("model.safetensors", "tokenizer.json")},
        "scores": {p.probe: {p.metric: round(mean([i.score for i in p.items]), 4), "items": len(p.items)} for p in scores.probes},
    }
    write_atomic(folder / "MAKING.json", json.dumps(made, indent=1, default=str) + "\n")


def _ship(folder: Path) -> Path:
    import shutil

    from tempering.models.places import TINY

    TINY.mkdir(exist_ok=True)
    for name in FILES:
        beside = TINY / f".{name}.part"
        shutil.copyfile(folder / name, beside)
        beside.replace(TINY / name)
    return TINY
