"""Rollouts: what was sampled is what is trained on, whatever the template; on policy the ratio is 1; a killed stream goes on to the same bits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempering.config import Optimizer, Schedule, Training
from tempering.fit import Means, fit
from tempering.methods.credits.gae import GAE
from tempering.methods.credits.greedy_baseline import GreedyBaseline
from tempering.methods.credits.group_relative import GroupRelative
from tempering.methods.credits.selected import Selected
from tempering.methods.environments.guess import Guess
from tempering.methods.objectives.grpo import GRPO
from tempering.methods.objectives.ppo import PPO
from tempering.methods.objectives.reinforce import Reinforce
from tempering.methods.objectives.superhf import SuperHF
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.models.value import ValueModel
from tempering.rollouts.play import How, play
from tempering.rollouts.rows import Seen, pieces, rewards, segments
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.rollouts.types import Credit, Environment, State, Trajectory, Turn
from tempering.signals import Engine, Live, compute
from tempering.types import Message, Policy, Record, Role, Run
from tests.conftest import make_llama, make_tokenizer

TEMPLATES = sorted((Path(__file__).parent.parent / "fixtures" / "templates").glob("*.jinja"))
TOKENIZER = make_tokenizer()
TRAINING = Training(batch_size=2, precision="fp32", micro_tokens=256)


class Echo(Environment):
    """Pays for the letter e and answers twice."""

    turns: int = 2

    @property
    def name(self) -> str:
        return "echo"

    def tasks(self, split: str, n: int | None = None) -> Sequence[Record]:
        return tuple(Record((Message("user", f"say {word}"),), (), source=f"echo:{word}") for word in ("the", "red", "fox", "and", "he"))[:n]

    async def reset(self, task: Record) -> State:
        return State(task.prompt, memory={"left": self.turns})

    async def step(self, state: State, answer: str) -> State:
        await asyncio.sleep(0.0)
        left = state.memory["left"] - 1
        paid = {"reward": answer.count("e") / 4, "memory": {"left": left}}
        return state.said(answer, done=True, **paid) if not left else state.said(answer, Message("user", "and then?"), **paid)


def stream(credit: Credit | None = None, environment: Environment | None = None, training: Training = TRAINING, **settings: Any) -> Conversations:
    environment = environment or Echo()
    given = Rollouts(**{"samples": 3, **settings})
    return Conversations(
        TOKENIZER, environment, environment.tasks("train"), credit or GroupRelative(), given, training=training, max_new_tokens=6, seed=7
    )


def live(**roles: Any) -> dict[str, Live]:
    return {"policy": Live(make_llama()), **roles}


# ---------------------------------------------------------------------------------------------------------------------------------------- segments


def turn(prompt: Sequence[int], ids: Sequence[int], *logps: float) -> Turn:
    return Turn(tuple(prompt), tuple(ids), logps, "", True)


def test_turns_join_while_prompts_extend_and_the_environments_tokens_have_no_weight() -> None:
    state = State((Message("user", "x"),), done=True)
    turns = (turn([5, 6], [7, 8], -1.0, -2.0), turn([5, 6, 7, 8, 3], [4], -0.5), turn([5, 9], [4, 4], -0.1, -0.2))
    played = Trajectory(Record((), ()), turns, (0.5, 0.0, 2.0), state)
    first, second = segments(played)
    assert first.ids.tolist() == [5, 6, 7, 8, 3, 4] and first.weight.tolist() == [0, 0, 1, 1, 0, 1]
    assert first.extras["sampled_logp"].tolist() == pytest.approx([0, 0, -1, -2, 0, -0.5])
    assert second.ids.tolist() == [5, 9, 4, 4] and second.weight.tolist() == [0, 0, 1, 1]
    assert rewards(played, 1.0).tolist() == [0, 0.5, 0, 0, 3]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_over_real_templates_sampled_tokens_are_never_tokenised_again(path: Path) -> None:
    """Random tokens, which no tokenizer would cut like this: the next prompt holds them as they are, or begins a segment of its own."""
    tokenizer, rng = make_tokenizer(path.read_text(encoding="utf-8")), np.random.default_rng(0)
    joined = 0
    for ending in (True, False) * 10:
        state = State((Message("user", "say the fox"),))
        seen = Seen.opening(tokenizer, state)
        sampled = rng.integers(40, 120, 6).tolist() + ([tokenizer.eos_token_id] if ending else [])
        said = str(tokenizer.decode(sampled, skip_special_tokens=True))
        after = seen.then(tokenizer, sampled, state.said(said, Message("user", "more")))
        (first, *rest) = pieces([turn(seen.ids, sampled, *[-1.0] * len(sampled)), turn(after.ids, [9], -1.0)])
        assert first.ids[: len(seen.ids) + len(sampled)] == [*seen.ids, *sampled]
        assert sum(first.own) + sum(own for piece in rest for own in piece.own) == len(sampled) + 1
        assert tokenizer.decode(list(after.ids), skip_special_tokens=False) == after.text or rest
        joined += not rest
    assert joined or path.stem in ("gemma", "mistral", "llama3")


def test_a_template_that_rewrites_thoughts_begins_a_new_segment() -> None:
    tokenizer = make_tokenizer(next(path for path in TEMPLATES if path.stem == "qwen").read_text(encoding="utf-8"))
    state = State((Message("user", "say the fox"),))
    seen = Seen.opening(tokenizer, state)
    sampled = tokenizer("<think>\nno\n</think>\n\nthe fox")["input_ids"] + [tokenizer.eos_token_id]
    after = seen.then(tokenizer, sampled, state.said("<think>\nno\n</think>\n\nthe fox", Message("user", "more")))
    assert "<think>" not in after.text
    assert len(pieces([turn(seen.ids, sampled, *[-1.0] * len(sampled)), turn(after.ids, [9], -1.0)])) == 2


# ------------------------------------------------------------------------------------------------------------------------------------------ sampling


def test_a_conversation_does_not_depend_on_what_runs_beside_it() -> None:
    policy, tasks = Policy(make_llama(), TOKENIZER), Echo().tasks("train")
    visits = list(enumerate(tasks))
    wide = play(policy, Echo(), visits, 3, How(5, seed=3))
    narrow = play(policy, Echo(), visits, 3, How(5, seed=3, concurrent=2))
    alone = play(policy, Echo(), visits[2:3], 3, How(5, seed=3))
    assert [[t.turns for t in g] for g in wide] == [[t.turns for t in g] for g in narrow] or _ids(wide) == _ids(narrow)
    assert _ids(alone) == _ids(wide[2:3])
    assert all(len(t.turns) == 2 for g in wide for t in g)
    first, again = wide[0][0].turns
    assert first.ids != again.ids[: len(first.ids)], "another turn has noise of its own"


def _ids(groups: Sequence[Sequence[Trajectory]]) -> list[list[list[tuple[int, ...]]]]:
    return [[[turn.ids for turn in trajectory.turns] for trajectory in group] for group in groups]


def test_on_policy_old_log_probs_are_the_trainers_and_the_ratio_is_one() -> None:
    roles, log = live(), Means()
    parts = stream().next(Run(roles, 0, 0, log))
    batch = parts["rollout"]
    with torch.no_grad():
        logp = compute(roles, parts, {"rollout": frozenset({"logp"})}, Engine())["rollout"]["logp"]
    own = batch.weight_T != 0
    torch.testing.assert_close(logp[own], batch.extras["old_logp"][own], atol=1e-4, rtol=0)
    assert not batch.extras["advantage"][~own].any() and not batch.extras["old_logp"][~own].any()
    assert batch.group_S.tolist() == [0, 0, 0, 1, 1, 1]
    assert {"reward", "reward_std", "silent_groups", "entropy", "length", "unfinished", "distinct", "turns"} <= log.means().keys()


def test_the_environments_tokens_get_no_gradient() -> None:
    """Of all log-probs of a step, those of sampled tokens alone."""
    roles = {"policy": Live.attach(Role(make_llama(), Full()))}
    parts = stream(environment=Echo(turns=1)).next(Run(roles, 0, 0))
    batch = parts["rollout"]
    logp = compute(roles, parts, {"rollout": frozenset({"logp"})}, Engine())["rollout"]["logp"]
    logp.retain_grad()
    objective = GRPO()
    from tempering.fit import count_terms
    from tempering.reduce import reduce
    from tempering.types import Context

    signals = {"rollout": {**batch.extras, "logp": logp}}
    reduce(objective(parts, signals, Context(0, {}, Means())), objective, batch, count_terms(objective, [parts])[0]).backward()
    assert logp.grad is not None and not logp.grad[batch.weight_T == 0].any() and logp.grad[batch.weight_T != 0].any()


def test_dynamic_sampling_replaces_groups_that_all_earned_the_same() -> None:
    class Rare(Echo):
        """Pays for the first conversation about one of the tasks only."""

        def judge(self, played: Sequence[Trajectory]) -> np.ndarray:
            paid = [float(i % 3 == 0 and "fox" in t.task.source) for i, t in enumerate(played)]
            return np.array(paid) - np.array([sum(t.rewards) for t in played])

    log = Means()
    made = stream(environment=Rare(), dynamic=True, tries=12)
    batch = made.next(Run(live(), 0, 0, log))["rollout"]
    advantage = batch.extras["advantage"]
    speaking = {int(g) for g, s in zip(batch.group_S, range(batch.num_segments), strict=True) if advantage[batch.segment_T == s].abs().max() > 0.1}
    assert speaking == {0, 1} and made.taken > 2
    plain = stream(environment=Rare()).next(Run(live(), 0, 0))["rollout"]
    assert plain.num_segments == batch.num_segments


def test_length_is_priced_at_the_end_of_the_budget() -> None:
    made = stream(overlong=0.5)

    def played(tokens: int) -> Trajectory:
        return Trajectory(Record((), ()), (turn([1], [2] * tokens, *[0.0] * tokens),), (0.0,), State(()))

    assert made.acting._too_long([played(n) for n in (1, 3, 4, 5, 6)]).tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3, 1])
    assert not stream().acting._too_long([played(6)]).any()


def test_the_reference_prices_each_token_and_a_critic_values_it() -> None:
    other = make_llama(seed=5)
    roles = live(reference=Live(other), critic=Live(ValueModel(make_llama(seed=2))))
    head: Any = roles["critic"].model.value_head
    with torch.no_grad():
        head.weight.normal_(generator=torch.Generator().manual_seed(0))
    parts = stream(GAE(lambda_=1.0, whiten=False), Echo(turns=1), kl_cost=0.3).next(Run(roles, 0, 0))
    batch, own = parts["rollout"], parts["rollout"].weight_T != 0
    bare = {"rollout": type(batch)(batch.ids_T, batch.segment_T, batch.weight_T, batch.group_S)}
    with torch.no_grad():
        found = compute(roles, bare, {"rollout": frozenset({"reference.logp", "critic.value"})}, Engine())["rollout"]
    torch.testing.assert_close(batch.extras["old_value"], found["critic.value"], atol=1e-5, rtol=1e-5)
    price = 0.3 * (batch.extras["old_logp"] - found["reference.logp"])
    for s in range(batch.num_segments):
        mine = own & (batch.segment_T == s)
        text = TOKENIZER.decode(batch.ids_T[mine], skip_special_tokens=True)
        assert float(batch.extras["return"][mine][0]) == pytest.approx(text.count("e") / 4 - float(price[mine].sum()), abs=1e-4)


def test_the_price_of_the_reference_follows_its_target() -> None:
    """Ziegler's rule by hand: a fifth at most, by the conversations of the round over 10,000."""
    for target, error in ((1e-6, 0.2), (1e6, -0.2)):
        made = stream(kl_cost=0.5, kl_target=target)
        made.next(Run(live(reference=Live(make_llama(seed=5))), 0, 0))
        assert made.kl_cost == pytest.approx(0.5 * (1 + error * 6 / 10_000))
        again = stream(kl_cost=0.5, kl_target=target)
        again.load(json.loads(json.dumps(made.state())))
        assert again.kl_cost == made.kl_cost


def test_a_greedy_answer_is_the_baseline() -> None:
    parts = stream(GreedyBaseline(), Echo(turns=1)).next(Run(live(), 0, 0))
    batch = parts["rollout"]
    policy, made = Policy(make_llama(), TOKENIZER), stream(environment=Echo(turns=1))
    visits = [made.acting._visit(i) for i in range(2)]
    greedy = [g[0].answer.count("e") / 4 for g in play(policy, Echo(turns=1), visits, 1, How(6, temperature=0.0))]
    found = {}
    for s in range(batch.num_segments):
        mine = (batch.segment_T == s) & (batch.weight_T != 0)
        text = TOKENIZER.decode(batch.ids_T[mine], skip_special_tokens=True)
        found.setdefault(int(batch.group_S[s]), set()).add(round(text.count("e") / 4 - float(batch.extras["advantage"][mine][0]), 5))
    assert sorted(round(x, 5) for baselines in found.values() for x in baselines) == sorted(greedy)


def test_what_is_not_chosen_is_no_part_of_the_step() -> None:
    whole, chosen = (stream(credit, Echo(turns=1)).next(Run(live(), 0, 0))["rollout"] for credit in (None, Selected()))
    assert whole.num_segments == 6 and chosen.group_S.tolist() == [0, 1]
    own = chosen.weight_T != 0
    assert chosen.extras["advantage"][own].tolist() == [1.0] * int(own.sum())

    def paid(batch: Any) -> list[int]:
        ids = [batch.ids_T[(batch.segment_T == s) & (batch.weight_T != 0)] for s in range(batch.num_segments)]
        return [TOKENIZER.decode(one, skip_special_tokens=True).count("e") for one in ids]

    assert paid(chosen) == [max(paid(whole)[:3]), max(paid(whole)[3:])]


@pytest.mark.parametrize("objective", [Reinforce(), SuperHF()], ids=["reinforce", "superhf"])
def test_a_step_without_a_good_answer_changes_nothing(objective: Any) -> None:
    model, seen = make_llama(), list[float]()
    before = {name: p.clone() for name, p in model.named_parameters()}
    fit(
        {"policy": Role(model, Full())}, objective, stream(Selected(above=1e6)), steps=1, optimizer=Optimizer(lr=1e-2, weight_decay=0.0),
        schedule=Schedule(name="constant", warmup=0), training=TRAINING, say=lambda _: None, on_metrics=lambda m: seen.append(m["loss"]),
    )  # fmt: skip
    assert seen == [0.0] and all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_superhf_with_one_sample_and_no_prior_is_fine_tuning_on_own_answers() -> None:
    from tempering.methods.objectives.nll import NLL

    class Again:
        """A step's conversations as rows to train on."""

        def next(self, run: Run) -> Any:
            return {"train": stream(Selected(), samples=1).next(run)["rollout"]}

        def state(self) -> dict[str, Any]:
            return {}

        def load(self, state: Any) -> None:
            raise NotImplementedError

    tuned = []
    for objective, rows in ((SuperHF(beta=0.0), stream(Selected(), samples=1)), (NLL(), Again())):
        model = make_llama()
        fit(
            {"policy": Role(model, Full())}, objective, rows, steps=1, optimizer=Optimizer(lr=1e-2), training=TRAINING, say=lambda _: None,
            schedule=Schedule(name="constant", warmup=0),
        )  # fmt: skip
        tuned.append(model)
    for one, other in zip(*(model.parameters() for model in tuned), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


# -------------------------------------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("scope", [Full(), LoRA(r=2)], ids=["full", "lora"])
def test_a_killed_run_goes_on_to_the_same_bits_in_the_middle_of_a_round(scope: Any, tmp_path: Path) -> None:
    training = Training(batch_size=2, precision="fp32", micro_tokens=256, save_every=1)

    def run(folder: Path, die: int = 0, resume: bool = False) -> dict[str, torch.Tensor]:
        roles = {"policy": Role(make_llama(), scope), "critic": Role(ValueModel(make_llama(seed=1)), Full(), Optimizer(lr=1e-2))}

        def watch(metrics: Any) -> None:
            if metrics["step"] == die:
                raise KeyboardInterrupt

        done = fit(
            roles, PPO(), stream(GAE(), training=training, updates=2, epochs=2), steps=6, optimizer=Optimizer(lr=1e-2),
            schedule=Schedule(name="constant", warmup=0), training=training, folder=folder, resume=resume, say=lambda _: None, on_metrics=watch,
        )  # fmt: skip
        return {f"{name}.{key}": p.detach().clone() for name, role in done.roles.items() for key, p in role.handle.params.items()}  # type: ignore[union-attr]

    expected = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", die=4)
    resumed = run(tmp_path / "killed", resume=True)
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    rows = [json.loads(line) for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert ["reward" in row for row in rows] == [True, False, False, False, True, False], "a round is four steps"
    assert rows[0]["old_kl"] == pytest.approx(0, abs=1e-6) and rows[3]["old_kl"] > 1e-6


def test_a_stream_waits_for_a_guess_and_pays_the_last_turn() -> None:
    guess = Guess(limit=20, tries=3)
    assert len(guess.tasks("train")) == 18 and {t.id for t in guess.tasks("test")} == {"5", "15"}

    async def asked(*answers: str) -> State:
        state = await guess.reset(guess.tasks("test")[0])
        for answer in answers:
            state = await guess.step(state, answer)
        return state

    assert asyncio.run(asked("9")).messages[-1].content == "It is smaller."
    assert asyncio.run(asked("dunno")).messages[-1].content == "Say a number."
    won, lost = asyncio.run(asked("9", "2", "5")), asyncio.run(asked("1", "2", "3"))
    assert (won.done, won.reward) == (True, 1.0) and (lost.done, lost.reward) == (True, 0.0)


def test_what_is_paid_is_learned() -> None:
    """End to end on a random model, from sampled tokens to weights: it comes to write what Echo pays for, in both turns."""
    rewards: list[float] = []
    training = TRAINING.model_copy(update={"batch_size": 4})
    fit(
        {"policy": Role(make_llama(), Full())}, GRPO(), stream(training=training, samples=8), steps=12, optimizer=Optimizer(lr=1e-2),
        schedule=Schedule(name="constant", warmup=0), training=training, say=lambda _: None, on_metrics=lambda m: rewards.append(m["reward"]),
    )  # fmt: skip
    assert np.mean(rewards[:3]) < 0.3 and np.mean(rewards[-3:]) > 2
