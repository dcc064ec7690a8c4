"""Write the sources of the documentation site into build/docs: the pages of this folder, and those made from the code.

A page about a method, a recipe, a command or a public name is never written by hand. It is made from the docstring where the thing is, through the
index that `temper methods` reads, so that a new file has its page without a change here. Nothing heavy is imported.
"""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tempering import board, index
from tempering.board.page import render

ROOT = Path(__file__).resolve().parent.parent
WRITTEN = ("index.md", "quick-start.md", "data.md", "ledger.md", "logging.md", "serving.md", "performance.md", "memory.md", "scaling.md")
WRITTEN += ("replications.md", "race.md", "forgetting.md", "distillation.md", "merging.md", "reshaping.md", "reinforcement.md", "rewards.md")
"""The pages of this folder, in the order of the navigation."""
KINDS = {
    "objective": "What is wanted of the model: a loss on named parts of a batch.",
    "scope": "Which weights may move.",
    "transform": "From gradient to update.",
    "stream": "The data that reaches the model, and when.",
    "reward": "Episodes to scores.",
    "credit": "Scores to advantages.",
    "environment": "Where the model acts.",
    "merge": "How weights combine.",
    "reshape": "How a model grows and shrinks.",
    "decode": "How text is made: logits to logits while sampling.",
    "probe": "What is measured, item by item.",
}


def escaped(text: str) -> str:
    """Prose for a Markdown cell or line: what looks like a tag or a column is shown as it stands."""
    return " ".join(text.split()).replace("<", "&lt;").replace("|", "&#124;")


def prose(doc: str) -> str:
    """A docstring as Markdown: indented lines (formulas) become blocks of their own, angle brackets outside of them are shown as they stand."""
    out: list[str] = []
    for block in re.split(r"\n{2,}", inspect.cleandoc(doc)):
        lines = block.splitlines()
        if all(line.startswith("    ") for line in lines):
            out.append("```text\n" + "\n".join(line[4:] for line in lines) + "\n```")
        else:
            out.append("\n".join(line if "`" in line else line.replace("<", "&lt;") for line in lines))
    # Two formulas in a row are one block.
    return "\n\n".join(out).replace("\n```\n\n```text\n", "\n\n")


def link(entry: index.Entry) -> str:
    """The page of an entry, from the root of the site; "" for a module, which has none."""
    if entry in board.modules():
        return ""
    return f"recipes/{entry.name}.md" if entry.kind == "recipe" else f"methods/{entry.kind}/{entry.name}.md"


def _recipe(name: str, up: str) -> str:
    """A link to a recipe's page; a method's own name for its family's recipe has none."""
    return f"[{name}]({up}recipes/{name}.md)" if name in index.recipes() else f"`{name}`"


def fields_of(entry: index.Entry) -> Iterator[tuple[str, str, str]]:
    """Field, default and meaning of a method's own settings, from its class body; the constants that every objective has are not settings."""
    for node in ast.parse(Path(entry.path).read_text(encoding="utf-8")).body:
        if not (isinstance(node, ast.ClassDef) and node.name == entry.public):
            continue
        for field, after in zip(node.body, [*node.body[1:], None], strict=True):
            own = isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation)
            if own and isinstance(field.target, ast.Name) and field.target.id not in ("kind", "name"):
                text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
                yield field.target.id, "required" if field.value is None else _default(field.value), str(text)


def _default(value: ast.expr) -> str:
    """The default as a user would write it: the first argument of a pydantic Field(...)."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("Field", "field"):
        given = [*value.args, *(k.value for k in value.keywords if k.arg == "default")]
        return ast.unparse(given[0]) if given else "empty"
    return ast.unparse(value)


def method_page(entry: index.Entry) -> str:
    """The page of one method."""
    lines = [f"# {entry.public or entry.name}", f"`{entry.kind}` · `{entry.module}`", prose(entry.doc)]
    if entry.detail and entry.detail.strip() not in entry.doc:
        lines += [prose(entry.detail)]
    rows = list(fields_of(entry))
    if rows:
        table = ["| field | default | meaning |", "| --- | --- | --- |"]
        lines += ["\n".join([*table, *(f"| `{name}` | `{escaped(default)}` | {escaped(text)} |" for name, default, text in rows)])]
    facts = [f"[arXiv {paper}](https://arxiv.org/abs/{paper})" for paper in entry.arxiv]
    facts += [f"recipe {_recipe(name, '../../')}" for name in index.recipes_of(entry)]
    facts += [f"paper [{one}](../../literature.html#{one}) of the board" for one in entry.catalogue]
    if facts:
        lines += ["Source and use: " + ", ".join(facts) + "."]
    if entry.paper:
        lines += ["The paper's settings, shown and not applied here: " + ", ".join(f"`{name}` {escaped(text)}" for name, text in entry.paper) + "."]
    if entry.confused:
        lines += [f"Not to be confused with {confusions(entry)}."]
    tried = [f"- {one.verdict}: {escaped(one.claim or one.metric)}" for one in replications_of(entry)]
    if tried:
        lines += ["Tried here:", "\n".join(tried)]
    return "\n\n".join(lines) + "\n"


def recipe_page(entry: index.Entry) -> str:
    """The page of one recipe, with its code: a recipe is short enough to be read."""
    uses = [method for method in index.methods() if method.module in entry.uses]
    code = Path(entry.path).read_text(encoding="utf-8")
    lines = [f"# temper run {entry.name}", prose(entry.doc), prose(entry.detail.split("Args:")[0])]
    if uses:
        lines += ["Made of: " + ", ".join(f"[{method.public}](../{link(method)})" for method in uses) + "."]
    lines += [f"Its flags: [temper run {entry.name}](../cli.md#temper-run-{entry.name}).", "The whole recipe:", f"```python\n{code.rstrip()}\n```"]
    return "\n\n".join(lines) + "\n"


def command_page() -> str:
    """Every command and flag, from the program itself."""
    from tempering.cli.app import build

    text = build(everything=True).generate_docs(output_format="markdown", heading_level=2, max_heading_level=4)
    # `sweep` has each recipe's own flags; they are listed once, under `run`.
    text = re.sub(r"^#### temper sweep (\S+)\n.*?(?=^#{2,4} )", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^ *- \[`\w+`\]\(#temper-sweep-\w+\)\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"(?<!`)<(?=[a-z/])", "&lt;", text)
    about = "One grammar: `temper run RECIPE`, with flags read from the recipe's signature. Exit codes: 0 done, 1 our fault, 2 wrong input,"
    return f"# The command line\n\n{about} 3 a gate failed, 130 stopped, with a checkpoint written.\n\n" + text.partition("\n")[2]


def signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """The line that a reader types after, on one or several lines."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {node.name}" + (f"({bases})" if bases else "")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    flat = f"{node.name}({ast.unparse(node.args)}){returns}"
    return flat if len(flat) <= 100 else f"{node.name}(\n    " + ",\n    ".join(_arguments(node.args)) + f",\n){returns}"


def _arguments(args: ast.arguments) -> Iterator[str]:
    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + list(args.defaults)
    for arg, default in zip(plain, defaults, strict=True):
        yield ast.unparse(arg) + (f" = {ast.unparse(default)}" if default is not None else "")
    if args.vararg or args.kwonlyargs:
        yield "*" + (ast.unparse(args.vararg) if args.vararg else "")
    for arg, value in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        yield ast.unparse(arg) + (f" = {ast.unparse(value)}" if value is not None else "")
    if args.kwarg:
        yield "**" + ast.unparse(args.kwarg)


def definition(name: str, module: str) -> ast.FunctionDef | ast.ClassDef | None:
    """Where a public name is defined, followed through the lazy packages."""
    folder = ROOT / Path(*module.split("."))
    files = [folder.with_suffix(".py")] if folder.with_suffix(".py").is_file() else sorted(folder.glob("*.py"))
    for path in files:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
                return node
    return None


def python_page() -> str:
    """Every name of `import tempering as tp`, with its signature and docstring."""
    import tempering

    homes: dict[str, str] = {**tempering._HOME, **{name: f"tempering.{name}" for name in tempering._CALLABLE}}
    homes |= {name: "tempering.errors" for name in ("GateFailed", "Interrupted", "UserError")}
    lines = ["# Python", prose(tempering.__doc__ or "")]
    for name in sorted(homes, key=str.lower):
        node = definition(name, homes[name])
        lines += [f"## {name}", f"`{homes[name]}`"]
        if node is not None:
            lines += [f"```python\n{signature(node)}\n```", docstring(ast.get_docstring(node) or "")]
    return "\n\n".join(lines) + "\n"


def docstring(doc: str) -> str:
    """A docstring with its `Args:` and `Raises:` sections as lists."""
    head, *sections = re.split(r"^(Args|Arguments|Raises|Returns):\n", doc, flags=re.MULTILINE)
    lines = [prose(head)]
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        items: list[str] = []
        rest: list[str] = []
        for line in body.splitlines():
            found = re.match(r"^ {4}([\w., *]+?):\s+(.*)", line)
            if found:
                items.append(f"- `{found.group(1)}`: {found.group(2)}")
            elif line.startswith("    ") and line.strip():
                items.append(line.strip()) if not items else items.append("    " + line.strip())
            else:
                rest.append(line)
        lines += [f"**{title}**", "\n".join(items).replace("<", "&lt;"), "\n".join(rest)]
    return "\n\n".join(part for part in lines if part.strip())


def shapes_table() -> str:
    """The shapes that data is recognised by."""
    from tempering.data.shapes import SHAPES

    lines = ["| shape | what a row is | fields (any of their spellings) |", "| --- | --- | --- |"]
    for shape in SHAPES:
        slots = [f"{name}: {' '.join(f'`{f}`' for f in slot.fields)}" for name, slot in shape.slots.items() if slot.needed]
        lines.append(f"| `{shape.name}` | {escaped(shape.meaning)} | {'; '.join(slots)} |")
    return "\n".join(lines)


def findings_table() -> str:
    """What `temper check` looks for."""
    from tempering.data.findings import KINDS as findings

    rows = [f"| {severity} | {escaped(what)} | {escaped(mend)} |" for severity, what, mend in findings.values()]
    return "\n".join(["| | what is found | the mend |", "| --- | --- | --- |", *rows])


def gates_grammar() -> str:
    """The grammar of a gate, as its error message shows it."""
    from tempering.gates import GRAMMAR

    return f"```text\n{GRAMMAR}\n```"


def replications_table() -> str:
    """Every claim with its result."""
    from tempering.proof import claims, replicate

    lines = ["| claim | effect [95%] | smallest that counts | verdict | command |", "| --- | --- | --- | --- | --- |"]
    for name in claims.names():
        claim, file = claims.read(claims.path_of(name)), replicate.RESULTS / f"{name}.json"
        about = f"{escaped(claim.title)}: {escaped(claim.metric)} against {escaped(claim.baseline)}"
        effect, verdict, command = "", "not run yet", f"temper replicate {name}"
        if file.is_file():
            result = replicate.read_result(file)
            note = replicate.standing(name, result)
            effect = f"{result.effect:+.3g} [{result.interval[0]:+.3g}, {result.interval[1]:+.3g}]"
            verdict, command = f"{result.verdict}{f' ({note})' if note else ''}", result.command
        lines.append(f"| {about} | {effect} | {claim.smallest_effect:g} | {escaped(verdict)} | `{command}` |")
    return "\n".join(lines)


def objectives_page() -> str:
    """Every loss by what it learns from, with the command that runs it."""
    lines = ["# Losses", "Each is run by its own name; the recipe of its family runs them all, `temper run prefer --loss simpo`."]
    for recipe in index.recipes().values():
        mine = [entry for entry in index.methods("objective") if entry.family == recipe.family] if recipe.family else []
        if mine:
            rows = [f"| [{e.public}]({link(e)}) | {escaped(e.summary)} | `temper run {e.name}` | {', '.join(e.arxiv)} |" for e in mine]
            table = ["| loss | what it is | command | arXiv |", "| --- | --- | --- | --- |", *rows]
            lines += [f"## {recipe.family.capitalize()}", f"{escaped(recipe.summary)} Recipe [{recipe.name}]({link(recipe)}).", "\n".join(table)]
    return "\n\n".join(lines) + "\n"


MADE = {"shapes": shapes_table, "findings": findings_table, "gates": gates_grammar, "replications": replications_table}
"""`<!-- name -->` in a written page is replaced by what the function reads from the code."""


def filled(text: str) -> str:
    """A written page with its markers replaced; an unknown marker is a mistake of the page."""
    return re.sub(r"<!-- (\w+) -->", lambda found: MADE[found.group(1)](), text)


def replications_of(entry: index.Entry) -> list[board.Replication]:
    """The stored replications of a method or recipe."""
    return [one for one in board.replications()[0] if one.method == entry.name or set(one.catalogue) & set(entry.catalogue)]


def confusions(entry: index.Entry) -> str:
    """What a method is taken for, and what that is."""
    return "; ".join(f"{escaped(other)} ({escaped(meaning)})" for other, meaning in entry.confused)


def line_of(entry: index.Entry, root: str) -> str:
    """A method's or recipe's row of the overview."""
    papers = [
        *(f"[arXiv {paper}](https://arxiv.org/abs/{paper})" for paper in entry.arxiv),
        *(f"[{one}](../literature.html#{one})" for one in entry.catalogue),
    ]
    recipes = [_recipe(name, "../") for name in index.recipes_of(entry)]
    verdicts = list(dict.fromkeys(one.verdict for one in replications_of(entry)))
    summary = escaped(entry.summary) + (f" Not to be confused with {confusions(entry)}." if entry.confused else "")
    cells = [f"[{entry.name}]({link(entry).removeprefix(root)})", summary, ", ".join(papers), ", ".join(recipes), ", ".join(verdicts)]
    return f"| {' | '.join(cells if entry.kind != 'recipe' else [*cells[:3], cells[4]])} |"


def board_page() -> str:
    """What stands of the literature, as a table; literature.html has every paper."""
    rows, _ = board.rows()
    counts = {word: sum(row.word == word for row in rows) for word in board.STATES}
    said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    lines = [
        "# The executable literature",
        f"{len(rows)} papers: {said}. [Every paper, to sort and filter](literature.html). This is `temper board`.",
    ]
    table = [
        f"| [{row.paper.id}](literature.html#{row.paper.id}) | {escaped(row.paper.name)} | {row.word}{', stale' if row.stale else ''} "
        f"| {', '.join(map(_linked, row.entries))} | {escaped('; '.join(row.missing) or row.paper.outside)} |"
        for row in rows
        if row.state != "planned"
    ]
    return "\n\n".join([*lines, "\n".join(["| id | paper | state | code | missing, or why not |", "| --- | --- | --- | --- | --- |", *table])]) + "\n"


def _linked(entry: index.Entry) -> str:
    return f"[{entry.name}]({at})" if (at := link(entry)) else f"`{entry.module}`"


def overview(title: str, about: str, entries: Iterable[index.Entry], root: str) -> str:
    """A table of entries by kind, with links."""
    lines = [f"# {title}", about]
    by_kind: dict[str, list[index.Entry]] = {}
    for entry in entries:
        by_kind.setdefault(entry.kind, []).append(entry)
    for kind in sorted(by_kind, key=lambda k: [*KINDS, k].index(k)):
        if kind != "recipe":
            lines += [f"## {kind.capitalize()}", KINDS.get(kind, "")]
        columns = ["name", "what it is", "source", *(["recipe"] if kind != "recipe" else []), "replication"]
        head = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
        lines += ["\n".join([*head, *(line_of(entry, root) for entry in by_kind[kind])])]
    return "\n\n".join(part for part in lines if part) + "\n"


def copied(text: str) -> str:
    """A page of the repository's root, with links to other files as the site has them."""
    for name, page in {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "README.md": "index.md"}.items():
        text = text.replace(f"]({name})", f"]({page})")
    return text.replace("](docs/", "](")


def write(out: Path) -> dict[str, Any]:
    """Write every page under `out` and give the navigation.

    Raises:
        FileNotFoundError: a page that is written by hand is missing.
    """
    shutil.rmtree(out, ignore_errors=True)
    pages = {name: filled((ROOT / "docs" / name).read_text(encoding="utf-8")) for name in (*WRITTEN, "architecture.md", "LOG.md")}
    pages |= {"contributing.md": copied((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))}
    pages |= {"changelog.md": copied((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))}
    methods, recipes = index.methods(), tuple(index.recipes().values())
    pages |= {link(entry): method_page(entry) for entry in methods}
    pages |= {link(entry): recipe_page(entry) for entry in recipes}
    pages["methods/index.md"] = overview("Methods", "One paper, one file, one public name. This is `temper methods`.", methods, "methods/")
    pages["recipes/index.md"] = overview("Recipes", "Typed functions that put methods together: `temper run NAME`.", recipes, "recipes/")
    pages |= {"cli.md": command_page(), "python.md": python_page(), "board.md": board_page(), "losses.md": objectives_page()}
    pages["literature.html"] = render(board.rows()[0], lambda entry: link(entry).replace(".md", ".html"))
    for name, text in pages.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if (ROOT / "docs" / "images").is_dir():
        shutil.copytree(ROOT / "docs" / "images", out / "images", dirs_exist_ok=True)
    nav: list[Any] = list(WRITTEN)
    nav += [{"Losses": "losses.md"}]
    nav += [{"Recipes": ["recipes/index.md", *({entry.name: link(entry)} for entry in recipes)]}]
    nav += [
        {"Methods": ["methods/index.md", *({kind.capitalize(): [{e.name: link(e)} for e in methods if e.kind == kind]} for kind in _kinds(methods))]}
    ]
    nav += [{"Literature": "board.md"}]
    nav += [{"Reference": [{"Command line": "cli.md"}, {"Python": "python.md"}]}]
    nav += [{"Project": [{"Architecture": "architecture.md"}, {"Contributing": "contributing.md"}, {"Changelog": "changelog.md"}, {"Log": "LOG.md"}]}]
    return {"INHERIT": str(ROOT / "mkdocs.yml"), "docs_dir": str(out), "site_dir": str(ROOT / "site"), "nav": nav}


def _kinds(entries: Iterable[index.Entry]) -> list[str]:
    present = {entry.kind for entry in entries}
    return [kind for kind in [*KINDS, *sorted(present - set(KINDS))] if kind in present]


def main() -> int:
    """Write build/docs and build/mkdocs.yml."""
    try:
        settings = write(ROOT / "build" / "docs")
    except FileNotFoundError as error:
        print(f"{error.filename} is missing: the site has a page of that name", file=sys.stderr)
        return 2
    (ROOT / "build" / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
