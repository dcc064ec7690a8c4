"""Width pruning (Minitron): neurons, heads and channels of the stream that say least on some rows are cut out.

    neuron:   | act(gate x) * up x |     what goes into the down projection
    head:     | attention_h |            what a group of heads gives to the output projection
    channel:  | norm(x)_i |              over all norms of all blocks

Muralidharan et al. 2024, arXiv 2407.14679 ("Compact Language Models via Pruning and Knowledge Distillation"): importance from forward passes alone,
on about a thousand rows; then the small model is trained by distillation from the large one, which is `temper run forward_kl --teacher PARENT`.
Norms here are over all tokens of all rows (the paper takes the mean within a row first). Heads with common keys and values go together. Kept ones
stay in their order, so keeping all gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tempering.errors import UserError
from tempering.reshapes import Body, Seen

CATALOGUE = ("S085",)

Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class WidthPruning:
    """What share of each is kept."""

    preserves: ClassVar[bool] = False
    looks: ClassVar[bool] = True
    neurons: Share = 0.5
    """Of every MLP, each by its own importance."""
    heads: Share = 1.0
    """Of every attention, as groups with one key and value."""
    width: Share = 1.0
    """Of the channels of the stream, the same in all blocks."""

    def __call__(self, body: Body, seen: Seen | None) -> Body:
        assert seen is not None
        groups, neurons = (self._inputs(body, seen, axis) for axis in ("group", "neuron"))
        if self.width < 1:
            if "rms_norm_eps" not in body.config:
                raise UserError(f"--width: heads of a {body.config['model_type']} are cut from the width; prune neurons or layers")
            channels = _best(seen.stream.tolist(), self.width)
            body = body.kept("hidden", [channels] * len(body.blocks))
        if self.heads < 1:
            if "num_key_value_heads" not in body.config:
                raise UserError(f"--heads: heads of a {body.config['model_type']} are cut from the width, so none can be taken out; prune neurons")
            body = body.kept("group", [_best(of, self.heads) for of in groups])
        return body.kept("neuron", [_best(of, self.neurons) for of in neurons])

    def _inputs(self, body: Body, seen: Seen, axis: Any) -> list[list[float]]:
        """Block by block, the norm of what each neuron or group gives to its output projection."""
        (name,) = (name.removesuffix(".weight") for name, counts in body.axes.items() if counts == ("hidden", axis))
        return [of[name].square().view(body.sizes[axis], -1).sum(1).tolist() for of in seen.inputs]


def _best(importance: Sequence[float], share: float) -> list[int]:
    """The places of the largest share (at least one), in their order; of equals the first."""
    count = max(1, round(share * len(importance)))
    return sorted(sorted(range(len(importance)), key=lambda i: -importance[i])[:count])
