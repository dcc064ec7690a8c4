"""The flags of `temper run`: a recipe's own fields in their shortest spellings, and the options of every run; words become flag=value here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tempering.cli import fields as f
from tempering.cli.values import Signature
from tempering.docstrings import field_docs
from tempering.errors import UserError
from tempering.index import closest

LATEST, WINDOW = "latest", "3:3"


def setting(command: str, flag: str, method: str, known: Collection[str]) -> str:
    """The setting of a method that a flag names.

    Raises:
        UserError: the method has none of that name.
    """
    key = flag.replace("-", "_")
    if key not in known:
        raise UserError(
            f"temper {command}: there is no flag --{flag}, and {method} has no such setting{closest(key, known)}; it has {', '.join(known)}"
        )
    return key


@dataclass(frozen=True)
class Generic:
    """Options of every run, whatever the recipe."""

    config: str | None = None
    """YAML or JSON file of values for this recipe, or an earlier run's folder; flags win over it."""
    out: str | None = None
    """The run's folder; by default a new one under runs/."""
    resume: str | None = None
    """Continue a run that stopped: its folder, or without a value the newest unfinished run of this recipe."""
    again: bool = False
    """Run even though a run with the same inputs has finished."""
    log: list[str] | None = None
    """Show the run in a tracker too: tensorboard, trackio, wandb or mlflow; several with commas, or by giving the flag again."""
    profile: str | None = None
    """Profile steps into profile.json.gz in the run's folder: START:STEPS, without a value 3:3."""
    dry_run: bool = False
    """Print the resolved values and stop."""
    processes: int = 1
    """Processes of this machine that share the weights and each step (FSDP2), one for each GPU; torchrun may be used instead."""
    tensor_parallel: int = 1
    """How many of these processes share each matrix side by side (tensor parallelism); the number of processes must be a multiple of it."""
    cluster: str | None = None
    """A Ray cluster that runs the processes: ray://host:port, or local for a small one here; needs the extra "ray"."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class SweepOptions(Generic):
    """Options of a sweep: those of its runs, and one of its own."""

    scaling: str | None = None
    """A swept flag: how the gain grows with it, a table, a power law and a picture at the end. Other swept flags (seeds) repeat it."""


METAVARS = {"config": "FILE", "out": "FOLDER", "resume": "[RUN]", "log": "TRACKER", "profile": "[START:STEPS]"}
METAVARS |= {"processes": "N", "tensor_parallel": "N", "cluster": "ADDRESS", "scaling": "FLAG"}
"""Options that take a value -> what help calls it."""
IN_FILES = {"log": "a tracker's name, or a list of them", "profile": "START:STEPS, in quotes"}
"""The run's options that a config file may hold -> what they are."""
_OPTIONAL = {"resume": LATEST, "profile": WINDOW}
"""Options whose value may be left out -> what it is then."""


def hyphened(name: str) -> str:
    """A spelling as a flag: batch_size -> --batch-size."""
    return "--" + name.replace("_", "-")


def flag_of(signature: Signature, field: f.Field) -> str:
    """The shortest flag of a field."""
    return hyphened(signature.spellings[field.dotted][0])


def takes(name: str) -> str:
    """Whether one of a command's own options takes a value: optional, value, switch."""
    return "optional" if name in _OPTIONAL else "value" if name in METAVARS else "switch"


def normalise(tokens: Sequence[str], signature: Signature, generic: type = Generic) -> Iterator[str]:
    """Tokens with every flag in its shortest spelling and joined to its value (`--flag=value`); `generic` has the command's own options.

    Raises:
        UserError: an unknown flag, a flag without its value, or a value without a flag.
    """
    i = 0
    while i < len(tokens):
        token = tokens[i]
        i += 1
        if token in ("--help", "-h"):
            yield "--help"
            continue
        if not token.startswith("--") or token == "--":
            raise UserError(f"unexpected argument {token!r}; values are given as flags, for example --data {token if token != '--' else 'FILE'}")
        name, equals, value = token[2:].partition("=")
        flag, takes = _resolve_flag(name, signature, generic)
        if takes == "value" and not equals:
            if i >= len(tokens) or _is_flag(tokens[i], signature, generic):
                raise UserError(f"{token} needs a value{_wanted(name, signature)}")
            value, i = tokens[i], i + 1
        elif takes == "switch" and not equals and i < len(tokens) and tokens[i].lower() in ("true", "false", "yes", "no"):
            value, i, equals = tokens[i], i + 1, "="
        elif takes == "optional" and not equals:
            given = i < len(tokens) and not tokens[i].startswith("--")
            value, i = (tokens[i], i + 1) if given else (_OPTIONAL[name.replace("-", "_")], i)
        yield flag if takes == "switch" and not equals else f"{flag}={value}"


def _is_flag(token: str, signature: Signature, generic: type) -> bool:
    if not token.startswith("--"):
        return False
    try:
        _resolve_flag(token[2:].partition("=")[0], signature, generic)
    except UserError:
        return False
    return True


def _wanted(name: str, signature: Signature) -> str:
    field = signature.find(name)
    return f": {f.expected(field.hint)}" if field and not field.choices else f": one of {', '.join(field.choices)}" if field else ""


def _resolve_flag(name: str, signature: Signature, generic: type) -> tuple[str, str]:
    """(canonical flag, "value" | "switch" | "optional")."""
    field = signature.find(name)
    if field is not None:
        return flag_of(signature, field), "switch" if field.is_bool and len(f.options(field.hint)) == 1 else "value"
    own = name.replace("-", "_")
    if own in field_docs(generic):
        return hyphened(own), takes(own)
    if name.startswith("no-") and (field := signature.find(name[3:])) is not None and field.is_bool:
        return "--no-" + flag_of(signature, field)[2:], "switch"
    for dotted, owner in signature.fields.items():
        for spelled in signature.spellings[dotted]:
            if owner.is_dict and name.replace("-", "_").startswith(spelled + "."):
                return f"{flag_of(signature, owner)}.{name[len(spelled) + 1 :]}", "value"
    head, dot, key = name.partition(".")
    same = [
        hyphened(d) + dot + key
        for d, owner in signature.fields.items()
        if d.rpartition(".")[2] == head.replace("-", "_") and (owner.is_dict or not dot)
    ]
    known = [hyphened(n) for n in (*signature.known(), *field_docs(generic))]
    hint = f"; did you mean {' or '.join(same)}?" if same else signature.foreign(name) or closest("--" + name, known)
    raise UserError(f"recipe {signature.typed} has no flag --{name}{hint or f'; `temper run {signature.typed} --help` lists them'}")
