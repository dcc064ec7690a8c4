"""Whole runs of the recipes on a tiny random model: what lands in the folder, what is not done twice, what a stop and a resume leave."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tempering as tp
from tempering import fit
from tempering.config import Budget, Optimizer, Schedule, Training
from tempering.errors import Interrupted, UserError
from tempering.experiment import Options, Report, execute
from tempering.ledger import Ledger
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.recipes.dpo import dpo
from tempering.recipes.sft import sft

CITIES = ["Oslo", "Lima", "Cairo", "Paris", "Delhi", "Quito", "Tunis", "Accra"]


@pytest.fixture
def demonstrations(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Where is house {i}?", "completion": CITIES[i % 8]} for i in range(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Say hello {i}", "chosen": f"Hello, dear {CITIES[i % 8]}", "rejected": f"no {i}"} for i in range(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def values(**more: Any) -> dict[str, Any]:
    training = Training(epochs=2, batch_size=4, precision="fp32", save_every=3)
    return {
        "training": training,
        "budget": Budget(keep="none"),
        "optimizer": Optimizer(lr=3e-3),
        "schedule": Schedule(name="constant", warmup=0),
        **more,
    }


def trained(folder: Path, name: str = "adapter_model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / name)


def test_sft_leaves_a_whole_folder_and_a_better_model(tiny_folder: Path, demonstrations: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    report = execute(sft, values(model=str(tiny_folder), data=demonstrations, scope=Full()), Options(out=out, command="temper run sft"))
    assert report.folder == out and not report.failed_gates
    names = {p.name for p in out.iterdir()}
    assert {"config.json", "lock.json", "status.json", "metrics.jsonl", "model", "ledger.json", "samples.json", "report.html"} <= names
    status = json.loads((out / "status.json").read_text())
    assert (status["state"], status["command"]) == ("done", "temper run sft")
    config = json.loads((out / "config.json").read_text())
    assert config["recipe"] == "sft" and config["values"]["scope"]["kind"] == "full" and config["values"]["training"]["batch_size"] == 4
    lock = json.loads((out / "lock.json").read_text())
    assert lock["versions"]["torch"] == torch.__version__.partition("+")[0] or lock["versions"]["torch"] == torch.__version__
    assert lock["data"]["train"]["rows"] == 24 and len(lock["data"]["train"]["sha256"]) == 64
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 1 + math.ceil(2 * 22 / 4)))
    ledger = Ledger.read(out / "ledger.json")
    held = ledger.probe("held_loss")
    assert held.side == "target" and held.n == 2 and held.after.point < held.before.point - 0.5
    assert ledger.cost["tokens"] > 0 and ledger.cost["seconds"] > 0
    assert "held_loss" in (out / "report.html").read_text()
    assert (out / "model" / "README.md").read_text().startswith("---\n")


def test_the_tuned_model_opens_in_transformers_and_peft_with_the_same_logits(tiny_folder: Path, demonstrations: str, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    ids = torch.randint(4, 200, (2, 11))
    for scope, opens in ((Full(), AutoModelForCausalLM), (LoRA(r=4), AutoPeftModelForCausalLM)):
        out = tmp_path / scope.kind
        execute(sft, values(model=str(tiny_folder), data=demonstrations, scope=scope), Options(out=out))
        with torch.no_grad():
            theirs = opens.from_pretrained(out / "model").eval()(ids).logits
            ours = tp.load(str(out)).model(ids).logits
            start = tp.load(str(tiny_folder)).model(ids).logits
        assert torch.equal(theirs, ours)
        assert float((ours - start).abs().max()) > 0.01


def test_the_same_run_is_not_done_twice_and_any_change_runs_again(
    tiny_folder: Path, demonstrations: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = values(model=str(tiny_folder), data=demonstrations)
    first = execute(sft, given, Options(out=tmp_path / "a"))
    assert execute(sft, given, Options(out=tmp_path / "b")).folder == tmp_path / "a"
    assert not (tmp_path / "b").exists() and "already done" in capsys.readouterr().err
    assert first.ledger.probes == execute(sft, given, Options(out=tmp_path / "c")).ledger.probes
    again = execute(sft, given, Options(out=tmp_path / "d", again=True))
    assert again.folder == tmp_path / "d"
    assert all(torch.equal(a, b) for a, b in zip(trained(tmp_path / "a").values(), trained(tmp_path / "d").values(), strict=True))
    assert execute(sft, {**given, "seed": 1}, Options(out=tmp_path / "e")).folder == tmp_path / "e"
    Path(demonstrations).write_text(Path(demonstrations).read_text().replace("Oslo", "Bonn"))
    assert execute(sft, given, Options(out=tmp_path / "f")).folder == tmp_path / "f"


def test_a_stopped_run_resumes_to_the_same_bits(tiny_folder: Path, demonstrations: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = values(model=str(tiny_folder), data=demonstrations, scope=LoRA(r=4, dropout=0.2))
    execute(sft, given, Options(out=tmp_path / "a"))

    class AfterFour:
        """Asks for a stop at the fifth step boundary, as a signal would."""

        def __init__(self) -> None:
            self.asked = 0

        @property
        def reason(self) -> str:
            self.asked += 1
            return "SIGTERM" if self.asked > 4 else ""

    with monkeypatch.context() as patch:
        patch.setattr(fit, "Stopper", AfterFour)
        with pytest.raises(Interrupted, match=r"stopped by SIGTERM at step 4 of 11; go on with: temper run sft --resume .*/b"):
            execute(sft, given, Options(out=tmp_path / "b", again=True))
    assert json.loads((tmp_path / "b" / "status.json").read_text())["state"] == "interrupted"
    assert not (tmp_path / "b" / "model").exists()
    report = execute(sft, given, Options(resume=tmp_path / "b"))
    assert report.folder == tmp_path / "b"
    a, b = trained(tmp_path / "a"), trained(tmp_path / "b")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_dpo_prefers_and_a_cached_reference_changes_nothing(tiny_folder: Path, pairs: str, tmp_path: Path) -> None:
    given = values(model=str(tiny_folder), data=pairs, scope=LoRA(r=4))
    live = execute(dpo, {**given, "reference": "live"}, Options(out=tmp_path / "live"))
    execute(dpo, {**given, "reference": "cached"}, Options(out=tmp_path / "cached"))
    a, b = trained(tmp_path / "live"), trained(tmp_path / "cached")
    assert all(float((a[name] - b[name]).abs().max()) < 1e-4 for name in a)
    metrics = [json.loads(line) for line in (tmp_path / "live" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-5) and metrics[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert metrics[-1]["margin"] > 0.1 and metrics[-1]["accuracy"] == 1.0
    probe = live.ledger.probe("held_pairs")
    assert probe.kind == "binary" and probe.n == 2


def test_a_failed_gate_is_in_the_report_and_names_the_value(tiny_folder: Path, demonstrations: str, tmp_path: Path) -> None:
    given = values(model=str(tiny_folder), data=demonstrations, budget=Budget(keep="none", gate=("held_loss <= 0.001",)))
    report = execute(sft, given, Options(out=tmp_path / "run"))
    assert len(report.failed_gates) == 1 and "held_loss <= 0.001" in report.failed_gates[0] and "FAILED" in report.failed_gates[0]
    assert json.loads((tmp_path / "run" / "ledger.json").read_text())["gates"][0]["passed"] is False


@pytest.mark.parametrize("gate", ["nonsense", "nothing_measured >= 1", "keep > many"])
def test_a_gate_that_cannot_be_read_fails_before_training_and_leaves_nothing(
    tiny_folder: Path, demonstrations: str, tmp_path: Path, gate: str
) -> None:
    with pytest.raises(UserError):
        execute(
            sft, values(model=str(tiny_folder), data=demonstrations, budget=Budget(keep="none", gate=(gate,))), Options(out=tmp_path / "x" / "run")
        )
    assert not (tmp_path / "x").exists()


def test_new_tokens_are_learned_and_saved_with_the_adapter(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"Where is house {i}?", "completion": f"<place> {CITIES[i % 8]}"} for i in range(16)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = values(model=str(tiny_folder), data=str(tmp_path / "rows.jsonl"), new_tokens=("<place>",), scope=LoRA(r=4))
    given |= {"training": Training(steps=60, batch_size=4, precision="fp32"), "optimizer": Optimizer(lr=1e-2)}
    execute(sft, given, Options(out=tmp_path / "run"))
    tuned = tp.load(str(tmp_path / "run"))
    (token,) = tuned.tokenizer("<place>", add_special_tokens=False)["input_ids"]
    assert token == 274
    base = tp.load(str(tiny_folder))
    assert len(base.tokenizer("<place>", add_special_tokens=False)["input_ids"]) > 1
    prompt = tuned.tokenizer.apply_chat_template([{"role": "user", "content": "Where is house 3?"}], add_generation_prompt=True, return_dict=False)
    with torch.no_grad():
        logp = tuned.model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    assert int(logp.argmax()) == token


def test_a_base_model_takes_the_plain_template_and_keeps_it(tiny_folder: Path, demonstrations: str, tmp_path: Path) -> None:
    (tiny_folder / "chat_template.jinja").unlink()
    given = values(model=str(tiny_folder), data=demonstrations)
    with pytest.raises(UserError, match="template"):
        execute(sft, given, Options(out=tmp_path / "refused"))
    assert not (tmp_path / "refused").exists()
    execute(sft, {**given, "template": "plain"}, Options(out=tmp_path / "run"))
    tuned = tp.load(str(tmp_path / "run"))
    assert tuned.tokenizer.chat_template and tp.load(str(tiny_folder)).tokenizer.chat_template is None


def test_three_lines_of_python(tiny_folder: Path, demonstrations: str, tmp_path: Path) -> None:
    report: Report = tp.run("sft", model=str(tiny_folder), data=demonstrations, keep="none", steps=2, precision="fp32", out=tmp_path / "run")
    assert report.ledger.sentence()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["values"]["training"]["steps"] == 2


@pytest.mark.slow
def test_the_command_line_survives_kill_minus_nine_and_sigterm(tiny_folder: Path, demonstrations: str, tmp_path: Path) -> None:
    import os
    import signal
    import subprocess
    import sys
    import time

    flags = ["--model", str(tiny_folder), "--data", demonstrations, "--keep", "none", "--precision", "fp32", "--batch-size", "4", "--steps", "60",
             "--save-every", "5", "--dropout", "0.1"]  # fmt: skip

    def start(*more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tempering", "run", "sft", *more], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=os.environ
        )

    whole = start(*flags, "--out", str(tmp_path / "a"))
    whole.communicate(timeout=200)
    assert whole.returncode == 0
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 130)):
        out = tmp_path / f"stopped{code}"
        process = start(*flags, "--out", str(out), "--again")
        while process.poll() is None and (not (out / "metrics.jsonl").exists() or len((out / "metrics.jsonl").read_text().splitlines()) < 12):
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=100)
        assert process.returncode == code
        if code == 130:
            assert f"go on with: temper run sft --resume {out}" in err.decode() and b"Traceback" not in err
        assert not (out / "model").exists()
        resumed = start("--resume", str(out))
        _, err = resumed.communicate(timeout=200)
        assert resumed.returncode == 0, err.decode()
        a, b = trained(tmp_path / "a"), trained(out)
        assert all(torch.equal(a[name], b[name]) for name in a)
