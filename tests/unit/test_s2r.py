"""S2R: answers that are checked, credit by what was earned before, and one ratio a turn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tempering import models
from tempering.config import Training
from tempering.data import sft_row
from tempering.methods.credits.leave_one_out import LeaveOneOut
from tempering.methods.credits.reward_history import RewardHistory
from tempering.methods.environments.verify import AGAIN, CHECK, Verify, _verdict
from tempering.methods.objectives.gspo import GSPO
from tempering.methods.objectives.s2r import S2R
from tempering.rollouts.settings import Rollouts
from tempering.rollouts.stream import Conversations
from tempering.rollouts.types import Earned, State, Trajectory, Turn
from tempering.signals import Live
from tempering.types import Batch, Context, Run

ENV = Verify(pays="process")
(TASK,) = ENV.tasks("train", 1)
RIGHT, WRONG = TASK.tags["answer"], str(int(TASK.tags["answer"]) + 1)


def talk(env: Verify, *answers: str) -> tuple[State, list[float]]:
    async def go() -> tuple[State, list[float]]:
        state, earned = await env.reset(TASK), list[float]()
        for answer in answers:
            assert not state.done
            state = await env.step(state, answer)
            earned.append(state.reward)
        return state, earned

    return asyncio.run(go())


# -------------------------------------------------------------------------------------------------------------------------------- the environment


@pytest.mark.parametrize(
    ("answers", "earned", "done"),
    [
        ((RIGHT,), [1], False),
        ((WRONG,), [-1], False),
        (("no idea",), [-1], False),
        ((RIGHT, "Yes."), [1, 1], True),
        ((WRONG, "yes"), [-1, -1], True),
        ((RIGHT, "No."), [1, -1], False),
        ((WRONG, "No, not at all: yes"), [-1, 1], False),
        ((WRONG, "hm"), [-1, 0], False),
        ((WRONG, "No.", RIGHT), [-1, 1, 1], True),
        ((RIGHT, "No.", WRONG), [1, -1, -1], True),
    ],
)
def test_each_turn_is_paid_for_what_it_is(answers: tuple[str, ...], earned: list[float], done: bool) -> None:
    state, found = talk(ENV, *answers)
    assert (found, state.done) == (earned, done)
    if not done:
        assert state.messages[-1].content == (CHECK if len(answers) % 2 else AGAIN)


def test_the_last_answer_is_the_outcome_whatever_was_said_of_it() -> None:
    env = Verify()
    for answers, paid in (((RIGHT, "Yes."), 1), ((WRONG, "No.", RIGHT), 1), ((RIGHT, "No.", WRONG), 0), ((WRONG, "Yes."), 0)):
        state, earned = talk(env, *answers)
        turns = tuple(Turn((1,), (2,), (0.0,), text, True) for text in answers)
        assert env.judge([Trajectory(TASK, turns, tuple(earned), state)]).tolist() == [paid] and not any(earned)
    assert env.binary and not ENV.binary and not ENV.judge([Trajectory(TASK, turns, (0.0,), state)]).any()
    alone, _ = talk(Verify(tries=1), RIGHT)
    assert alone.done


def test_a_verdict_is_the_first_word() -> None:
    assert [_verdict(text) for text in ("Yes", " no!", "42. Yes", "yesterday", "")] == [True, False, True, None, None]


def test_demonstrations_are_conversations_that_the_environment_would_lead() -> None:
    tasks, tokenizer = Verify().tasks("train", 40), models.load("builtin:tiny", say=lambda _: None).tokenizer
    slipped = 0
    for task in tasks:
        messages = task.responses[0].messages
        said = [m.content for m in messages if m.role == "assistant"]

        async def led(task: Any = task, said: Any = said) -> State:
            state = await Verify(pays="process").reset(task)
            for text in said:
                state = await Verify(pays="process").step(state, text)
            return state

        state = asyncio.run(led())
        assert state.done and state.messages == (*task.prompt, *messages) and state.memory["said"][-1] == int(task.tags["answer"])
        assert len(said) in (2, 3) and state.memory["verdicts"] == [len(said) == 2]
        slipped += len(said) == 3
        (segment,) = sft_row(task, tokenizer)["train"]  # type: ignore[index]
        assert tokenizer.decode(segment.ids[segment.weight > 0]).replace(tokenizer.eos_token, "|").count("|") >= len(said) - 1
    assert 10 < slipped < 30 and all(len(t.responses[0].messages) == 3 for t in Verify(slips=0).tasks("train", 9))


# -------------------------------------------------------------------------------------------------------------------------------------- the credit


def history(turns: Sequence[Sequence[float]], lengths: list[list[int]] | None = None, price: Any = None) -> Earned:
    """Conversations by what their turns earned, at each turn's last token."""
    lengths = lengths or [[1] * len(of) for of in turns]
    rewards, whose, numbers = [], [], []
    for i, (of, sizes) in enumerate(zip(turns, lengths, strict=True)):
        for k, (reward, size) in enumerate(zip(of, sizes, strict=True)):
            rewards += [0.0] * (size - 1) + [reward]
            whose += [i] * size
            numbers += [k] * size
    price_T = None if price is None else np.asarray(price, float)
    reward_T = np.array(rewards) - (0 if price_T is None else price_T)
    return Earned(reward_T, np.array(whose), np.zeros(len(turns), int), turn_T=np.array(numbers), price_T=price_T)


def test_a_turn_is_compared_with_turns_of_the_same_history() -> None:
    turns = [[1, 1], [-1, 1, 1], [-1, 1, -1], [-1, -1], [1, -1, 1]]
    found = RewardHistory(least=2)(history(turns))["advantage"]
    first, after_right, after_wrong, last = -1 / 5, 0.0, 1 / 3, 0.0
    expected = [1 - first, 1 - after_right]
    expected += [-1 - first, 1 - after_wrong, 1 - last, -1 - first, 1 - after_wrong, -1 - last]
    # (1, -1) was there once: its reward as it is.
    expected += [-1 - first, -1 - after_wrong, 1 - first, -1 - after_right, 1]
    assert found == pytest.approx(expected)


def test_ten_turns_make_a_baseline_and_nine_do_not() -> None:
    for count, sums in ((9, 9 - 2 * 3), (10, 0.0)):
        rewards = [[-1.0]] * 3 + [[1.0]] * (count - 3)
        advantage = RewardHistory()(history(rewards))["advantage"]
        assert advantage.sum() == pytest.approx(sums if count == 9 else 0.0)
        assert advantage[0] == pytest.approx(-1.0 if count == 9 else -1 - 0.4)


def test_conversations_of_one_turn_get_reward_less_mean_and_rloo_is_k_over_k_less_one_of_it() -> None:
    scores = [1.0, -1.0, 1.0, 1.0]
    step = history([[x] for x in scores], [[2], [1], [3], [1]])
    ours, theirs = RewardHistory(least=1)(step)["advantage"], LeaveOneOut()(step)["advantage"]
    assert ours == pytest.approx(np.repeat(np.array(scores) - 0.5, [2, 1, 3, 1])) and theirs == pytest.approx(4 / 3 * ours)


def test_a_price_changes_no_history_and_is_averaged_over_the_turn() -> None:
    price = [0.1, 0.3, 0.7, -0.2, 0.4]
    plain = history([[1, -1], [1, 1]], [[2, 1], [1, 1]])
    priced = history([[1, -1], [1, 1]], [[2, 1], [1, 1]], price)
    assert RewardHistory(least=2)(plain)["advantage"] == pytest.approx([0, 0, -1, 0, 1])
    assert RewardHistory(least=2)(priced)["advantage"] == pytest.approx([-0.2, -0.2, -1.7, 0.2, 0.6])


# -------------------------------------------------------------------------------------------------------------------------------- loss and stream


def test_a_conversation_of_one_turn_is_gspo() -> None:
    torch.manual_seed(0)
    weight_T = torch.tensor([0, 1, 1, 1.0, 0, 0, 1, 1, 1])
    batch = Batch(torch.zeros(9, dtype=torch.long), torch.tensor([0] * 4 + [1] * 5), weight_T, torch.tensor([0, 1]))
    values = {"logp": torch.randn(9), "old_logp": torch.randn(9), "advantage": torch.tensor([1.5] * 4 + [-0.7] * 5), "turn": torch.zeros(9)}
    context = Context(0, {}, lambda **_: None)
    ours = S2R()({"rollout": batch}, {"rollout": values}, context)
    theirs = GSPO(clip_low=0.2, clip_high=0.2)({"rollout": batch}, {"rollout": values}, context)
    sums = torch.zeros(2).index_add(0, batch.segment_T, ours * batch.weight_T)
    torch.testing.assert_close(sums, theirs)


def test_the_stream_pays_each_turn_what_it_earned_against_its_history() -> None:
    policy = models.load("builtin:tiny", say=lambda _: None)
    training = Training(batch_size=2, precision="fp32", micro_tokens=4096)
    credit, settings = RewardHistory(least=1), Rollouts(samples=3)
    made = Conversations(policy.tokenizer, ENV, ENV.tasks("train", 4), credit, settings, training=training, max_new_tokens=12, seed=1)
    played = [one for groups in made.acting(policy.model, 0).tries for group in groups for one in group.played]
    batch = made.next(Run({"policy": Live(policy.model)}, 0, 0))["rollout"]
    own = batch.weight_T != 0
    earned = [(one.rewards[:k], reward) for one in played for k, reward in enumerate(one.rewards)]
    assert batch.num_segments == len(played) == 6 and len(earned) >= 12
    # A step's tasks come in an order of its own.
    place = {tuple(batch.ids_T[batch.segment_T == s].tolist()): s for s in range(batch.num_segments)}
    for one in played:
        mine = own & (batch.segment_T == place[(*one.turns[-1].prompt_ids, *one.turns[-1].ids)])
        assert batch.ids_T[mine].tolist() == [token for turn in one.turns for token in turn.ids]
        for k, (turn, reward) in enumerate(zip(one.turns, one.rewards, strict=True)):
            of = batch.extras["advantage"][mine][batch.extras["turn"][mine] == k]
            alike = [paid for history, paid in earned if history == one.rewards[:k]]
            assert of.tolist() == pytest.approx([reward - np.mean(alike)] * len(turn.ids), abs=1e-6)
