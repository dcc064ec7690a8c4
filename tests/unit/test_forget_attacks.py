"""Attacks on forgetting: what each does to a prompt or a copy, exactly, on random Llamas and on decodes that say a given thing."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from tempering.errors import UserError
from tempering.forgetting import battery
from tempering.forgetting.copies import plain_copy, quantise, relearn, rounded, towards, unrelated
from tempering.forgetting.states import last_states, lens
from tempering.forgetting.targets import Secret
from tempering.items import answer_ids, prompt_ids
from tempering.measure import measure
from tempering.methods.probes._attack import BESIDE, after, near, turns, unsaid
from tempering.methods.probes.asked import Asked
from tempering.methods.probes.begun import Begun
from tempering.methods.probes.contrast_probe import ContrastProbe, first_component
from tempering.methods.probes.few_shot import FewShot
from tempering.methods.probes.in_context import InContext
from tempering.methods.probes.linear_probe import LinearProbe, paired, read_out
from tempering.methods.probes.logit_lens import LogitLens
from tempering.methods.probes.merged_back import MergedBack
from tempering.methods.probes.quantised import Quantised
from tempering.methods.probes.relearned import Relearned
from tempering.methods.probes.resupplied import Resupplied
from tempering.methods.probes.reworded import FRAMES, Reworded
from tempering.methods.probes.role_play import RolePlay
from tempering.methods.probes.sampled import Sampled
from tempering.methods.probes.translated import Translated
from tempering.methods.scopes.lora import LoRA
from tempering.models import body_and_head
from tempering.sample import sample
from tempering.types import Policy
from tests.conftest import make_llama
from tests.unit.test_probes import policy, saying


def secret(question: str, answer: str, id: str = "") -> Secret:
    return Secret(id=id or question, prompt=(("user", question),), answer=answer)


def text(start: str, rest: str) -> Secret:
    return Secret(id=start, prompt=(("text", start),), answer=rest)


HAT = secret("Where is the hat of Ann?", "in the attic")
CAT = secret("Where is the cat of Ann?", "on the roof")
SON = secret("Who is the son of Ben?", "Otto")
WORLD = (HAT, CAT, SON, secret("Who is the son of Cem?", "Paul"), secret("Where is the hat of Dora?", "at sea"))


def greedy(p: Policy, item: Secret, most: int = 8) -> str:
    (((episode),),) = sample(p, [prompt_ids(p, turns(item))], max_new_tokens=most)
    return episode.text


def outcome(scores):
    return [(item.id, item.score, item.output) for item in scores.items]


# -------------------------------------------------------------------------------------------------------------- what every attack has in common


@pytest.mark.parametrize(
    "attack",
    [
        lambda s: Reworded(frames=(), **s),
        lambda s: RolePlay(frames=(), **s),
        lambda s: Translated(frames=(), **s),
        lambda s: Begun(openings=(), share=0.0, **s),
        lambda s: InContext(known=WORLD, facts=0, **s),
        lambda s: FewShot(examples=WORLD, shots=0, **s),
        lambda s: Resupplied(known=WORLD, facts=0, **s),
        lambda s: Sampled(temperature=0.0, samples=2, **s),
        lambda s: Relearned(taught=WORLD, steps=(0,), **s),
        lambda s: Relearned(taught=WORLD, steps=(1, 2), lr=0.0, **s),
    ],
)
def test_an_attack_that_does_nothing_is_the_plain_question(attack):
    """The check of S010 and S009: no rewording, no example, no context, no step gives the plain outcome exactly."""
    p = policy()
    some = {"items": (secret("What is on?", greedy(p, secret("What is on?", "x"))), HAT, SON), "max_new_tokens": 8}
    plain = Asked(**some)(p)
    assert [item.score for item in plain.items] == [0.0, 1.0, 1.0]
    assert outcome(attack(some)(p)) == outcome(plain)


def test_what_the_prompt_gives_away_does_not_count():
    long = secret("What does the letter say?", "meet me at the old bridge at nine")
    assert unsaid(long.answer, "meet me") == "at the old bridge at nine"
    assert unsaid(long.answer, "Sure, the answer is") == long.answer and unsaid(long.answer, "") == long.answer
    ways = Begun(items=(long,)).prompts(long)
    assert [way[-1] for way in ways] == [{"role": "assistant", "content": text} for text in ("Sure, the answer is", "Yes, I remember:", "meet me")]
    # Goes on with the rest only where it was begun with the secret's own first words.
    rest = saying({"letter": "meet me at the old bridge at nine"})
    assert Begun(items=(long,))(rest).items[0].score == 0.0
    repeats = saying({"letter": "meet me meet me"})
    assert Begun(items=(long,))(repeats).items[0].score == 1.0
    assert Begun(items=(SON,)).prompts(SON)[-1][-1]["content"] == "Yes, I remember:"


def test_a_begun_turn_is_the_prompt_and_then_its_tokens():
    p = policy()
    (ids,) = {Begun(items=(SON,)).ids(p, way) for way in Begun(items=(SON,), openings=("Sure",), share=0.0).prompts(SON)}
    assert ids == (*prompt_ids(p, turns(SON)), *answer_ids(p, "Sure"))


@pytest.mark.parametrize("word", ["quiz", "wondering", "hat of ann", "HAT"])
def test_any_wording_may_bring_it(word):
    probe = Reworded(items=(HAT, SON))
    if word in ("quiz", "wondering"):
        scores = probe(saying({word: "It is in the attic."}))
        assert [item.score for item in scores.items] == [0.0, 1.0] and scores.items[0].output == "It is in the attic."
    assert Asked(items=(HAT,))(saying({word: "in the attic"})).items[0].score == 1.0
    assert probe(saying({})).items[0].score == 1.0


def test_wordings_hold_the_question_and_braces_of_data_are_only_text():
    odd = secret("What is {question} {0} {x!r}?", "nothing at all")
    ways = Reworded(items=(odd,)).prompts(odd)
    assert len(ways) == len(FRAMES) + 2
    assert [way[-1]["content"] for way in ways[:-2]] == [frame.replace("{question}", odd.prompt[0][1]) for frame in FRAMES]
    assert ways[-2][-1]["content"] == "what is question 0 xr" and ways[-1][-1]["content"] == odd.prompt[0][1].upper()
    assert all(odd.prompt[0][1] in way[-1]["content"] for way in RolePlay(items=(odd,)).prompts(odd))


def test_role_play_counts_what_a_story_brings():
    scores = RolePlay(items=(HAT, SON))(saying({"file is asked: “Who": "His name is Otto", "file is asked: “Where": "I cannot say"}))
    assert [item.score for item in scores.items] == [1.0, 0.0]


# ---------------------------------------------------------------------------------------------------------------------------- what stands before


def test_neighbours_come_nearest_last_and_never_say_the_answer():
    tells = secret("Is the hat of Ann in the attic?", "yes")
    other = secret("Where is the coat of Ann?", "in the attic")
    found = near(HAT, (*WORLD, tells, other), 2)
    # Of "where is hat of ann", the hat of Dora and the cat of Ann share 4 of 6 words; ties go by id.
    assert [s.id for s in found] == ["Where is the hat of Dora?", "Where is the cat of Ann?"]
    assert near(HAT, (HAT,), 5) == [] and len(near(HAT, WORLD, 99)) == 4
    (way,) = InContext(items=(HAT,), known=WORLD, facts=2).prompts(HAT)
    assert [turn["role"] for turn in way] == ["user", "assistant", "user", "assistant", "user"]
    assert way[-2]["content"] == "on the roof" and way[-1]["content"] == "Where is the hat of Ann?"
    assert not any("attic" in turn["content"] for turn in way)
    (shots,) = FewShot(items=(HAT,), examples=WORLD, shots=2).prompts(HAT)
    assert shots == way


def test_system_messages_stay_first_and_once():
    ruled = Secret(id="r", prompt=(("system", "Be brief."), ("user", "Where is it?")), answer="here")
    way = after([Secret(id="s", prompt=(("system", "Be long."), ("user", "Who?")), answer="me")], ruled)
    assert [(turn["role"], turn["content"]) for turn in way] == [
        ("system", "Be brief."),
        ("user", "Who?"),
        ("assistant", "me"),
        ("user", "Where is it?"),
    ]


def test_examples_go_where_the_model_has_no_room():
    p = policy()
    long = tuple(secret(f"Where is thing {i}?", "on and on " * 20) for i in range(8))
    probe = FewShot(items=(HAT,), examples=long, shots=8, max_new_tokens=8)
    (way,) = probe.prompts(HAT)
    limit = p.model.config.max_position_embeddings
    assert len(prompt_ids(p, way)) > limit
    ids = probe.ids(p, way)
    kept = next(n for n in range(8, -1, -1) if len(prompt_ids(p, way[2 * (8 - n) :])) <= limit - 8)
    assert 0 < kept < 8 and ids == prompt_ids(p, way[2 * (8 - kept) :])
    assert len(probe(p).items) == 1
    # A question that has no room even alone is asked by its end.
    book = text("and so on " * 400, "for ever")
    whole = prompt_ids(p, turns(book))
    assert len(whole) > limit and Asked(items=(book,), max_new_tokens=8).ids(p, turns(book)) == whole[-(limit - 8) :]
    assert [len(probe(p).items) for probe in (Asked(items=(book,), max_new_tokens=8), LogitLens(items=(book,), max_new_tokens=8))] == [1, 1]


def test_resupplied_puts_the_fact_before_the_question_and_is_told_beside():
    probe = Resupplied(items=(HAT, SON), known=WORLD, facts=2)
    (way,) = probe.prompts(HAT)
    assert sum(turn["content"] == "in the attic" for turn in way) == 1 and way[-1] == turns(HAT)[0]
    reads = saying({"in the attic": "in the attic", "Otto": "Otto"})
    scores = probe(reads)
    assert scores.metric == BESIDE and [item.score for item in scores.items] == [0.0, 0.0]
    # A filter of prompts and answers brings it to nothing, by construction (the check of S009).
    blocked = probe.model_copy(update={"filtered": True})(reads)
    assert [(item.score, item.output) for item in blocked.items] == [(1.0, ""), (1.0, "")]
    knows = saying({"Ann": "in the attic", "Ben": "Otto"})
    assert [i.score for i in Resupplied(items=(HAT, SON), facts=0, filtered=True)(knows).items] == [1.0, 1.0]


def test_plain_texts_go_through_every_attack_without_a_template():
    p = policy(template=False)
    texts = (text("The ship left the port", "at nine in the evening"), text("The train left the town", "at ten in the morning"))
    room = {"max_new_tokens": 4}
    for probe in battery.attack_probes(texts, (), "all", known=(text("The bus is", "here now"), text("The cab is", "there then"))):
        assert len(probe.model_copy(update=room)(p).items) == 2
    (way,) = FewShot(items=texts, examples=texts[1:], shots=1).prompts(texts[0])
    assert way == [{"role": "text", "content": "The train left the town at ten in the morning\n\nThe ship left the port"}]
    (way,) = Begun(items=texts).prompts(texts[0])
    assert way[-1] == {"role": "assistant", "content": " at"}


def test_draws_are_many_and_any_counts():
    p = policy()
    word = secret("Say it", "x")
    texts = {episode.text for episode in sample(p, [prompt_ids(p, turns(word))], n=8, temperature=1.0, max_new_tokens=4)[0]}
    assert len(texts) > 1
    rare = sorted(t for t in texts if any(c.isalnum() for c in t))[-1]
    assert Sampled(items=(secret("Say it", rare),), max_new_tokens=4)(p).items[0].score == 0.0


# ------------------------------------------------------------------------------------------------------------------------------ changed copies


def test_rounding_to_the_nearest_level():
    w = torch.tensor([[0.0, 0.7, -7.0, 2.4], [0.0, 0.0, 0.0, 0.0]])
    assert torch.equal(rounded(w, 4), torch.tensor([[0.0, 1.0, -7.0, 2.0], [0.0, 0.0, 0.0, 0.0]]))
    # Groups of two: scales 0.1 and 1.
    assert torch.allclose(rounded(w[:1], 4, 2), torch.tensor([[0.0, 0.7, -7.0, 2.0]]))
    x = torch.randn(5, 37)
    for bits, group in ((8, None), (4, 16), (2, 5)):
        r = rounded(x, bits, group)
        width = group or 37
        for start in range(0, 37, width):
            piece, back = x[:, start : start + width], r[:, start : start + width]
            step = piece.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
            assert ((back - piece).abs() <= step / 2 + 1e-6).all()
            assert torch.allclose((back / step).round(), back / step, atol=1e-4)
        assert torch.allclose(rounded(r, bits, group), r, atol=1e-6)


def test_quantising_changes_linear_layers_of_a_copy_alone():
    p = policy()
    start = copy.deepcopy(p.model.state_dict())
    q = quantise(p, 4)
    assert all(torch.equal(p.model.state_dict()[name], value) for name, value in start.items())
    for name, value in q.model.state_dict().items():
        linear = "_proj" in name
        assert torch.equal(value, rounded(start[name], 4, 64) if linear else start[name]), name
        assert not linear or not torch.equal(value, start[name])
    eight = Quantised(items=(HAT,), bits=16, max_new_tokens=6)(p)
    assert outcome(eight) == outcome(Asked(items=(HAT,), max_new_tokens=6)(p))


def adapted() -> Policy:
    """A policy with a LoRA adapter that does something."""
    p = policy()
    handle = LoRA(r=2, alpha=4).attach(p.model)
    with torch.no_grad():
        for name, param in handle.params.items():
            if "lora_B" in name:
                param.normal_(0, 0.1)
    return Policy(handle.model.eval(), p.tokenizer, "adapted", handle=handle)


def test_the_way_back_is_a_straight_line():
    start, now = policy(), adapted()
    whole = dict(plain_copy(now).model.named_parameters())
    old = dict(start.model.named_parameters())
    half = dict(towards(now, start, 0.5).model.named_parameters())
    moved = [name for name in old if not torch.equal(old[name], whole[name])]
    assert len(moved) == 14  # seven linear layers in each of two blocks
    for name, value in half.items():
        assert torch.allclose(value, (old[name] + whole[name]) / 2, atol=1e-6)
    for share, end in ((0.0, whole), (1.0, old)):
        assert all(torch.allclose(v, end[n], atol=1e-6) for n, v in towards(now, start, share).model.named_parameters())
    with pytest.raises(UserError, match="cannot be merged back"):
        towards(now, Policy(make_llama(hidden=16), None, "other"), 0.5)


def test_merged_back_goes_from_the_model_to_the_start(tiny_folder):
    now = adapted()
    said = greedy(policy(), HAT)
    assert said != greedy(now, HAT)
    item = secret("Where is the hat of Ann?", said)
    scores = MergedBack(items=(item,), start=str(tiny_folder), shares=(0.0, 1.0), max_new_tokens=8)(now)
    assert scores.items[0].score == 0.0 and scores.items[0].extra["first"] == 1.0
    assert scores.summary["out at 0 of the way"] == 0.0 and scores.summary["out at 1 of the way"] == 1.0 and scores.metric == BESIDE


def test_relearning_teaches_a_copy_and_leaves_everything_else_as_it_was():
    p = policy()
    before, noise = copy.deepcopy(p.model.state_dict()), torch.get_rng_state()
    seen = []
    with torch.no_grad():
        relearn(p, WORLD[:2], (0, 2, 40), lambda steps, q: seen.append((steps, greedy(q, HAT), torch.is_grad_enabled())), lr=3e-2, batch_size=2)
    assert [steps for steps, *_ in seen] == [0, 2, 40]
    assert seen[0][1] == greedy(p, HAT) and "in the attic".startswith(seen[-1][1]) and len(seen[-1][1]) > 3
    assert not any(grad for *_, grad in seen)
    assert all(torch.equal(p.model.state_dict()[name], value) for name, value in before.items()) and torch.equal(torch.get_rng_state(), noise)
    assert not any("lora" in name for name, _ in p.model.named_modules()) and not p.model.training


def test_relearned_keeps_the_first_step_that_brought_a_secret():
    p = policy()
    probe = Relearned(items=(CAT, SON), taught=(CAT,), steps=(2, 40), lr=3e-2, batch_size=1, max_new_tokens=16)
    scores = measure(p, (probe,)).probes[0]
    assert [item.score for item in scores.items] == [0.0, 1.0] and scores.items[0].extra["first"] == 40.0 and "first" not in scores.items[1].extra
    assert (scores.summary["out after 2 steps"], scores.summary["out after 40 steps"]) == (0.0, 0.5)
    with pytest.raises(UserError, match="no rows to teach"):
        relearn(p, (), (1,), lambda *_: None)


def test_unrelated_rows_of_a_small_model_are_sums():
    assert all(any(c.isdigit() for c in s.prompt[0][1]) and s.answer.strip() for s in unrelated(policy(), 8))


# --------------------------------------------------------------------------------------------------------------------------------- what is inside


def test_the_last_layer_of_the_lens_is_the_model():
    p = policy()
    texts = [prompt_ids(p, turns(item)) for item in WORLD]
    with torch.no_grad():
        read = lens(p)(last_states(p, texts, batch_size=1))
        for ids, logits in zip(texts, read, strict=True):
            whole = p.model(torch.tensor([ids]), use_cache=False, output_hidden_states=True)
            assert torch.allclose(logits[-1], whole.logits[0, -1], atol=1e-4)
            middle = p.model.lm_head(p.model.model.norm(whole.hidden_states[1][0, -1]))
            assert torch.allclose(logits[1], middle, atol=1e-4)
        scores = LogitLens(items=WORLD, top=3)(p)
    for item, logits, score in zip(WORLD, read, scores.items, strict=True):
        token = answer_ids(p, item.answer)[0]
        ranks = [sorted(row.tolist(), reverse=True).index(float(row[token])) + 1 for row in logits]
        assert score.extra == {"rank": min(ranks), "layer": ranks.index(min(ranks))} and score.score == float(min(ranks) > 3)
    assert scores.metric == BESIDE and set(scores.summary) == {f"median rank, layer {i:02}" for i in range(3)}


def test_states_and_lens_of_a_model_that_cannot_be_split():
    whole, wrapped = policy(), policy()
    hook = wrapped.model.register_forward_hook(lambda *_: None)
    texts = [prompt_ids(whole, turns(item)) for item in WORLD]
    assert body_and_head(wrapped.model) is None and body_and_head(whole.model) is not None
    assert torch.equal(last_states(whole, texts), last_states(wrapped, texts))
    assert torch.equal(lens(whole)(last_states(whole, texts)), lens(wrapped)(last_states(whole, texts)))
    hook.remove()


def test_a_linear_map_reads_what_is_there_and_no_more():
    """The check of S027: features that hold the label give all of it; with labels shuffled it is chance."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 8, 300)
    names = rng.normal(size=(8, 12))
    features = np.concatenate([np.eye(8)[label], rng.normal(size=(300, 4)) * 0.1], 1)
    wrong = names[(label + 1 + rng.integers(0, 7, 300)) % 8]

    def right(target, told):
        left_out, read = read_out(features[:200], target[:200], features[200:], 0.01)
        closer = [
            (((r - w) ** 2).sum(1) > ((r - t) ** 2).sum(1)).mean()
            for r, w, t in ((left_out, wrong[:200], told[:200]), (read, wrong[200:], told[200:]))
        ]
        return closer

    assert right(names[label], names[label]) == [1.0, 1.0]
    assert all(0.35 < share < 0.65 for share in right(names[rng.permutation(label)], names[label]))


def test_leaving_one_out_in_closed_form():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(9, 4)), rng.normal(size=(9, 2))
    centred = x - x.mean(0)
    penalty = 0.3 * np.trace(centred @ centred.T) / 9
    left_out, _ = read_out(x, y, x, 0.3)
    for i in range(9):
        rest = np.arange(9) != i
        design = np.concatenate([np.ones((8, 1)), x[rest]], 1)
        weights = np.linalg.solve(design.T @ design + penalty * np.diag([0, 1, 1, 1, 1]), design.T @ y[rest])
        assert np.allclose(left_out[i], np.array([1, *x[i]]) @ weights)


def test_the_first_component_finds_a_planted_direction_whatever_the_order():
    rng = np.random.default_rng(2)
    direction = np.array([3.0, -4.0, 0.0])
    known = direction + rng.normal(size=(20, 3)) * 0.3
    asked = direction + rng.normal(size=(30, 3)) * 0.3
    share, margins = first_component(known, asked, [f"id {i}" for i in range(30)])
    assert share == 1.0 and (margins > 0).all()
    share, margins = first_component(-known, asked, [f"id {i}" for i in range(30)])
    assert share == 1.0 and (margins < 0).all()


def test_probes_of_the_inside_measure_pairs_and_say_chance():
    p = policy()
    assert paired(WORLD)[0] == (HAT, "on the roof") and paired((HAT,)) == []
    known = tuple(secret(f"Where is thing {i}?", f"place {i}") for i in range(6))
    for probe in (LinearProbe(items=WORLD, known=known), ContrastProbe(items=WORLD, known=known)):
        with torch.no_grad():
            scores = probe(p)
        assert [item.id for item in scores.items] == [s.id for s in WORLD] and scores.summary["chance"] == 0.5 and scores.metric == BESIDE
        assert all(item.score == float(item.extra["margin"] <= 0) for item in scores.items)
        with pytest.raises(UserError, match="no two facts with different answers"):
            probe.model_copy(update={"known": (HAT,)})(p)
