"""A decision transformer on the trunk of a language model: what is wanted, seen and done goes in as numbers, and a head gives the next action.

A walk is the sequence R_1, s_1, a_1, R_2, s_2, a_2, ... of returns-to-go, observations and actions. Each of the three has an embedding of its own, to
which that of the time step is added before a norm (Chen et al. 2021, arXiv 2106.01345, section 3); the state at s_t is read by a linear head over the
actions. The trunk, with whatever adapters it carries, is that of the language model itself, so one set of weights reads words and walks.

The engine knows tokens, so numbers get ids: an id stands for one triple (kind, time step, numbers) and points into a table that grows with what is
met. Ids are no vocabulary: two walks that share a beginning share their ids, and with them the forward pass (forest.py), and that is all they do.

Shapes: R rows, L columns of a row, D width of the trunk, K actions, F the most numbers of any kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tempering.errors import UserError
from tempering.models.heads import body_and_head
from tempering.models.value import ValueModel
from tempering.types import Row, Segment

if TYPE_CHECKING:
    from tempering.worlds.grid import Trajectory

RETURN, OBSERVATION, ACTION = range(3)
OWN = r"^(embed|time|norm|value_head)\."
"""Names of the weights that are not the trunk's."""
FILE = "decisions.safetensors"
_TRIED = 64


class ResidualMLP(nn.Module):
    """W_2 gelu(W_1 x) + W_1 x, a non-linear embedding of `numbers` numbers (LaMo's, as its released code has it)."""

    def __init__(self, numbers: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(numbers, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., numbers] -> [..., width]."""
        x = self.first(x)
        return self.second(F.gelu(x)) + x


class DecisionTransformer(ValueModel):
    """Embeddings and an action head around a trunk. The signal "values" [T, K] at an action's token are the logits of all actions there.

    Args:
        model: a causal LM whose body is the trunk; it is shared, not copied.
        numbers: how many an observation has.
        actions: K.
        horizon: time steps at most.
        mlp: embed by a residual MLP; else by a linear layer, as plain decision transformers do.
        scale: what returns are divided by before they are embedded.

    Raises:
        UserError: the model cannot be split into body and head.
    """

    def __init__(self, model: Any, numbers: int, actions: int, horizon: int, mlp: bool = True, scale: float = 1.0) -> None:
        nn.Module.__init__(self)
        split = body_and_head(model)
        if split is None:
            raise UserError(f"a {type(model).__name__} cannot be split into body and head, so its trunk reads no walks; take another model")
        self.config = model.config
        width, device = model.config.get_text_config().hidden_size, next(model.parameters()).device
        self.sizes = {"numbers": numbers, "actions": actions, "horizon": horizon, "mlp": int(mlp)}
        self.scale = scale
        wide = (1, numbers, actions)
        self._ids: dict[tuple[float, ...], int] = {}
        # Kind, time step, numbers: [ids, 2 + F]. The first ones are made up and differ: on such ids the engine finds out how rows may be laid out
        # (heads.py, which asks the first embedding of a model how many there are).
        made_up = torch.randn(_TRIED, max(wide), generator=torch.Generator().manual_seed(0)).tolist()
        self._rows = [[float(i % len(wide)), float(i % horizon), *numbers] for i, numbers in enumerate(made_up)]
        self.table = nn.Embedding.from_pretrained(torch.tensor(self._rows), freeze=True)
        kind = ResidualMLP if mlp else nn.Linear
        self.embed = nn.ModuleList(kind(n, width) for n in wide)
        self.time = nn.Embedding(horizon, width)
        self.norm = nn.LayerNorm(width)
        self.value_head = nn.Linear(width, actions)
        nn.init.normal_(self.time.weight, std=0.02)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.to(device)
        self.backbone = split.inner

    def token(self, kind: int, time: int, numbers: Sequence[float]) -> int:
        """The id of these numbers at this time step; of an action, of its number alone.

        Raises:
            UserError: a time step beyond the horizon, an action that there is not, or another number of numbers.
        """
        if kind == ACTION:
            action = int(numbers[0])
            if not 0 <= action < self.sizes["actions"]:
                raise UserError(f"action {action}: there are {self.sizes['actions']}, numbered from 0")
            numbers = [float(i == action) for i in range(self.sizes["actions"])]
        if not 0 <= time < self.sizes["horizon"]:
            raise UserError(f"time step {time + 1}: this decision transformer knows {self.sizes['horizon']}; make it with a longer horizon")
        if len(numbers) != (expected := self.embed_numbers(kind)):
            raise UserError(f"{len(numbers)} numbers of what is seen or wanted: this decision transformer reads {expected}")
        key = (kind, time, *map(float, numbers))
        if key not in self._ids:
            self._ids[key] = len(self._rows)
            self._rows.append([*key, *[0.0] * (self.table.embedding_dim - len(key))])
        return self._ids[key]

    def embed_numbers(self, kind: int) -> int:
        """How many numbers a token of this kind has."""
        return (1, self.sizes["numbers"], self.sizes["actions"])[kind]

    def tokens(self, returns: Sequence[float], observations: Sequence[Sequence[float]], actions: Sequence[int]) -> list[int]:
        """R_1, s_1, a_1, R_2, ...; there may be one action fewer than there are observations."""
        found: list[int] = []
        for t, (wanted, seen) in enumerate(zip(returns, observations, strict=True)):
            found += [self.token(RETURN, t, [wanted / self.scale]), self.token(OBSERVATION, t, seen)]
            found += [self.token(ACTION, t, [actions[t]])] if t < len(actions) else []
        return found

    def row(self, walk: Trajectory) -> Row:
        """The walk as a row of part "train": actions are scored, and stand in the column "action"."""
        ids = self.tokens(walk.returns_to_go, walk.observations, walk.actions)
        weight, action = np.zeros(len(ids), np.float32), np.zeros(len(ids), np.float32)
        weight[ACTION::3], action[ACTION::3] = 1.0, walk.actions
        return {"train": (Segment(np.array(ids, np.int32), weight, {"action": action}),)}

    def embedded(self, ids: Tensor) -> Tensor:
        """ids [R, L] -> what goes into the trunk [R, L, D]."""
        if len(self._rows) > self.table.num_embeddings:
            device = self.table.weight.device
            self.table = nn.Embedding.from_pretrained(torch.tensor(self._rows, device=device), freeze=True).train(self.training)
        found = self.table(ids)
        which, time_RL, numbers = found[..., :1], found[..., 1].long(), found[..., 2:]
        made = [layer(numbers[..., : self.embed_numbers(kind)]) for kind, layer in enumerate(self.embed)]
        mixed = torch.where(which == RETURN, made[RETURN], torch.where(which == OBSERVATION, made[OBSERVATION], made[ACTION]))
        return self.norm(mixed + self.time(time_RL))

    def forward(self, **inputs: Any) -> Tensor:
        """input_ids, position_ids [R, L] -> last hidden states [R, L, D]."""
        return self.backbone(inputs_embeds=self.embedded(inputs.pop("input_ids")), **inputs).last_hidden_state

    def every(self, ids: Tensor) -> Tensor:
        """Logits of the actions after each observation: ids [R, L] -> [R, steps, K]."""
        positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
        return self.value_head(self(input_ids=ids, position_ids=positions, use_cache=False)[:, OBSERVATION::3]).float()

    def logits(self, ids: Tensor) -> Tensor:
        """Of the action after sequences that end with an observation: ids [R, L] -> [R, K]."""
        return self.every(ids)[:, -1]

    def classifier(self, pad_token_id: int | None) -> Any:
        """Raises `UserError`: transformers has no such model."""
        raise UserError("a decision transformer is no sequence classifier; `write` keeps what is its own, beside the language model")

    def write(self, folder: Path) -> None:
        """The weights that are not the trunk's, in `folder`."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: p.detach().contiguous() for name, p in self.own().items()}
        save_file(tensors, folder / FILE, metadata={name: repr(x) for name, x in {**self.sizes, "scale": self.scale}.items()})

    def own(self) -> dict[str, nn.Parameter]:
        """The weights that are not the trunk's, by name."""
        return {name: p for name, p in self.named_parameters() if not name.startswith(("backbone.", "table."))}

    @classmethod
    def read(cls, model: Any, folder: Path) -> DecisionTransformer:
        """What `write` wrote, around the trunk of a language model.

        Raises:
            UserError: there is nothing of the kind, or it belongs to a trunk of another width.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(folder / FILE, "pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            numbers, actions, horizon, mlp = (int(about[name]) for name in ("numbers", "actions", "horizon", "mlp"))
            scale = float(about["scale"])
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise UserError(f"{folder / FILE}: no decision transformer can be read ({type(error).__name__}); `temper run lamo` writes one") from None
        made = cls(model, numbers, actions, horizon, bool(mlp), scale)
        own = made.own()
        if {name: x.shape for name, x in tensors.items()} != {name: p.shape for name, p in own.items()}:
            raise UserError(f"{folder / FILE}: its weights have other shapes than this model's trunk asks for; give the model it was trained with")
        with torch.no_grad():
            for name, p in own.items():
                p.copy_(tensors[name])
        return made.eval()
