"""LaMo: what is left to earn adds up, nothing sees what comes after it, and with the language taken away it is a decision transformer."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tempering as tp
from tempering import models
from tempering.config import Optimizer, Training
from tempering.data.streams import Join, Shuffled
from tempering.errors import Interrupted, UserError
from tempering.fit import Means, Stopper, count_terms, fit, total
from tempering.layout import collate
from tempering.methods.objectives.lamo import LaMo
from tempering.methods.objectives.nll import NLL
from tempering.methods.probes.held_actions import HeldActions
from tempering.methods.probes.target_return import TargetReturn
from tempering.methods.scopes.full import Full
from tempering.methods.scopes.lora import LoRA
from tempering.models.decisions import ACTION, OBSERVATION, OWN, RETURN, DecisionTransformer
from tempering.models.heads import attends_by_segments, packs
from tempering.signals import Engine, Live
from tempering.types import Policy, Role
from tempering.worlds.grid import MOVES, Grid, Trajectory
from tests.toy import toy_llama, toy_rows

GRID = Grid(size=4, horizon=7)


def made(mlp: bool = True, seed: int = 0) -> tuple[Any, DecisionTransformer]:
    """A random trunk and a random actor on it, with a head that is not 0."""
    model = toy_llama(seed)
    actor = DecisionTransformer(model, GRID.width, len(GRID.moves), GRID.horizon, mlp).eval()
    nn.init.normal_(actor.value_head.weight)
    return model, actor


# ------------------------------------------------------------------------------------------------------------------------------------- the grid


def test_what_is_left_to_earn_adds_up() -> None:
    walk = Trajectory(((0.0,),) * 4, (0, 1, 0, 1), (0.5, 0.0, -2.0, 3.0))
    assert walk.returns_to_go == (1.5, 1.0, 1.0, 3.0)
    for walk in GRID.walks(40, seed=3):
        assert walk.returns_to_go[0] == sum(walk.rewards) and walk.returns_to_go[-1] == walk.rewards[-1]
        for t in range(len(walk.rewards) - 1):
            assert walk.returns_to_go[t] - walk.rewards[t] == walk.returns_to_go[t + 1]


def test_a_grid_worked_by_hand() -> None:
    assert [GRID.step((0, 0, 1, 0), action) for action in range(4)] == [
        ((0, 0, 1, 0), 0.0, False), ((0, 1, 1, 0), 0.0, False), ((0, 0, 1, 0), 0.0, False), ((1, 0, 1, 0), 1.0, True),
    ]  # fmt: skip
    assert GRID.seen((0, 3, 1, 2)) == pytest.approx((-1, 1, -1 / 3, 1 / 3))
    assert [MOVES[a][0] for a in GRID.straight((0, 3, 2, 1))] == ["up", "right"] and [MOVES[a][0] for a in GRID.straight((2, 0, 2, 1))] == ["down"]
    train, test = GRID.starts("train"), GRID.starts("test")
    assert len({*train, *test}) == len(train) + len(test) == 16 * 15 and len(test) == 48 and all(p[:2] != p[2:] for p in (*train, *test))
    with pytest.raises(UserError, match="asked for 49 items but only 48 different ones exist"):
        GRID.starts("test", 49)


def test_walks_are_mixed_end_at_the_goal_and_are_the_seeds() -> None:
    walks = GRID.walks(60, seed=1)
    ends = [walk.rewards[-1] for walk in walks]
    assert walks == GRID.walks(60, seed=1) != GRID.walks(60, seed=2) and 0 < sum(ends) < 60
    assert all(sum(walk.rewards) == end and (end or len(walk.actions) == GRID.horizon) for walk, end in zip(walks, ends, strict=True))
    begins = {walk.observations[0] for walk in walks}
    assert not begins & {GRID.seen(place) for place in GRID.starts("test")}


# ---------------------------------------------------------------------------------------------------------------------------------------- tokens


def test_a_walk_is_three_tokens_a_step_and_only_actions_are_scored() -> None:
    _, actor = made()
    walk = GRID.walks(1, seed=5)[0]
    (segment,) = actor.row(walk)["train"]
    steps = len(walk.actions)
    assert segment.weight.tolist() == [0.0, 0.0, 1.0] * steps
    assert segment.extras["action"][ACTION::3].tolist() == list(walk.actions)
    actor.embedded(torch.from_numpy(segment.ids)[None].long())
    rows = actor.table.weight[torch.from_numpy(segment.ids).long()]
    assert rows[:, 0].tolist() == [RETURN, OBSERVATION, ACTION] * steps and rows[:, 1].tolist() == [t for t in range(steps) for _ in range(3)]
    assert rows[RETURN::3, 2].tolist() == list(walk.returns_to_go)
    assert torch.equal(rows[OBSERVATION::3, 2:], torch.tensor(walk.observations))
    assert torch.equal(rows[ACTION::3, 2:], F.one_hot(torch.tensor(walk.actions), 4).float())


def test_the_same_numbers_at_the_same_step_are_one_id_and_what_does_not_fit_is_refused() -> None:
    _, actor = made()
    first = actor.token(OBSERVATION, 2, (0.5, 0, 0, 1))
    assert actor.token(OBSERVATION, 2, (0.5, 0, 0, 1)) == first
    others = {actor.token(OBSERVATION, 3, (0.5, 0, 0, 1)), actor.token(RETURN, 2, (0.5,)), actor.token(ACTION, 2, (0,))}
    assert len(others | {first}) == 4
    with pytest.raises(UserError, match="time step 8: this decision transformer knows 7"):
        actor.token(RETURN, 7, (1.0,))
    with pytest.raises(UserError, match="action 4: there are 4, numbered from 0"):
        actor.token(ACTION, 0, (4,))
    with pytest.raises(UserError, match="3 numbers of what is seen or wanted: this decision transformer reads 4"):
        actor.token(OBSERVATION, 0, (1, 2, 3))


# ------------------------------------------------------------------------------------------------------------------------------------- the actor


def test_layouts_are_tried_on_ids_that_differ_and_all_hold() -> None:
    _, actor = made()
    ids = torch.arange(actor.table.num_embeddings)[None]
    assert len({tuple(row) for row in actor.embedded(ids)[0].tolist()}) == actor.table.num_embeddings == 64
    assert attends_by_segments(actor) and packs(actor)
    # One number seen and one action there is.
    assert DecisionTransformer(toy_llama(), 1, 1, 3).every(ids[:, :5]).shape == (1, 2, 1)


def test_an_action_does_not_see_itself_or_what_comes_after() -> None:
    _, actor = made()
    walk = max(GRID.walks(20, seed=0), key=lambda w: len(w.actions))
    (segment,) = actor.row(walk)["train"]
    values = {}
    for at in range(len(walk.actions)):
        later = [*walk.actions[:at], *((a + 1) % 4 for a in walk.actions[at:])]
        seen = [*walk.observations[: at + 1], *(tuple(x + 1 for x in o) for o in walk.observations[at + 1 :])]
        wanted = [*walk.returns_to_go[: at + 1], *(r - 7 for r in walk.returns_to_go[at + 1 :])]
        edited = torch.tensor([actor.tokens(wanted, seen, later)])
        same, at_state = edited[0] == torch.from_numpy(segment.ids).long(), 3 * at + 1
        assert bool(same[: at_state + 1].all()) and not bool(same[at_state + 1 :].any())
        with torch.no_grad():
            positions = torch.arange(len(segment.ids))[None]
            states = [actor(input_ids=ids, position_ids=positions, use_cache=False) for ids in (torch.from_numpy(segment.ids)[None].long(), edited)]
            values[at] = [actor.value_head(state[0, at_state]) for state in states]
            alone = actor.logits(torch.from_numpy(segment.ids)[None, : at_state + 1].long())[0]
        torch.testing.assert_close(values[at][0], values[at][1], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(values[at][0], alone, rtol=1e-5, atol=1e-5)
    # And it does see what stands before it: the return that is wanted.
    wanted = [r - 7 for r in walk.returns_to_go[:1]]
    with torch.no_grad():
        other = actor.logits(torch.tensor([actor.tokens(wanted, walk.observations[:1], ())]))[0]
    assert float((other - values[0][0]).abs().max()) > 1e-3


class PlainDT(nn.Module):
    """A decision transformer as on paper: three linear embeddings, one of time, a norm, a causal trunk, a head at the states; rows are padded."""

    def __init__(self, actor: DecisionTransformer, trunk: Any) -> None:
        super().__init__()
        self.wanted, self.seen, self.done = actor.embed
        self.time, self.norm, self.head, self.trunk = actor.time, actor.norm, actor.value_head, trunk

    def loss(self, walks: list[Trajectory]) -> torch.Tensor:
        """Mean cross-entropy over all actions."""
        longest, batch = max(len(w.actions) for w in walks), len(walks)

        def padded(rows: list[Any]) -> torch.Tensor:
            return torch.stack([F.pad(x := torch.tensor(row), [0] * (2 * x.dim() - 1) + [longest - len(x)]) for row in rows])

        action_BT = padded([w.actions for w in walks])
        there_BT = padded([[1] * len(w.actions) for w in walks])
        time = self.time(torch.arange(longest))
        three = [
            self.wanted(padded([w.returns_to_go for w in walks])[..., None]) + time,
            self.seen(padded([w.observations for w in walks])) + time,
            self.done(F.one_hot(action_BT, 4).float()) + time,
        ]
        x = self.norm(torch.stack(three, dim=2).reshape(batch, 3 * longest, -1))
        mask = torch.stack([there_BT] * 3, dim=2).reshape(batch, 3 * longest)
        out = self.trunk(inputs_embeds=x, attention_mask=mask).last_hidden_state
        logits = self.head(out.reshape(batch, longest, 3, -1)[:, :, 1])
        return F.cross_entropy(logits[there_BT.bool()], action_BT[there_BT.bool()])


@pytest.mark.parametrize("layout", ["segments", "packed", "padded"])
def test_without_language_it_is_a_plain_decision_transformer(layout: Any) -> None:
    model, actor = made(mlp=False)
    walks = GRID.walks(9, seed=0)
    plain = PlainDT(actor, model.model).loss(walks)
    trunk = [p for p in model.model.parameters() if p is not model.model.embed_tokens.weight]
    expected = torch.autograd.grad(plain, [*actor.own().values(), *trunk])
    whole: Any = Full()
    roles = {"actor": Live.attach(Role(actor, Full(only=OWN))), "policy": Live.attach(Role(model, whole))}  # type: ignore[arg-type]
    parts = collate([actor.row(walk) for walk in walks])
    loss = total(roles, LaMo(), [lambda: parts], count_terms(LaMo(), [parts]), 0, Engine(layout=layout), Means())
    assert loss == pytest.approx(float(plain.detach()), rel=1e-5)
    for p, gradient in zip([*actor.own().values(), *trunk], expected, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)


def test_lambda_weighs_the_language_of_the_same_trunk() -> None:
    model, actor = made()
    roles = {"actor": Live.attach(Role(actor, Full(only=OWN))), "policy": Live.attach(Role(model, LoRA(r=2)))}  # type: ignore[arg-type]
    walks, texts = [actor.row(walk) for walk in GRID.walks(4)], toy_rows(4, ("text",))
    parts = collate([{**walk, **text} for walk, text in zip(walks, texts, strict=True)])

    def step(objective: Any) -> tuple[float, list[torch.Tensor]]:
        params = [p for role in roles.values() for p in role.handle.params.values()]  # type: ignore[union-attr]
        for p in params:
            p.grad = torch.zeros_like(p)
        loss = total(roles, objective, [lambda: parts], count_terms(objective, [parts]), 0, Engine(), Means())
        return loss, [p.grad.clone() for p in params if p.grad is not None]

    (act, act_g), (say, say_g), (both, both_g) = (step(o) for o in (LaMo(), NLL(part="text"), LaMo() + 0.1 * NLL(part="text")))
    assert both == pytest.approx(act + 0.1 * say, rel=1e-6)
    for a, s, b in zip(act_g, say_g, both_g, strict=True):
        torch.testing.assert_close(b, a + 0.1 * s, rtol=1e-4, atol=1e-6)
    own = len(roles["actor"].handle.params)  # type: ignore[union-attr]
    assert all(not bool(g.any()) for g in say_g[:own]) and all(bool(g.any()) for g in act_g[:own])
    assert any(bool(g.any()) for g in act_g[own:]) and any(bool(g.any()) for g in say_g[own:])
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trains and all("lora_" in name for name in trains)


# ---------------------------------------------------------------------------------------------------------------------------------------- acting


class Knows(DecisionTransformer):
    """Goes straight where a return of 1 is wanted still, and into a wall where not."""

    def tokens(self, returns: Any, observations: Any, actions: Any) -> list[int]:
        self.asked = [*getattr(self, "asked", []), (list(returns), list(actions))]
        place = tuple(round((x + 1) * 3 / 2) for x in observations[-1])
        return [GRID.straight(place)[0] if returns[-1] == 1 else 0]  # type: ignore[arg-type]

    def logits(self, ids: Any) -> Any:
        return 50.0 * F.one_hot(ids[:, 0], 4)


def test_acting_takes_what_was_earned_off_what_is_wanted() -> None:
    model = toy_llama()
    actor = Knows(model, 4, 4, GRID.horizon)
    policy = Policy(model, None, roles={"actor": actor})
    scores = TargetReturn(name="grid", world=GRID, n=20)(policy)
    starts = GRID.starts("test", 20)
    assert [item.score for item in scores.items] == [1.0] * 20 and scores.kind == "binary"
    assert [item.extra["steps"] for item in scores.items] == [abs(x - gx) + abs(y - gy) for x, y, gx, gy in starts]
    assert all(returns == [1.0] * len(returns) and len(actions) == len(returns) - 1 for returns, actions in actor.asked)
    actor.asked = []
    # Earning 1 of 2 leaves 1, but the walk is over then.
    nothing = TargetReturn(name="grid", world=GRID, n=20, wanted=2.0)(policy)
    assert {item.output for item in nothing.items if item.score == 0} == {" ".join(["up"] * GRID.horizon)}
    with pytest.raises(UserError, match="the policy has no role 'actor' that could act"):
        TargetReturn(name="grid", world=GRID)(replace(policy, roles={}))


def test_an_actor_that_knows_nothing_walks_at_random_and_the_same_again() -> None:
    model = toy_llama()
    policy = Policy(model, None, roles={"actor": DecisionTransformer(model, 4, 4, GRID.horizon).eval()})
    probe = TargetReturn(name="grid", world=GRID, n=48)
    first = probe(policy)
    moves = [move for item in first.items for move in item.output.split()]
    shares = [moves.count(name) / len(moves) for name in GRID.moves]
    assert max(abs(share - 0.25) for share in shares) < 4 * math.sqrt(0.25 * 0.75 / len(moves))
    assert [i.output for i in probe(policy).items] == [i.output for i in first.items]
    # What a walk draws does not depend on which others are walked.
    assert [i.output for i in probe.model_copy(update={"n": 5})(policy).items] == [i.output for i in first.items[:5]]
    assert [i.output for i in probe.model_copy(update={"seed": 1})(policy).items] != [i.output for i in first.items]


# --------------------------------------------------------------------------------------------------------------------------------------- the run

SMALL: dict[str, Any] = {
    "model": "builtin:tiny",
    "data": "builtin:people-retain",
    "limit": 24,
    "walks": 8,
    "steps": 3,
    "batch_size": 4,
    "max_test": 6,
}
SMALL |= {"keep": "none", "precision": "fp32", "r": 2}


def test_a_run_acts_keeps_text_and_can_be_read_again(tmp_path: Path) -> None:
    report = tp.run("lamo", out=tmp_path / "run", again=True, **SMALL)
    assert [(probe.name, probe.side) for probe in report.ledger.probes] == [("grid-5", "target"), ("held_text", "keep")]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and rows[0]["actor.grad_norm"] > 0 and 0 <= rows[-1]["accuracy"] <= 1
    found = models.load(str(tmp_path / "run" / "model"), say=lambda _: None)
    actor = DecisionTransformer.read(found.model, tmp_path / "run" / "actor")
    assert float(actor.value_head.weight.detach().abs().max()) > 0
    after = json.loads((tmp_path / "run" / "after.scores.json").read_text())
    outputs = [item["output"] for item in after["probes"][0]["items"]]
    again = TargetReturn(name="grid-5", world=Grid(), n=6)(replace(found, roles={"actor": actor}))
    assert [item.output for item in again.items] == outputs
    # A run that had trained reads both and goes on to the same end.
    (tmp_path / "run" / "after.scores.json").unlink()
    tp.run("lamo", resume=tmp_path / "run", **SMALL)
    assert [item["output"] for item in json.loads((tmp_path / "run" / "after.scores.json").read_text())["probes"][0]["items"]] == outputs


def test_without_language_no_text_is_read_in_training(tmp_path: Path) -> None:
    tp.run("lamo", out=tmp_path / "run", again=True, language=0.0, mlp=False, scope="full", **{k: v for k, v in SMALL.items() if k != "r"})
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    walks = Grid().walks(8)
    lengths = sorted(3 * len(walk.actions) for walk in walks)
    assert sum(lengths[:4]) <= rows[0]["tokens"] <= sum(lengths[-4:])
    # At the start the head gives every action the same chance.
    assert rows[0]["loss"] == pytest.approx(math.log(4), rel=1e-5)


def test_wrong_input_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--scope\.quantise: lamo trains new layers"):
        tp.run("lamo", out=tmp_path / "run", again=True, **{**SMALL, "scope.quantise": "nf4"})
    with pytest.raises(UserError, match="there is no plan for lamo yet"):
        tp.plan("lamo", model="builtin:tiny", data="builtin:people-retain")
    with pytest.raises(UserError, match="no decision transformer can be read"):
        DecisionTransformer.read(toy_llama(), tmp_path)
    _, actor = made()
    actor.write(tmp_path / "actor")
    with pytest.raises(UserError, match="other shapes than this model's trunk asks for"):
        DecisionTransformer.read(toy_llama(hidden=16), tmp_path / "actor")
    again = DecisionTransformer.read(toy_llama(), tmp_path / "actor")
    assert all(torch.equal(p, actor.own()[name]) for name, p in again.own().items())


# ------------------------------------------------------------------------------------------------------------------------------- recorded walks


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def walk_row(steps: int, last: float) -> dict[str, Any]:
    seen = [[0.1 * t, -0.5] for t in range(steps)]
    return {"observations": seen, "actions": [t % 3 for t in range(steps)], "rewards": [0.0] * (steps - 1) + [last]}


def test_walks_of_ones_own_are_learned_and_held_out(tmp_path: Path) -> None:
    (tmp_path / "walks.jsonl").write_text(lines(*(walk_row(2 + i % 3, 50.0 * (i % 2)) for i in range(20))))
    report = tp.run("lamo", out=tmp_path / "run", again=True, **{**SMALL, "walks": None, "recorded": str(tmp_path / "walks.jsonl")})
    probe = report.ledger.probes[0]
    assert (probe.name, probe.side, probe.n) == ("held_actions", "target", 2)
    before = json.loads((tmp_path / "run" / "before.scores.json").read_text())["probes"][0]["items"]
    # A head of zeros gives each of three actions a third.
    assert [item["score"] for item in before] == pytest.approx([math.log(3)] * 2)
    after = json.loads((tmp_path / "run" / "after.scores.json").read_text())["probes"][0]["items"]
    assert all(b["score"] < a["score"] for a, b in zip(before, after, strict=True))
    found = models.load(str(tmp_path / "run" / "model"), say=lambda _: None)
    actor = DecisionTransformer.read(found.model, tmp_path / "run" / "actor")
    assert actor.sizes == {"numbers": 2, "actions": 3, "horizon": 4, "mlp": 1} and actor.scale == 50.0
    assert actor.token(RETURN, 0, [1.0]) == actor.tokens([50.0], [[0.0, 0.0]], [])[0]


def test_held_actions_are_scored_one_by_one() -> None:
    model, actor = made()
    walks = tuple(GRID.walks(6, seed=2))
    scores = HeldActions(walks=walks)(Policy(model, None, roles={"actor": actor}))
    for item, walk in zip(scores.items, walks, strict=True):
        each = [
            actor.logits(torch.tensor([actor.tokens(walk.returns_to_go[: t + 1], walk.observations[: t + 1], walk.actions[:t])]))[0]
            for t in range(len(walk.actions))
        ]
        nll = -sum(float(z.detach().log_softmax(-1)[a]) for z, a in zip(each, walk.actions, strict=True)) / len(walk.actions)
        right = sum(int(z.argmax()) == a for z, a in zip(each, walk.actions, strict=True)) / len(walk.actions)
        assert item.score == pytest.approx(nll, rel=1e-4) and item.extra["accuracy"] == pytest.approx(right)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"observations": [[1]], "actions": [0], "rewards": [1, 2]}\n', "walks.jsonl:1: .*1 observations, 1 actions and 2 rewards"),
        (
            '{"observations": [[1]], "actions": [-1], "rewards": [1]}\n',
            r"walks.jsonl:1: field 'actions\.0': Input should be greater than or equal to 0",
        ),
        ('{"observations": [[]], "actions": [0], "rewards": [1]}\n', r"walks.jsonl:1: field 'observations\.0'"),
        ('{"observations": [], "actions": [], "rewards": []}\n', "walks.jsonl:1: field 'observations'"),
        ('{"actions": [], "rewards": []}\n', "walks.jsonl:1: field 'observations': Field required"),
        (lines(walk_row(2, 1.0), {**walk_row(2, 1.0), "observations": [[1.0, 2.0], [1.0]]}), "walks.jsonl:2: an observation of 1 numbers where the"),
        (lines(walk_row(2, 1.0)), "one walk to take; at least 2 are needed"),
        ("[1]\n", "walks.jsonl:1: a JSON object is wanted, this is a list"),
    ],
)
def test_a_file_that_holds_no_walks_is_refused_by_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "walks.jsonl").write_text(text)
    with pytest.raises(UserError, match=says):
        tp.run("lamo", out=tmp_path / "run", again=True, **{**SMALL, "recorded": str(tmp_path / "walks.jsonl")})
    assert not (tmp_path / "run").exists()


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def trained(folder: Path, stop: bool, resume: bool) -> dict[str, torch.Tensor]:
        model, actor = made()
        texts = [{"train": row["text"]} for row in toy_rows(9, ("text",))]
        stream = Join(train=(Shuffled([actor.row(walk) for walk in GRID.walks(9)], 4), "train"), text=(Shuffled(texts, 4), "train"))
        own, stopper = cast("Any", Full(only=OWN)), Stopper()
        roles = {"policy": Role(model, cast("Any", LoRA(r=2))), "actor": Role(actor, own)}
        how: dict[str, Any] = {"steps": 5, "optimizer": Optimizer(lr=1e-2), "training": Training(precision="fp32"), "say": lambda _: None}
        try:
            objective = LaMo() + 0.1 * NLL(part="text")
            at_2 = lambda metrics: stopper("a test") if stop and metrics["step"] == 2 else None  # noqa: E731
            fit(roles, objective, stream, folder=folder, resume=resume, stopper=stopper, on_metrics=at_2, **how)
        except Interrupted:
            assert stop
        return {**actor.own(), **{name: p for name, p in model.named_parameters() if "lora_" in name}}

    whole = trained(tmp_path / "whole", stop=False, resume=False)
    part = trained(tmp_path / "part", stop=True, resume=False)
    assert any(not torch.equal(p, part[name]) for name, p in whole.items())
    again = trained(tmp_path / "part", stop=False, resume=True)
    assert len(whole) > 20 and all(torch.equal(p, again[name]) for name, p in whole.items())
