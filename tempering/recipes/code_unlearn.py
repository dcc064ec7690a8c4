"""CodeUnlearn: MLPs speak in the codes of a codebook each, and the codes that speak of what is to go are taken out of them.

Wu, Dossou & Liu 2024 (S032, arXiv 2410.10866), `forgetting/codebook.py`. The codebook is learned once, on all rows, and is the price that is paid
before: the model that knows is the one with all codes, and it is that one which is attacked before. A request is answered by counting which codes the
forget rows use more than the retain rows, and trains nothing. The weights stay as they are, so whoever takes the codebooks off has the old
model.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tempering.config import Budget
from tempering.errors import UserError
from tempering.experiment import Experiment, Report
from tempering.forgetting.attacked import Attacked, Request

CATALOGUE = ("S032",)


def code_unlearn(
    model: str = "builtin:tiny",
    request: Request = Request(),
    layers: tuple[Annotated[int, Field(ge=0)], ...] = (1, 2, 3),
    codes: Annotated[int, Field(ge=2)] = 512,
    top: Annotated[int, Field(ge=1)] = 8,
    learn_steps: Annotated[int, Field(ge=0)] = 200,
    learn_lr: Annotated[float, Field(gt=0)] = 1e-3,
    enriched: float = 1.0,
    most: Annotated[int, Field(ge=0)] = 32,
    budget: Budget = Budget(),
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Report:
    """Give a model a codebook, take the codes of some rows out of it, and try to get the rows out all the same.

    Args:
        model: hub id, folder, .gguf file, builtin:tiny or builtin:smollm2-135m; its blocks need an `mlp`.
        request: what is to go and to stay, and how it is attacked.
        layers: the blocks whose MLPs get a codebook, counted from 0.
        codes: how many each has.
        top: how many are added up for every token.
        learn_steps: steps of 16 rows in which the codes learn to keep all rows likely; 0 leaves them at the means of a k-means.
        learn_lr: their learning rate.
        enriched: a code goes if the forget rows use it 2 to this power times as often as the retain rows.
        most: codes of each codebook that go, at most; 0 takes none out.
        seed: of the k-means, the order of rows, and what is held out.

    Raises:
        UserError: the model has no such MLP, or so few codes would be left that `top` cannot be chosen.
    """
    from tempering.forgetting import codebook
    from tempering.forgetting.oracle import Chained

    if top + most > codes:
        raise UserError(f"--codes {codes}, --most {most}: {codes - most} would be left, and --top {top} are chosen for every token; take out fewer")
    case = Attacked(Experiment.begin(code_unlearn, locals()))
    run = case.run
    run.trains_nothing()
    every = Chained((case.going, "forget"), (case.staying, "retain"))
    with run.display.phase("learning the codebooks"):
        policy = codebook.speaking(case.policy, layers, every, codes=codes, top=top, steps=learn_steps, lr=learn_lr, seed=seed)
    case.before(policy)
    topic, other = ([s for row in rows for s in row[part]] for rows, part in ((case.going, "forget"), (case.staying, "retain")))
    used = {layer: [codebook.usage(policy.model, layer, some) for some in (topic, other)] for layer in layers}
    out = {layer: codebook.enriched(*of, least=enriched, most=most) for layer, of in used.items()}
    for layer, of in out.items():
        codebook.of(policy.model, layer).take_out(of)
    told = [{"layer": k, "out": out[k], "forget": topic_K.tolist(), "retain": other_K.tolist()} for k, (topic_K, other_K) in used.items()]
    run.folder.write("codes.json", told)
    run.display.say(", ".join(f"{len(of)} of {codes} codes of block {layer}" for layer, of in out.items()) + " go")
    return case.after(policy)
