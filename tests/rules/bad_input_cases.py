"""The cases of `test_bad_input.py`: a line of words after `temper`, the files it finds in its folder, and what the sentence must hold.

`M` stands for a tiny random Llama.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import make_llama, make_tokenizer


def lines(*rows: Any) -> bytes:
    """JSON lines."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def chat(*turns: tuple[str, Any], **more: Any) -> dict[str, Any]:
    """A record of messages."""
    return {"messages": [{"role": role, "content": content} for role, content in turns], **more}


ROWS = [chat(("user", f"Say {i}."), ("assistant", f"{i}.")) for i in range(12)]
PAIRS = [{"prompt": f"Say {i}.", "chosen": f"{i}.", "rejected": "No."} for i in range(12)]
GOOD = {"good.jsonl": lines(*ROWS), "pairs.jsonl": lines(*PAIRS)}
SFT = "run sft --model M --steps 1 --keep none --out out"
DPO = "run dpo --model M --steps 1 --keep none --out out"
PREFER = "run prefer --model M --steps 1 --keep none --out out --data pairs.jsonl"
SIMPO = "run simpo --model M --steps 1 --keep none --out out --data pairs.jsonl"
KTO = "run kto --model M --steps 1 --keep none --out out"
ONE_KIND = [{"prompt": f"Say {i}.", "completion": f"{i}.", "label": True} for i in range(12)]


@dataclass(frozen=True)
class Case:
    """One mistake."""

    name: str
    line: str
    says: tuple[str, ...]
    """What the sentence must hold, in any order."""
    files: dict[str, bytes] = field(default_factory=dict)
    prepare: Callable[[Path, Path], None] | None = None
    """Called with the test's folder and that of the model."""


def data(name: str, content: bytes, *says: str, file: str = "bad.jsonl", line: str = SFT) -> Case:
    """A case of a data file."""
    return Case(name, f"{line} --data {file}", says, {file: content})


def config(name: str, text: str, *says: str) -> Case:
    """A case of a config file."""
    return Case(name, f"{SFT} --data good.jsonl --config c.yaml", ("c.yaml", *says), {"c.yaml": text.encode()})


def flags(name: str, words: str, *says: str) -> Case:
    """A case of flags over good data."""
    return Case(name, f"{SFT} --data good.jsonl {words}", says)


def model(name: str, prepare: Callable[[Path, Path], None], *says: str) -> Case:
    """A case of a model folder that `prepare` spoils."""
    return Case(name, SFT.replace("--model M", "--model broken") + " --data good.jsonl", says, prepare=prepare)


# --------------------------------------------------------------------------------------------------------------------------- spoiled model folders


def copied(change: Callable[[Path], None]) -> Callable[[Path, Path], None]:
    """A copy of the model, changed."""

    def prepare(here: Path, original: Path) -> None:
        shutil.copytree(original, here / "broken")
        change(here / "broken")

    return prepare


def without(*names: str) -> Callable[[Path, Path], None]:
    """A copy of the model without some files."""
    return copied(lambda folder: [(folder / name).unlink() for name in names] and None)


def garbage_weights(folder: Path) -> None:
    """Bytes that are no safetensors file."""
    (folder / "model.safetensors").write_bytes(b"\x00" * 64)


def cut_weights(folder: Path) -> None:
    """A download that broke off."""
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pickled_weights(folder: Path) -> None:
    """Only a .bin file, which would be unpickled."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def other_size(folder: Path) -> None:
    """Weights of one size, a config of another."""
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "hidden_size": 64}))


def unknown_architecture(folder: Path) -> None:
    """A model type that transformers does not have."""
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "model_type": "surely_not_there", "architectures": ["SurelyNotThere"]}))


def broken_config(folder: Path) -> None:
    """A config that is no JSON."""
    (folder / "config.json").write_text("{")


def template_less(folder: Path) -> None:
    """A base model's tokenizer."""
    shutil.rmtree(folder)
    make_llama().save_pretrained(folder)
    make_tokenizer(None).save_pretrained(folder)


def foreign_adapter(here: Path, original: Path) -> None:
    """An adapter made for a wider model that says it belongs to this one."""
    import peft

    folder = here / "broken"
    peft.get_peft_model(make_llama(hidden=64), peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(folder)
    values = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**values, "base_model_name_or_path": str(original)}))


def lost_base(here: Path, original: Path) -> None:
    """An adapter whose base model is gone."""
    foreign_adapter(here, original)
    values = json.loads((here / "broken/adapter_config.json").read_text())
    (here / "broken/adapter_config.json").write_text(json.dumps({**values, "base_model_name_or_path": str(here / "gone")}))


def empty_folder(here: Path, original: Path) -> None:
    """A folder without anything."""
    (here / "broken").mkdir()


def full_folder(here: Path, original: Path) -> None:
    """An output folder with something in it."""
    (here / "out").mkdir()
    (here / "out/precious.txt").write_text("mine")


IMAGE = [{"type": "image_url", "image_url": {"url": "x.png"}}, {"type": "text", "text": "What is this?"}]
NAN = b'{"prompt": "Hi", "responses": [{"content": "a", "score": NaN}, {"content": "b", "score": 1.0}]}\n'

CASES = [
    # ------------------------------------------------------------------------------------------------------------------------------------- data
    data("empty file", b"", "bad.jsonl", "holds no records"),
    data("one row", lines(ROWS[0]), "bad.jsonl", "1 usable row", "--test"),
    data("wrong field", lines({"foo": "a", "bar": "b"}), "bad.jsonl:1", "no shape is recognised"),
    data("mixed shapes", lines(ROWS[0], {"text": "a"}), "bad.jsonl:2"),
    data("broken UTF-8", lines(ROWS[0]) + b'{"text": "\xff"}\n', "bad.jsonl:2", "0xff"),
    data("UTF-16", '{"text": "a"}'.encode("utf-16"), "bad.jsonl:1", "UTF-16"),
    data("a 10 MB line that is cut", b'{"text": "' + b"a b " * 2_500_000, "bad.jsonl:1", "not JSON"),
    data("a row that is far too long", lines(chat(("user", "a " * 50_000), ("assistant", "b"))), "bad.jsonl", "max"),
    data("a 70 MB line", b'{"text": "' + b"a" * 70 * 2**20 + b'"}\n', "bad.jsonl:1", "longer than"),
    data("NaN rewards", NAN * 3, "bad.jsonl:1", "nan", line=DPO),
    data("duplicate ids", lines(*({**row, "id": "same"} for row in ROWS)), "bad.jsonl:2", "same"),
    data("label strings", lines({"prompt": "a", "completion": "b", "label": "good"}), "bad.jsonl:1", "label", "good"),
    data("no assistant turn", lines(chat(("user", "Hi")), ROWS[0]), "bad.jsonl:1", "assistant"),
    data("two system turns", lines(chat(("system", "a"), ("system", "b"), ("user", "Hi"), ("assistant", "Yo"))), "bad.jsonl:1", "system"),
    data("an unknown role", lines(chat(("teacher", "Hi"), ("assistant", "Yo"))), "bad.jsonl:1", "teacher"),
    data("image parts", lines(chat(("user", IMAGE), ("assistant", "A cat."))), "bad.jsonl:1", "image"),
    data(
        "tools that the template drops",
        lines(*(chat(("user", "Hi"), ("assistant", "Yo"), tools=[{"name": "f"}]) for _ in range(3))),
        "bad.jsonl:1",
        "tool",
    ),
    data("not JSON", b"hello\n", "bad.jsonl:1", "not JSON"),
    data("a cut last line", lines(*ROWS) + b'{"messages": [', "bad.jsonl:13", "not JSON"),
    data("a JSON number", b"3\n", "bad.jsonl:1", "JSON object"),
    data("nested without end", b'{"text": ' + b"[" * 100_000 + b"\n", "bad.jsonl:1"),
    data("a CSV without the needed columns", b"a,b\n1,2\n", "bad.csv", "no shape is recognised", file="bad.csv"),
    data("a cut CSV", b'prompt,completion\n"a,b\n', "bad.csv", file="bad.csv"),
    data("a broken Parquet file", b"PAR1 not really", "bad.parquet", file="bad.parquet"),
    data("a broken gzip file", gzip.compress(lines(*ROWS))[:-20], "bad.jsonl.gz", file="bad.jsonl.gz"),
    data("a kind of file that cannot be read", b"x", "bad.docx", file="bad.docx"),
    data("a pair without its other half", lines({"prompt": "a", "chosen": "b"}), "bad.jsonl:1", line=DPO),
    Case("demonstrations where pairs are wanted", f"{DPO} --data good.jsonl", ("good.jsonl",)),
    Case("a missing file", f"{SFT} --data goood.jsonl", ("goood.jsonl", "good.jsonl")),
    Case("a missing test file", f"{SFT} --data good.jsonl --test gone.jsonl", ("gone.jsonl",)),
    Case("an empty folder", f"{SFT} --data broken", ("broken",), prepare=empty_folder),
    Case("an unknown builtin set", f"{SFT} --data builtin:demos", ("builtin:demo",)),
    flags("an unknown shape", "--shape chatty", "chatty", "messages"),
    flags("a shape that the rows have not", "--shape pair", "good.jsonl:1"),
    flags("all rows too long", "--max-length 2", "good.jsonl", "--max-length"),
    flags("no rows wanted", "--limit 0", "limit", "at least 1"),
    # ------------------------------------------------------------------------------------------------------------------------------------ flags
    flags("an unknown flag", "--batchsize 3", "--batchsize", "did you mean '--batch-size'?"),
    flags("an ambiguous flag", "--options.a 3", "--scope.options.a or --optimizer.options.a"),
    flags("a flag without its value", "--lr", "--lr needs a value"),
    Case("negative steps", "run sft --model M --keep none --out out --data good.jsonl --steps -1", ("--steps", "greater than 0", "'-1'")),
    flags("a zero batch", "--batch-size 0", "--batch-size", "greater than 0"),
    flags("half a batch", "--batch-size 2.5", "--batch-size", "whole number"),
    flags("a negative length", "--max-length -5", "max_length is -5"),
    flags("a negative seed", "--seed -1", "--seed"),
    flags("a rate that is no number", "--lr fast", "--lr", "expected a number greater than 0", "'fast'"),
    flags("a rate that is not finite", "--lr inf", "--lr", "expected a number greater than 0"),
    flags("warm-up over the whole run", "--warmup 1", "--warmup", "less than 1"),
    flags("an unknown schedule", "--schedule cosin", "did you mean 'cosine'?"),
    flags("an unknown scope", "--scope lorra", "--scope", "did you mean 'lora'?"),
    flags("a field of another scope", "--scope full --r 8", "--r", "belongs to scope lora"),
    flags("an unknown optimizer", "--optimizer adamm", "adamm", "adam"),
    flags("an unknown optimizer option", "--optimizer.options.bettas 1", "bettas"),
    flags("a LoRA target that matches nothing", "--targets nothing_like_this", "nothing_like_this"),
    flags("an unknown LoRA option", "--scope.options.use_doora true", "use_doora", "use_dora"),
    flags("a broken pattern", "--scope full --only '(['", "only", "(["),
    flags("a pattern that matches nothing", "--scope full --only zzz", "zzz", "names look like"),
    flags("a malformed gate", "--gate 'keep is fine'", "keep is fine", "NAME[.FIELD] OP NUMBER"),
    flags("a gate on an unknown probe", "--gate 'arithmetik >= 0.5'", "arithmetik"),
    flags("a value for `train_on` that is not there", "--train-on asistant", "did you mean 'assistant'?"),
    flags("two values where one goes", "--seed 1 --seed 2", "--seed is given twice"),
    flags("a value without its flag", "extra.jsonl", "unexpected argument 'extra.jsonl'"),
    Case("smoothing over a half", f"{DPO} --data pairs.jsonl --label-smoothing 0.6", ("--label-smoothing", "less than 0.5")),
    Case("a beta of zero", f"{DPO} --data pairs.jsonl --beta 0", ("--beta", "greater than 0")),
    # ----------------------------------------------------------------------------------------------------------------------------------- config
    config("a typo in a config", "lr: 1e-3\ntraining:\n  batchsize: 4\n", "line 3", "'training.batchsize'", "did you mean 'batch_size'?"),
    config("a wrong type in a config", "# mine\n\nsteps: many\n", "line 3", "expected a whole number greater than 0, or none, got 'many'"),
    config("a quoted number in a config", "steps: '3'\n", "line 1", "got '3'"),
    config("a tab in a config", "training:\n\tsteps: 3\n", "line 2", "use spaces"),
    config("a config that runs code", "data: !!python/object/apply:os.system ['echo hi']\n", "line 1", "is not allowed"),
    config("a key given twice", "lr: 1\nlr: 2\n", "line 2", "first on line 1"),
    config("an empty config", "", "the file is empty"),
    config("a config of another recipe", "recipe: dpo\nvalues: {beta: 0.1}\n", "recipe dpo", "temper run dpo --config"),
    flags("a missing config", "--config gone.yaml", "gone.yaml", "there is no file"),
    # ------------------------------------------------------------------------------------------------------------------------------------ models
    Case("a missing model", SFT.replace("--model M", "--model ./nowhere") + " --data good.jsonl", ("nowhere",)),
    Case("an unknown builtin model", SFT.replace("--model M", "--model builtin:tinny") + " --data good.jsonl", ("builtin:tinny", "builtin:tiny")),
    Case("data where a model goes", SFT.replace("--model M", "--model good.jsonl") + " --data good.jsonl", ("good.jsonl",)),
    model("an empty model folder", empty_folder, "broken", "config.json"),
    model("a model without weights", without("model.safetensors"), "broken", "safetensors"),
    model("a model without a tokenizer", without("tokenizer.json", "tokenizer_config.json"), "broken", "tokenizer"),
    model("weights that are no weights", copied(garbage_weights), "broken"),
    model("weights that are cut", copied(cut_weights), "broken"),
    model("pickled weights only", copied(pickled_weights), "broken", "safetensors"),
    model("weights of another size", copied(other_size), "broken"),
    model("an unknown architecture", copied(unknown_architecture), "surely_not_there"),
    model("a broken model config", copied(broken_config), "config.json"),
    model("no chat template", copied(template_less), "chat template"),
    model("an adapter of another model", foreign_adapter, "broken"),
    model("an adapter without its base", lost_base, "gone"),
    # ----------------------------------------------------------------------------------------------------------------------- folders and commands
    Case("an output folder that is not empty", f"{SFT} --data good.jsonl", ("out", "not empty", "--resume"), prepare=full_folder),
    Case("an output folder below a file", SFT.replace("--out out", "--out good.jsonl/out") + " --data good.jsonl", ("good.jsonl",)),
    Case("an output folder that is a file", SFT.replace("--out out", "--out good.jsonl") + " --data good.jsonl", ("good.jsonl",)),
    Case("a name that is too long", SFT.replace("--out out", f"--out {'x' * 300}") + " --data good.jsonl", ("name",)),
    flags("resuming what is no run", "--resume broken", "--resume broken", "temper runs"),
    Case("resuming nothing", "run sft --resume", ("no unfinished run",)),
    Case("an unknown recipe", "run stf --data good.jsonl", ("'stf'", "did you mean 'sft'?")),
    Case("an unknown command", "rum sft", ("'rum'", "did you mean 'run'?")),
    Case("a recipe file that is not there", "run mine.py:mine", ("mine.py",)),
    Case("a recipe file that is no Python", "run mine.py:mine", ("mine.py line 1",), {"mine.py": b"def ("}),
    Case("measuring with an unknown probe", "measure M --probe perplexty:keep:texts", ("perplexty", "did you mean 'perplexity'?")),
    Case("measuring with items that are not there", "measure M --probe perplexity:gone.jsonl", ("gone.jsonl",)),
    Case("measuring with a broken item", "measure M --probe perplexity:items.jsonl", ("items.jsonl:1", "text"), {"items.jsonl": b'{"txt": "a"}\n'}),
    Case("a field of another loss", f"{SIMPO} --label-smoothing 0.1", ("recipe simpo", "--label-smoothing", "losses that have it", "dpo")),
    Case("a loss of another family", f"{PREFER} --loss kto", ("--loss", "'kto'", "kto is run by `temper run kto` (recipe unpaired)")),
    Case("a loss in a misspelling", f"{PREFER} --loss simpoo", ("'simpoo'", "did you mean 'simpo'?")),
    Case("options of a loss that do not go together", f"{PREFER} --loss aot --weighting --dry-run", ("AOT", "weighting (WPO) has no meaning")),
    Case("a loss's limit", f"{SIMPO} --beta 0", ("--beta", "greater than 0", "'0'")),
    Case("a loss that needs scores", "run odpo --model M --steps 1 --keep none --out out --data pairs.jsonl", ("pairs.jsonl", "have no scores")),
    Case("labels of one kind", f"{KTO} --data l.jsonl", ("same label", "--test"), {"l.jsonl": lines(*ONE_KIND)}),
    Case("a reward model to be kept", "run reward --model M --steps 1 --keep quick --out out", ("--keep quick", "writes nothing")),
    Case("a board of an unknown family", "board --family forgte", ("--family", "'forgte'", "did you mean 'forget'?")),
    Case("a board of an unknown state", "board --state done", ("--state", "works", "'done'")),
    Case("a board of an unknown kind", "board --kind methods", ("--kind", "did you mean 'method'?")),
    Case("a board with nothing on it", "board zzzz --family learn", ("'zzzz'", "--family 'learn'", "temper board")),
    Case("a board in a folder that is not there", "board --html no/x.html", ("--html no/x.html", "no folder no")),
    Case("a board over a folder", "board --json broken", ("--json broken", "is a folder"), prepare=empty_folder),
    Case("showing nothing known", "show S999", ("'S999'", "temper board")),
    Case("showing an unknown method of a kind", "show objective/dpp", ("'objective/dpp'", "did you mean 'dpop'?")),
    Case("comparing one model", "compare M", ("two models or more",)),
    Case("a page in a folder that is not there", "compare M M --html no/x.html", ("no",)),
    Case("checking a missing file", "check gone.jsonl --model M", ("gone.jsonl",)),
    Case("an unknown reward", "reward try exact_answr good.jsonl", ("'exact_answr'", "did you mean 'exact_answer'?")),
    Case("a reward's unknown field", "reward try exact_answer,rul=boxed good.jsonl", ("no field 'rul'", "did you mean 'rule'?")),
    Case("answers under another name", "reward try format good.jsonl --column nowhere", ("good.jsonl:1", "--column")),
    Case("chatting with nothing", "chat ./nowhere --once hi", ("nowhere",)),
    Case("exporting over something", "export M --out out", ("out", "there already"), prepare=full_folder),
    Case("the lost items of what is no run", "lost broken", ("broken",), prepare=empty_folder),
]
