"""A model whose matrices are multi-linear in a smaller one's: every one of its weights depends on all of the smaller model's, by a few small cores.

    W2[b', o', i', l'] = sum_(b,o,i,l; r,s,t,u) B[r,b,b',s] O[s,o,o',t] L[t,l,l',u] I[u,i,i',r] W1[b,o,i,l]

W1 are the smaller model's matrices, cut into square tiles of its width: b counts the tiles of a block, l the blocks, o and i the rows and columns
in a tile; W2 likewise, in tiles of the new width. The cores close a ring of `rank`. They begin as copying: each new row is one of the smaller
model's, each new column is too, divided by how many copies the new model makes of what it reads, each new block is the one at the same depth, and a
little noise tells copies apart. So without noise a model that is only wider begins as the same function, where the sizes of all matrices are
multiples of the width or divide it, and queries, keys and values are matrices of their own. Embedding and output layer have a map of their own over
the width; norms and biases are copies, which later training moves.

Shapes: R rank, B tiles, L blocks, D width (of the smaller model 1, of the larger 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tempering.errors import UserError
from tempering.reshapes import Body
from tempering.reshaping.anatomy import HEAD, names_of, taken

NAME = "cores"


def sizes_of(config: Mapping[str, Any], wider: int, layers: int) -> dict[str, Any]:
    """A configuration `wider` times as wide in all that has a width, heads of the same size, with so many blocks."""
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    widths = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    grown = {name: config[name] * wider for name in widths if config.get(name)}
    kinds = {
        key: [value[i * len(value) // layers] for i in range(layers)]
        for key, value in config.items()
        if "layer" in key and isinstance(value, list) and len(value) == config["num_hidden_layers"]
    }
    return {**config, **grown, **kinds, "num_hidden_layers": layers, "head_dim": head}


def larger(model: Any, wider: int, layers: int, seed: int = 0) -> Any:
    """A random model of the same kind, so many times as wide and with so many blocks.

    Raises:
        UserError: an architecture whose parts are not known, or fewer blocks than there are.
    """
    names_of(model)
    if layers < model.config.num_hidden_layers:
        raise UserError(f"{layers} layers: the model has {model.config.num_hidden_layers} and cannot grow to fewer; give as many or more")
    config = type(model.config).from_dict(sizes_of(model.config.to_dict(), wider, layers))
    # Of a plan's model, which has shapes alone, comes such a one.
    with torch.random.fork_rng(devices=[]), model.device:
        torch.manual_seed(seed)
        made = type(model)(config).to(model.dtype)
    made.generation_config = model.generation_config
    return made.eval()


def tiles_of(body: Body) -> dict[str, tuple[int, int]]:
    """How many tiles each matrix of a block has: over its rows, over its columns."""
    width = body.sizes["hidden"]
    return {name: (-(-t.shape[0] // width), -(-t.shape[1] // width)) for name, t in sorted(body.blocks[0].items()) if t.dim() == 2}


def tiled(body: Body) -> Tensor:
    """The matrices of all blocks as [B, D, D, L]; what does not fill its tile stands in it again."""
    width = body.sizes["hidden"]
    layers = []
    for block in body.blocks:
        tiles = []
        for name in tiles_of(body):
            for row in block[name].split(width, 0):
                for tile in row.split(width, 1):
                    here = torch.arange(width)
                    tiles.append(tile[here % tile.shape[0]][:, here % tile.shape[1]])
        layers.append(torch.stack(tiles))
    return torch.stack(layers, -1)


class Cores(nn.Module):
    """The cores of the ring, and the map of the width [D1, D2] for what is outside the blocks.

    Args:
        small: the smaller model, taken apart.
        body: the larger one; of it the shapes count.
        rank: of the ring; 1 is a Kronecker product.
        noise: the deviation of what is added to each core's entries, in shares of its own root mean square.
    """

    weights: Tensor
    """The smaller model's matrices [B, D1, D1, L1]."""

    def __init__(self, small: Body, body: Body, rank: int, noise: float, seed: int) -> None:
        super().__init__()
        self.tiles = tiles_of(body)
        if self.tiles != tiles_of(small):
            raise UserError(
                f"the larger model's matrices have {self.tiles} tiles of its width, the smaller one's {tiles_of(small)}; they must be alike"
            )
        d1, d2 = small.sizes["hidden"], body.sizes["hidden"]
        l1, l2 = len(small.blocks), len(body.blocks)
        count = sum(rows * columns for rows, columns in self.tiles.values())
        self.register_buffer("weights", tiled(small).detach().clone(), persistent=False)
        rows = torch.zeros(d1, d2)
        rows[torch.arange(d2) % d1, torch.arange(d2)] = 1.0
        depth = torch.zeros(l1, l2)
        depth[torch.arange(l2) * l1 // l2, torch.arange(l2)] = 1.0
        generator = torch.Generator().manual_seed(seed)
        starts = {"b": torch.eye(count), "o": rows, "l": depth, "i": rows * d1 / d2}
        for name, start in starts.items():
            core = torch.zeros(rank, *start.shape, rank)
            core[0, :, :, 0] = start
            core += noise * float(start.square().mean().sqrt()) * torch.randn(core.shape, generator=generator)
            self.register_parameter(name, nn.Parameter(core.to(self.weights.dtype)))
        self.width = nn.Parameter(rows.to(self.weights.dtype))
        self.starts = {name: p.detach().clone() for name, p in self.named_parameters()}
        self.on = True

    def core(self, name: str) -> Tensor:
        """A core as it is, or as it was at the start while this is off."""
        return getattr(self, name) if self.on else self.starts[name].to(self.weights.device)

    def matrix(self, name: str, layer: int, shape: torch.Size) -> Tensor:
        """A matrix of a block of the larger model."""
        # Tiles stand in the order of their matrices' names.
        before = sum(rows * columns for other, (rows, columns) in self.tiles.items() if other < name)
        rows, columns = self.tiles[name]
        return torch.cat(
            [torch.cat([self.tile(before + r * columns + c, layer) for c in range(columns)], 1) for r in range(rows)]
        )[: shape[0], : shape[1]]  # fmt: skip

    def tile(self, b: int, layer: int) -> Tensor:
        """One tile [D2, D2] of a block."""
        mixed = torch.einsum("rbs,tlu,boil->rstuoi", self.core("b")[:, :, b], self.core("l")[:, :, layer], self.weights)
        tall = torch.einsum("rstuoi,sopt->rupi", mixed, self.core("o"))
        return torch.einsum("rupi,uiqr->pq", tall, self.core("i"))


class _Matrix(nn.Module):
    """In the place of a matrix of a block: what the cores make of the smaller model."""

    def __init__(self, cores: Cores, name: str, layer: int) -> None:
        super().__init__()
        # In a tuple, so that they are not registered once for every weight.
        self.cores, self.place = (cores,), (name, layer)

    def forward(self, here: Tensor) -> Tensor:
        # In the weights' own precision, whatever products are taken in.
        with torch.autocast(here.device.type, enabled=False):
            return self.cores[0].matrix(*self.place, here.shape).to(here.dtype)


class _Table(nn.Module):
    """In the place of the embedding or the output layer: the smaller model's, over the new width."""

    table_VD: Tensor

    def __init__(self, cores: Cores, table_VD: Tensor, share: float) -> None:
        super().__init__()
        self.cores, self.share = (cores,), share
        self.register_buffer("table_VD", table_VD.detach().clone(), persistent=False)

    def forward(self, here: Tensor) -> Tensor:
        with torch.autocast(here.device.type, enabled=False):
            return (self.share * (self.table_VD @ self.cores[0].core("width"))).to(here.dtype)


class Grown:
    """The scope of a larger model of which only the cores train.

    Args:
        small: the model that it grows from, which stays as it is.
        rank, noise, seed: of the cores.
    """

    kind = "grown"

    def __init__(self, small: nn.Module, rank: int = 1, noise: float = 0.0, seed: int = 0) -> None:
        self.small, self.rank, self.noise, self.seed = small, rank, noise, seed

    def attach(self, model: nn.Module) -> GrownHandle:
        """Put what the cores give in the place of every matrix, and copies in that of everything else."""
        small = taken(self.small)
        with torch.no_grad():
            return GrownHandle(model, small, Cores(small, taken(model), self.rank, self.noise, self.seed))


class GrownHandle:
    """`off()` is the larger model with the cores as they began; `bake()` leaves plain weights."""

    def __init__(self, model: nn.Module, small: Body, cores: Cores) -> None:
        self.model, self.names = model.requires_grad_(False), names_of(model)
        self.cores = cores.to(next(model.parameters()).device)
        self.places: list[tuple[nn.Module, str, nn.Parameter]] = []
        config: Any = model.config
        tied, wider = bool(config.tie_word_embeddings), config.hidden_size // small.sizes["hidden"]
        blocks, last = len(small.blocks), f"{self.names.last}."
        # A model that multiplies its embedding by the root of the width would do so with the new one.
        share = wider**-0.5 if small.scaled else 1.0
        # What reads the stream last would count every copy; tied to the embedding, the output layer cannot take its share.
        ends = wider * share if tied else 1.0
        for name, weight in list(model.named_parameters(remove_duplicate=False)):
            inside, layer = name.removeprefix(f"{self.names.blocks}."), 0
            if inside != name:
                number, _, inside = inside.partition(".")
                layer = int(number)
                source = small.blocks[layer * blocks // config.num_hidden_layers][inside]
            else:
                source = small.outer[f"{self.names.embedding}.weight" if name == HEAD and tied else name]
            if weight.dim() == 1:
                copied = source[torch.arange(len(weight)) % len(source)]
                offset = 1 - small.unit if name.endswith("weight") else 0.0
                weight.copy_((copied + offset) / ends - offset if name.startswith(last) and ends != 1 else copied)
            elif inside != name:
                self._put(name, weight, _Matrix(self.cores, inside, layer))
            else:
                self._put(name, weight, _Table(self.cores, source, 1 / wider if name == HEAD and not tied else share))
        model.add_module(NAME, self.cores)
        self.params = {f"{NAME}.{name}": p for name, p in sorted(self.cores.named_parameters())}

    def _put(self, name: str, weight: nn.Parameter, made: nn.Module) -> None:
        owner, _, leaf = name.rpartition(".")
        module = self.model.get_submodule(owner)
        parametrize.register_parametrization(module, leaf, made.to(weight.device), unsafe=True)
        self.places.append((module, leaf, weight))

    def keep_reference(self) -> None:
        """Nothing to keep: the cores remember how they began."""

    @contextmanager
    def off(self) -> Iterator[nn.Module]:
        self.cores.on = False
        try:
            yield self.model
        finally:
            self.cores.on = True

    def bake(self) -> nn.Module:
        with torch.no_grad():
            made = [getattr(module, leaf) for module, leaf, _ in self.places]
            for (module, leaf, weight), value in zip(self.places, made, strict=True):
                parametrize.remove_parametrizations(module, leaf, leave_parametrized=False)
                weight.copy_(value)
        self.places = []
        if hasattr(self.model, NAME):
            delattr(self.model, NAME)
        return self.model.requires_grad_(True)
