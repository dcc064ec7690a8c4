"""`temper run RECIPE`: flags made from the recipe's signature, a config file under them, and the run's own options beside them."""

from __future__ import annotations

import inspect
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tempering.cli import fields as f
from tempering.cli.files import Located, read_config
from tempering.cli.flags import IN_FILES, LATEST, METAVARS, Generic, flag_of, hyphened, normalise, takes
from tempering.cli.several import elsewhere
from tempering.cli.show import say, show_ledger, show_verdict
from tempering.cli.values import Given, Signature, jsonable
from tempering.distributed import word
from tempering.docstrings import field_docs
from tempering.errors import GateFailed, Interrupted, UserError
from tempering.index import first_sentence, load_recipe

if TYPE_CHECKING:
    from tempering.experiment import Report

__all__ = ["Generic", "command", "execute", "hyphened", "normalise", "resolve", "run", "watched"]

# -------------------------------------------------------------------------------------------------------------------- the command for one recipe


def command(
    spec: str, recipe: Callable[..., Any], act: Callable[[Signature, list[Given], Any], int] | None = None, options: type = Generic
) -> Callable[..., int]:
    """A function for cyclopts whose flags are the recipe's fields and those of `options`; it resolves them and runs the recipe (or calls `act`)."""
    from cyclopts import Group, Parameter

    signature = Signature(recipe, spec)
    parameters = []
    groups: dict[str, Group] = {}
    order = list(dict.fromkeys([*(field.group for field in signature.fields.values()), "", "run"]))

    def group(name: str) -> Group:
        if name not in groups:
            title = {"": f"Recipe {signature.name}", "run": "This run"}.get(name, name.capitalize())
            about = signature.parameters[name].doc if name in signature.parameters else ""
            groups[name] = Group(title, help=about, sort_key=order.index(name))
        return groups[name]

    def add(key: str, hint: Any, **how: Any) -> None:
        annotation = Annotated[hint, Parameter(**how)]
        parameters.append(inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))

    for dotted, field in signature.fields.items():
        flags = [hyphened(name) for name in signature.spellings[dotted]]
        every = signature.fields[f"{field.group}.kind"].choices if field.kinds else ()
        about = field.doc + (f" ({_owners(field.kinds, every)})" if field.kinds else "")
        default = "required" if field.default is f.MISSING else _shown(field.default)
        common = {"name": flags, "help": about, "group": group(field.group), "show_default": lambda _, text=default: text}
        if field.is_bool and len(f.options(field.hint)) == 1:
            add(dotted.replace(".", "__"), bool | None, negative=[f"--no-{flags[0][2:]}"], **common)
        elif field.is_dict:
            add(dotted.replace(".", "__"), dict[str, str] | None, negative="", metavar="KEY VALUE", **common)
        elif field.is_list:
            add(dotted.replace(".", "__"), list[str] | None, negative="", metavar="TEXT", **common)
        elif field.choices and not f.allows_none(field.hint):
            add(dotted.replace(".", "__"), str | None, choices=field.choices, **common)
        else:
            add(dotted.replace(".", "__"), str | None, metavar=_metavar(field.hint), **common)
    for name, about in field_docs(options).items():
        if takes(name) == "switch":
            add(f"run__{name}", bool | None, name=[hyphened(name)], negative="", help=about, group=group("run"), show_default=False)
        else:
            kind: Any = {"log": list[str], "processes": int, "tensor_parallel": int}.get(name, str)
            metavar = METAVARS[name]
            add(f"run__{name}", kind | None, name=[hyphened(name)], help=about, group=group("run"), metavar=metavar, show_default=False)

    def body(**bound: Any) -> int:
        given = [g for key, value in bound.items() if not key.startswith("run__") and value is not None for g in _given(signature, key, value)]
        generic = options(**{key[5:]: value for key, value in bound.items() if key.startswith("run__") and value is not None})
        return (act or execute)(signature, given, generic)

    body.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    body.__annotations__ = {p.name: p.annotation for p in parameters}
    body.__doc__ = first_sentence(recipe.__doc__ or "")
    body.__name__ = signature.name
    body.recipe_signature = signature  # type: ignore[attr-defined]
    return body


def _given(signature: Signature, key: str, value: Any) -> Iterator[Given]:
    field = signature.fields[key.replace("__", ".")]
    flag = flag_of(signature, field)
    if isinstance(value, dict):
        for inner, text in value.items():
            yield Given((*field.path, inner), text, f"{flag}.{inner}")
    else:
        yield Given(field.path, value, flag)


def _owners(kinds: Sequence[str], every: Sequence[str]) -> str:
    """ "only a or b", "not a or b", or only the first few of many."""
    others = [kind for kind in every if kind not in kinds]
    if len(others) < min(6, len(kinds)):
        return f"not {' or '.join(others)}"
    return f"only {' or '.join(kinds)}" if len(kinds) <= 6 else f"only {', '.join(kinds[:5])} and {len(kinds) - 5} more"


def _metavar(hint: Any) -> str:
    names = {int: "INT", float: "NUMBER", str: "TEXT", bool: "BOOL"}
    return "|".join(dict.fromkeys(names.get(option, "VALUE") for option in f.options(hint)))


def _shown(value: Any) -> str:
    if isinstance(value, dict | tuple | list) and not value:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# ----------------------------------------------------------------------------------------------------------------------------------- running it


def execute(signature: Signature, given: Sequence[Given], generic: Generic) -> int:
    """Resolve the values, run the recipe, and print the ledger.

    Raises:
        UserError: wrong values, or what the recipe itself refuses.
        GateFailed: a gate of the run's budget did not hold.
        ProcessFailed: a process of a run of several failed or died.
    """
    arguments, resume = resolve(signature, given, generic)
    if generic.dry_run:
        signature.refused(arguments)
        say(json.dumps({"recipe": signature.name, "values": jsonable(arguments)}, indent=2, ensure_ascii=False))
        return 0
    if (code := elsewhere(generic.processes, generic.cluster, generic.tensor_parallel)) is not None:
        return code
    report = call(signature, arguments, watched(signature, generic), resume, shlex.join(["temper", *sys.argv[1:]]))
    if report is None:
        return 0  # a recipe of one's own need not return a report
    if word.rank() == 0:
        show_ledger(report.ledger)
        show_verdict(report.folder)
    if report.failed_gates:
        raise GateFailed("; ".join(report.failed_gates) + f"; see {report.folder}")
    return 0


def resolve(signature: Signature, given: Sequence[Given], generic: Generic) -> tuple[dict[str, Any], Path | None]:
    """(the recipe's arguments, the run to resume)."""
    base: list[Given] = []
    resume = _resumed(signature, generic.resume) if generic.resume else None
    if generic.config:
        path, values, recipe = read_config(generic.config)
        # A loss that runs by its own name is that name here, and its family's recipe in the config.json of a run.
        if recipe is not None and recipe not in (signature.name, signature.typed):
            raise UserError(f"--config {path}: holds values of recipe {recipe}, not of {signature.name}; run `temper run {recipe} --config {path}`")
        base = signature.from_config(path, _recipe_values(signature, values))
    if resume is None:
        return signature.resolve([*base, *given]), None
    path, values, recipe = read_config(resume)
    if recipe is not None and recipe != signature.name:
        raise UserError(f"--resume {resume}: is a run of recipe {recipe}, not of {signature.name}; use `temper run {recipe} --resume {resume}`")
    stored = signature.from_config(path, _recipe_values(signature, values))
    arguments = signature.resolve(stored)
    asked = _flat(jsonable(signature.resolve([*stored, *base, *given])))
    for name, value in _flat(jsonable(arguments)).items():
        if asked.get(name) != value:
            other = asked.get(name, "something else")
            raise UserError(
                f"--resume {resume}: the run was started with {name} = {value}, not {other}; resume without that flag, or start a new run"
            )
    return arguments, resume


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, dict) and value else {above + name: value}
    return flat


def _resumed(signature: Signature, wanted: str) -> Path:
    from tempering.cli.runs import find_runs

    if wanted == LATEST:
        unfinished = [run for run in find_runs(Path("runs")) if run.recipe == signature.name and run.state != "done"]
        if not unfinished:
            raise UserError(f"--resume: there is no unfinished run of {signature.name} under runs/; give its folder, --resume FOLDER")
        return unfinished[0].folder
    folder = Path(wanted)
    if not (folder / "config.json").is_file():
        what = "there is no such folder" if not folder.is_dir() else "it holds no config.json, so it is not a run"
        raise UserError(f"--resume {wanted}: {what}; `temper runs` lists the runs")
    return folder


def _recipe_values(signature: Signature, values: Mapping[str, Located]) -> dict[str, Located]:
    """A config file's values without the run's own options, which a file may hold too."""
    return {name: value for name, value in values.items() if name not in IN_FILES or name in signature.parameters}


def watched(signature: Signature, generic: Generic) -> Generic:
    """The options with those of the config file under them.

    Raises:
        UserError: the file's are not texts.
    """
    if not generic.config:
        return generic
    path, values, _ = read_config(generic.config)
    for name in IN_FILES:
        if name in values and name not in signature.parameters and not getattr(generic, name):
            value = values[name].plain()
            texts = value if isinstance(value, list) and name == "log" else [value]
            if not texts or not all(isinstance(text, str) for text in texts):
                raise UserError(f"{path} line {values[name].line}: {name}: expected {IN_FILES[name]}, got {value!r}")
            generic = replace(generic, **{name: texts if name == "log" else value})
    return generic


def call(signature: Signature, arguments: Mapping[str, Any], generic: Generic, resume: Path | None, command: str) -> Report | None:
    """Run the recipe as an experiment, with the run's options where experiments look for them.

    Raises:
        UserError: an unknown tracker or one that is not installed, a malformed window to profile, or what the recipe refuses.
    """
    from tempering.experiment import execute
    from tempering.logs import chosen
    from tempering.options import Options
    from tempering.profiling import Window

    options = Options(
        out=Path(generic.out) if generic.out else None,
        resume=resume,
        again=generic.again,
        log=chosen(generic.log or ()),
        profile=Window.parse(generic.profile) if generic.profile else None,
        command=command,
        tensor=generic.tensor_parallel,
    )
    try:
        return execute(signature.recipe, arguments, options)
    except Interrupted as stop:
        # The experiment knows its function's name only; a recipe of one's own is called by its file.
        raise Interrupted(str(stop).replace(f"temper run {signature.name} ", f"temper run {signature.spec} ")) from None


def run(
    recipe: str | Callable[..., Any],
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    again: bool = False,
    log: str | Sequence[str] = (),
    profile: str | None = None,
    **values: Any,
) -> Any:
    """Run a recipe and give its report: `tp.run("sft", model="builtin:tiny", data="my.jsonl", scope="lora", lr=1e-4)`.

    Args:
        recipe: its name, `path/to/file.py:function`, or the function itself.
        out: the run's folder; a new one under runs/ by default.
        resume: folder of a run to continue.
        again: run although the same inputs finished before.
        log: trackers to show the run in: "tensorboard", "trackio", "wandb", "mlflow", one or several.
        profile: steps to profile, "START:STEPS".
        values: the recipe's arguments, as objects, mappings, or in the command line's short spellings.

    Raises:
        UserError: wrong values or input.
    """
    signature = Signature(load_recipe(recipe), recipe) if isinstance(recipe, str) else Signature(recipe)
    given = signature.from_python(values)
    generic = Generic(
        out=str(out) if out else None,
        resume=str(resume) if resume else None,
        again=again,
        log=[log] if isinstance(log, str) else list(log),
        profile=profile,
    )
    arguments, folder = resolve(signature, given, generic)
    shown = ", ".join(f"{name}={value!r}" for name, value in values.items())
    return call(signature, arguments, generic, folder, f"tempering.run({signature.name!r}, {shown})")
