"""`temper judge A.jsonl B.jsonl --judge MODEL|gold`: which of two sets of answers to the same prompts is better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tempering.cli.models import Json, model_of, write_json
from tempering.cli.show import say
from tempering.errors import UserError

if TYPE_CHECKING:
    from tempering.types import Message, Record


def judge(
    a: str,
    b: str,
    /,
    *,
    judge: str = "gold",
    judge_model: Annotated[str, Parameter(name="--judge-model")] = "",
    pointwise: bool = False,
    swap: bool = True,
    length_control: bool = True,
    seed: int = 0,
    limit: int | None = None,
    max_new_tokens: int = 256,
    json_: Json = None,
) -> int:
    """Judge two sets of answers to the same prompts: A's win rate with its interval, also with length held equal.

    Every item is put before the judge in both orders; verdicts that cannot be read are counted, and their items are left out.

    Args:
        a: file of prompts and answers.
        b: file of other answers to the same prompts, in any order.
        judge: gold (the reward of the preferences world), a model or run folder, or a server's address (http://HOST/v1).
        judge_model: the server's name of the model.
        pointwise: ask for a mark of each answer alone, and compare marks.
        swap: ask both orders.
        length_control: also the win rate at equal length (AlpacaEval 2).
        seed: of the order asked first.
        limit: judge at most this many prompts.
        max_new_tokens: longest answer of the judge.
        json_: write every item's verdicts to this file.
    """
    from tempering.display import Display
    from tempering.judge import rates
    from tempering.judge.judges import judge_of
    from tempering.judge.verdicts import duel

    prompts, of_a, of_b = _matched(a, b, limit)
    display = Display()
    found_judge = judge_of(
        judge if judge == "gold" or "://" in judge else model_of(judge),
        model=judge_model,
        pointwise=pointwise,
        max_new_tokens=max_new_tokens,
        progress=display.advance,
    )
    with display.phase("judging", len(prompts)):
        played = duel(prompts, of_a, of_b, found_judge, seed=seed, swap=swap)
    won = rates.win_rate(played)
    say(f"A {a}\nB {b}\njudge {judge}, {len(prompts)} prompts, {'both orders' if swap else 'one order each, drawn by the seed'}")
    say(f"A wins {_percent(won.rate)}: {won.wins} won, {won.ties} tied, {won.losses} lost, p {won.p:.3g} (sign test)")
    controlled: Any = None
    if length_control:
        try:
            controlled = rates.length_controlled(played)
            say(f"at equal length {_percent(controlled)}")
        except UserError as error:
            say(f"at equal length: not to be had ({error})")
    if played.consistent is not None:
        first = "" if played.first_place is None else f"; the answer shown first won {played.first_place:.0%} of the verdicts that were not ties"
        say(f"both orders agree on {played.consistent:.0%} of the items{first}")
    if played.unreadable:
        say(f"{played.unreadable} of {played.asked} verdicts could not be read; the {won.left_out} items they belong to are left out")
    if json_ is not None:
        from dataclasses import asdict

        items = [{"prompt": [m.content for m in p], **asdict(item)} for p, item in zip(prompts, played.items, strict=True)]
        write_json(json_, {"judge": judge, "win_rate": asdict(won), "length_controlled": asdict(controlled) if controlled else None, "items": items})
    return 0


def _percent(found: Any) -> str:
    return f"{found.point:.1%} [{found.low:.1%}, {found.high:.1%}]" if found.low is not None and found.high is not None else f"{found.point:.1%}"


def _matched(a: str, b: str, limit: int | None) -> tuple[list[tuple[Message, ...]], list[str], list[str]]:
    """(prompts, A's answers, B's answers), in A's order."""
    sides = [_answers(path) for path in (a, b)]
    missing = [record for key, record in sides[0].items() if key not in sides[1]]
    if missing:
        raise UserError(f"{missing[0].source}: its prompt has no answer in {b}; both files must answer the same prompts")
    keys = [key for key in sides[0]][:limit]
    return [sides[0][key].prompt for key in keys], *([_text(side[key]) for key in keys] for side in sides)  # type: ignore[return-value]


def _answers(path: str) -> dict[str, Record]:
    from tempering.data import read

    if not Path(path).is_file():
        raise UserError(f"{path}: there is no such file; give JSON lines of prompts and answers")
    found: dict[str, Record] = {}
    for record in read(path, say=lambda _: None):
        if len(record.responses) != 1 or not record.prompt:
            raise UserError(f'{record.source}: expected a prompt with one answer, for example {{"prompt": "...", "completion": "..."}}')
        key = json.dumps([(m.role, m.content) for m in record.prompt])
        if key in found:
            raise UserError(f"{record.source}: answers the same prompt as {found[key].source}; keep one answer for each prompt")
        found[key] = record
    return found


def _text(record: Any) -> str:
    return "\n".join(m.content for m in record.responses[0].messages)
