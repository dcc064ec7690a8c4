"""Any task of lm-evaluation-harness as a probe: a registered name ("arc_easy"), or a local task file (.yaml).

The harness (Gao et al., EleutherAI) builds the prompts and grades; our engine scores and samples, so a policy's decode
chain and handles count. Every document becomes an item, so that its tasks enter the ledger like any other probe. Needs the package `lm-eval`;
registered tasks fetch their data from the hub. A task file may name Python functions (`!function`): it is code, use files you trust.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tempering.errors import UserError
from tempering.items import ProbeValue
from tempering.types import ItemScore, Policy, ProbeScores


class LmEvalTask(ProbeValue):
    """A task or group of lm-evaluation-harness, document by document."""

    kind: Literal["lm_eval_task"] = "lm_eval_task"
    name: str = ""
    """What the ledger calls it; empty: the task's name."""
    task: str
    """A registered task or group, or the path of a task's .yaml file."""
    metric: str = ""
    """Which per-document metric is the score, for example acc_norm; empty: the task's first."""
    filter: str = ""
    """Which of the task's answer filters, for example strict-match; empty: its first."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Solved examples before each question; None: the task's own."""
    max_new_tokens: int = Field(default=256, gt=0)
    """Token budget where the task states none."""
    batch_size: int = Field(default=16, gt=0)

    def model_post_init(self, _: Any) -> None:
        if not self.name:
            object.__setattr__(self, "name", Path(self.task).stem)

    def __call__(self, policy: Policy) -> ProbeScores:
        """Runs the task; `limit` takes the first documents of each task, as the harness does; `chat=None` means no chat template, as there.

        Raises:
            UserError: lm-eval is not installed, no such task or file, or no such metric or filter.
        """
        try:
            from lm_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]
            from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(f"probe {self.name}: tasks of lm-evaluation-harness need the package lm-eval: pip install lm-eval") from error
        local = self.task.endswith((".yaml", ".yml"))
        if local and not Path(self.task).is_file():
            raise UserError(f"probe {self.name}: there is no task file {self.task}")
        manager = TaskManager(include_defaults=not local)
        if not local and self.task not in manager.all_tasks:
            raise UserError(f"probe {self.name}: lm-eval knows no task '{self.task}'; `lm-eval ls tasks` lists them")
        model = _language_model(policy, self.max_new_tokens, self.batch_size)
        # no global seeds: they would reach into the caller's random state
        options: dict[str, Any] = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed"))
        options |= {"num_fewshot": self.num_fewshot, "limit": self.limit, "bootstrap_iters": 0, "apply_chat_template": bool(self.chat)}
        results = simple_evaluate(model, tasks=[self.task], task_manager=manager, **options)
        return self._scores(results, f"{model.cut} contexts were cut on the left to fit the model" if model.cut else "")

    def _scores(self, results: Any, note: str) -> ProbeScores:
        items, metric, higher = [], self.metric, True
        for task, samples in sorted(results["samples"].items()):
            filters = list(dict.fromkeys(sample["filter"] for sample in samples))
            chosen = self.filter or filters[0]
            if chosen not in filters:
                raise UserError(f"probe {self.name}: task {task} has no filter '{chosen}', it has {', '.join(filters)}")
            for sample in (s for s in samples if s["filter"] == chosen):
                metric = metric or sample["metrics"][0]
                value = sample.get(metric)
                if isinstance(value, (bool, int, float)) is False:
                    raise UserError(
                        f"probe {self.name}: metric '{metric}' gives no number for each document of {task}; it has {', '.join(sample['metrics'])}"
                    )
                prompt = str(sample["arguments"][0][0])
                items.append(
                    ItemScore(f"{task}:{sample['doc_id']}", float(value), prompt, str(sample["filtered_resps"])[:2000], str(sample["target"]))
                )
            higher = results["higher_is_better"].get(task, {}).get(metric) is not False
        kind: Literal["binary", "continuous"] = "binary" if all(item.score in (0.0, 1.0) for item in items) else "continuous"
        return ProbeScores(self.name, metric, kind, higher, tuple(items), self.side, {}, note)


def _language_model(policy: Policy, max_new_tokens: int, batch_size: int) -> Any:
    """The policy as the harness's model class; made inside a function because its base class is an optional package's."""
    from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window  # pyright: ignore[reportMissingImports]

    from tempering.measure import score_pairs
    from tempering.sample import max_positions, models_of, sample

    tokenizer = policy.tokenizer
    limit = max_positions(models_of(policy)) or 2048

    class LanguageModel(TemplateLM):
        cut = 0

        def __init__(self) -> None:
            super().__init__()
            self.tokenizer = tokenizer

        @property
        def eot_token_id(self) -> int:
            return tokenizer.eos_token_id

        @property
        def prefix_token_id(self) -> int:
            return tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id

        @property
        def tokenizer_name(self) -> str:
            return str(getattr(tokenizer, "name_or_path", "")).replace("/", "__")

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            # a rendered chat already begins with the bos token
            special = add_special_tokens if add_special_tokens is not None else not (tokenizer.bos_token and string.startswith(tokenizer.bos_token))
            return list(tokenizer(string, add_special_tokens=special)["input_ids"])

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt
            )

        def _fit(self, ids: Sequence[int], room: int) -> list[int]:
            self.cut += len(ids) > room
            return list(ids)[max(0, len(ids) - room) :]

        def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
            pairs = [(self._fit(context, limit + 1 - len(continuation)), continuation) for _, context, continuation in requests]
            return [(float(logps.double().sum()), bool(tops.all())) for logps, tops in score_pairs(policy, pairs)]

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            windows, owners = [], []
            for i, (text,) in enumerate(request.args for request in requests):
                rolling = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, max_seq_len=limit, context_len=1)
                found = [make_disjoint_window(window) for window in rolling]
                windows, owners = windows + found, owners + [i] * len(found)
            totals = [0.0] * len(requests)
            for i, (logps, _) in zip(owners, score_pairs(policy, windows), strict=True):
                totals[i] += float(logps.double().sum())
            return totals

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            outputs = [""] * len(requests)
            for settings, members in self._by_settings(requests).items():
                budget, temperature, top_p, top_k, until = settings
                prompts = [self._fit(self.tok_encode(requests[i].args[0]), limit - budget) for i in members]
                episodes = sample(
                    policy,
                    prompts,
                    max_new_tokens=budget,
                    temperature=temperature,
                    top_p=top_p,
                    top_k=top_k,
                    stop=until,
                    keys=members,
                    batch_size=batch_size,
                )
                for i, (episode,) in zip(members, episodes, strict=True):
                    outputs[i] = episode.text
            return outputs

        def _by_settings(self, requests: list[Any]) -> dict[tuple[Any, ...], list[int]]:
            found: dict[tuple[Any, ...], list[int]] = {}
            for i, request in enumerate(requests):
                options = request.args[1]
                until = options.get("until") or ()
                until = (until,) if isinstance(until, str) else tuple(u for u in until if u)
                budget = min(int(options.get("max_gen_toks", options.get("max_new_tokens", max_new_tokens))), limit - 1)
                heat = float(options.get("temperature", 1.0 if options.get("do_sample") else 0.0)) if options.get("do_sample", True) else 0.0
                found.setdefault((budget, heat, float(options.get("top_p", 1.0)), int(options.get("top_k", 0)), until), []).append(i)
            return found

    return LanguageModel()
