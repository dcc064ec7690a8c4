"""The program: which commands there are, and how a line of words becomes one of them."""

from __future__ import annotations

import ast
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from cyclopts import App, CoercionError, CycloptsError, MissingArgumentError, RepeatArgumentError, UnknownOptionError, UnusedCliTokensError
from cyclopts import UnknownCommandError as UnknownCommand

from tempering import index
from tempering.cli.errors import guarded
from tempering.cli.show import say
from tempering.errors import UserError

_WITH_RECIPES = ("run", "plan", "sweep")
COMMANDS: Mapping[str, str] = {
    "demo": "tempering.demo:demo",
    "measure": "tempering.cli.models:measure_command",
    "compare": "tempering.cli.models:compare_command",
    "check": "tempering.cli.models:check",
    "export": "tempering.cli.models:export",
    "chat": "tempering.cli.chat:chat",
    "serve": "tempering.cli.serve:serve",
    "merge": "tempering.cli.merge:merge",
    "reshape": "tempering.cli.reshape:reshape",
    "judge": "tempering.cli.judge:judge",
    "race": "tempering.cli.race:race",
    "place": "tempering.cli.place:place",
    "replicate": "tempering.cli.replicate:replicate",
    "trade": "tempering.cli.forgetting:trade",
    "requests": "tempering.cli.forgetting:requests",
    "audit": "tempering.cli.forgetting:audit",
    "purge": "tempering.cli.forgetting:purge",
    "runs": "tempering.cli.runs:runs",
    "report": "tempering.cli.runs:report",
    "lost": "tempering.cli.runs:lost",
    "methods": "tempering.cli.methods:methods",
    "show": "tempering.cli.literature:show",
    "board": "tempering.cli.literature:board",
    "schema": "tempering.cli.methods:schema",
    "new": "tempering.cli.methods:new",
    "doctor": "tempering.doctor:doctor",
}
"""Every plain command, and the function that is it."""
WELCOME = """temper: change what a model does, and know what it cost.

  temper run sft --model builtin:tiny --data my.jsonl     fine-tune, with a ledger of what was gained and lost
  temper run dpo --data pairs.jsonl --gate "keep >= 0.98" prefer one answer to another; fail if too much was lost
  temper check my.jsonl --model builtin:tiny              what a model would be trained on, before any training
  temper compare BASE TUNED                               two models, item by item
  temper chat runs/NAME                                   talk to the result
  temper merge A B --base M --method ties --out DIR       one model of several, and what it keeps of each

Recipes: {recipes}. `temper run RECIPE --help` lists a recipe's flags, `temper methods` what there is, `temper --help` every command."""


def version() -> str:
    """The installed version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("tempering")
    except PackageNotFoundError:
        return "0.0.0 (not installed)"


def build(tokens: Sequence[str] = (), *, everything: bool = False) -> App:
    """The program's commands. Recipes are imported only where `tokens` name them; `everything` imports all, for shell completion."""
    app = App(
        name="temper", help="Change what a model does, and know what it cost.", version=version, result_action="return_value", help_format="plaintext"
    )
    app.register_install_completion_command(add_to_startup=False)
    app.command(_recipes("run", "Run a recipe: temper run RECIPE [flags].", tokens, everything))
    app.command(_recipes("plan", "What a run will need: parameters, memory, whether it fits and what would make it.", tokens, everything))
    app.command(_recipes("sweep", "Run a recipe for every combination of comma-separated values.", tokens, everything))
    named = tokens[0] if tokens else ""
    for name, place in COMMANDS.items():
        # One that is asked for says itself what it is about; of the others a list says it, and none is imported for that.
        about = {} if everything or name == named else {"help": _summary(place) if named.startswith("-") else ""}
        app.command(place, name=name, **about)
    reward = App(name="reward", help="Try a reward on answers: temper reward try REWARD FILE.", help_format="plaintext")
    reward.command("tempering.cli.reward:attempt", name="try")
    app.command(reward)
    return app


def _summary(place: str) -> str:
    """The first paragraph of what a command says of itself."""
    module, _, function = place.partition(":")
    return _docs(module)[function].split("\n\n")[0]


@cache
def _docs(module: str) -> Mapping[str, str]:
    """What a module's functions say of themselves, by its syntax tree: several commands stand in one."""
    path = index.PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    return {node.name: ast.get_docstring(node) or "" for node in nodes if isinstance(node, ast.FunctionDef)}


def _recipes(name: str, about: str, tokens: Sequence[str], everything: bool) -> App:
    group = App(name=name, help=about, help_format="plaintext", help_epilogue="RECIPE may also be path/to/file.py:function.")
    asked = tokens[1] if tokens[:1] == [name] and len(tokens) > 1 and not tokens[1].startswith("-") else None
    wanted = asked.replace("-", "_") if asked else None

    def make(spec: str, recipe: Callable[..., Any]) -> Callable[..., int]:
        return import_module(f"tempering.cli.{name}").command(spec, recipe)

    for entry in index.recipes().values():
        if everything or entry.name == wanted:
            group.command(make(entry.name, index.load(entry)), name=entry.name, help=_help(entry.doc, entry.detail))
        else:
            group.command(lambda: 0, name=entry.name, help=entry.summary)
    if asked and wanted not in index.recipes():
        recipe = index.load_recipe(asked)
        group.command(make(asked, recipe), name=asked, help=_help("", recipe.__doc__ or ""))
    return group


def _help(doc: str, detail: str) -> str:
    return "\n\n".join(part for part in (detail.split("Args:")[0].strip(), doc.strip()) if part)


def run_command(argv: list[str]) -> int:
    """Parse and run one command line; every failure becomes a sentence and an exit code here."""
    debug = bool(os.environ.get("TEMPERING_DEBUG")) or "--debug" in argv
    if not debug:
        _quiet()
    return guarded(lambda: _dispatch(argv), debug=debug)


def _quiet() -> None:
    # Libraries warn on stderr about things a user cannot act on; what matters is said by our own checks.
    for name, value in {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}.items():
        os.environ.setdefault(name, value)
    # Wherever it is installed, PEFT loads it, and it tells of kernels that other machines have.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")


def _dispatch(argv: list[str]) -> int:
    if not argv:
        say(WELCOME.format(recipes=", ".join(index.recipes())))
        return 0
    tokens = list(argv)
    if tokens[0] == "forget" and tokens[1:] and not tokens[1].startswith("-"):
        # `temper forget "ADA EXAMPLE"`: what stands there is a name, unless it is data or another door.
        from tempering.forgetting.doors import meant

        tokens[1:2] = ["--forget", meant(tokens[1])]
    recipe = tokens[0].replace("-", "_") in {**index.recipes(), **index.aliases()} or ".py" in tokens[0]
    if recipe and tokens[0] not in _WITH_RECIPES and tokens[:2] != ["reward", "try"]:
        tokens.insert(0, "run")  # `temper sft` is `temper run sft`; `temper reward` too is the recipe, `temper reward try` a command
    if tokens[0] in _WITH_RECIPES:
        if len(tokens) == 1:
            tokens.append("--help")
        elif tokens[1] not in ("--help", "-h"):
            tokens = _recipe_tokens(tokens)
    app = build(tokens, everything=tokens[0] == "--install-completion")
    try:
        result = app(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise UserError(_sentence(error, app, tokens)) from None
    return result if isinstance(result, int) else 0


def _named_in_file(tokens: list[str]) -> list[str]:
    """`temper run FILE.yaml`: the recipe that the file names, with the file as its settings."""
    from tempering.cli.files import read_config

    path, _, recipe = read_config(tokens[1])
    if recipe is None:
        raise UserError(f"{path}: says no recipe; write a line `recipe: NAME` in it, or `temper {tokens[0]} RECIPE --config {path}`")
    return [tokens[0], recipe, "--config", tokens[1], *tokens[2:]]


def _recipe_tokens(tokens: list[str]) -> list[str]:
    from tempering.cli.flags import SweepOptions
    from tempering.cli.plan import PlanOptions
    from tempering.cli.run import Generic, normalise
    from tempering.cli.values import Signature

    if tokens[1].startswith("-"):
        raise UserError(
            f"temper {tokens[0]}: the recipe comes first, for example `temper {tokens[0]} {next(iter(index.recipes()), 'sft')} {tokens[1]} ...`"
        )
    if tokens[1].lower().endswith((".yaml", ".yml", ".json")):
        tokens = _named_in_file(tokens)
    signature, generic = Signature(index.load_recipe(tokens[1]), tokens[1]), {"plan": PlanOptions, "sweep": SweepOptions}.get(tokens[0], Generic)
    name = tokens[1].replace("-", "_") if tokens[1].replace("-", "_") in {**index.recipes(), **index.aliases()} else tokens[1]
    return [tokens[0], name, *normalise([t for t in tokens[2:] if t != "--debug"], signature, generic)]


def _sentence(error: CycloptsError, app: App, tokens: Sequence[str]) -> str:
    """A parse error in our words: what was wrong, and the closest right one."""
    error.verbose = False
    command = " ".join(("temper", *(error.command_chain or ())))
    if isinstance(error, UnknownCommand) or (not error.command_chain and isinstance(error, UnusedCliTokensError | UnknownOptionError)):
        names = [name for name in app if name.startswith("-") == tokens[0].startswith("-")] + [*index.recipes(), *index.aliases()]
        what = "flag" if tokens[0].startswith("-") else "command"
        return f"there is no {what} {tokens[0]!r}{index.closest(tokens[0], names)}; `temper --help` lists them"
    if isinstance(error, UnusedCliTokensError):
        return f"{command}: unexpected argument {' '.join(map(repr, error.unused_tokens or ()))}; `{command} --help` shows what it takes"
    if isinstance(error, UnknownOptionError):
        flag = error.token.keyword or error.token.value
        known = [name for argument in error.argument_collection for name in argument.names if name.startswith("--")]
        return f"{command}: there is no flag {flag}{index.closest(flag, known)}; `{command} --help` lists them"
    if isinstance(error, MissingArgumentError):
        missing = error.argument.name if error.argument else "a value"
        about = (error.argument.parameter.help or "").rstrip(".") if error.argument else ""
        return f"{command} needs {missing}{f' ({about})' if about else ''}; `{command} --help` shows how it is used"
    if isinstance(error, RepeatArgumentError):
        return f"{command}: {error.token.keyword or error.token.value} is given twice; keep one"
    if isinstance(error, CoercionError) and error.token is not None and error.argument is not None:
        from tempering.choices import elsewhere
        from tempering.cli.fields import expected

        choices = error.argument.get_choices() or ()
        wanted = f"one of {', '.join(choices)}" if choices else expected(error.argument.hint)
        name = error.token.keyword or error.argument.name
        near = elsewhere(error.token.value) if name.startswith("--loss") else ""
        return f"{name}: expected {wanted}, got {error.token.value!r}{near or index.closest(error.token.value, choices)}"
    return f"{command}: {error}"
