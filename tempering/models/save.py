"""Saving a policy so that transformers, PEFT and other tools open it: a plain Hugging Face folder, or a PEFT adapter folder.

The folder appears whole or not at all. Beside the weights stand the tokenizer with its chat template, the generation defaults, and `policy.json`,
which says where the weights came from. An adapter is only worth its base: before one is written, some base weights in memory are compared with the
base's files, and where they differ (an initialisation such as PiSSA that moves the base, or a base trained before) merged weights are written
instead.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from tempering.errors import UserError
from tempering.home import atomic_folder
from tempering.models.chains import described, roles_of
from tempering.models.load import Provenance, provenance
from tempering.models.places import read_json
from tempering.models.quantise import is_quantised
from tempering.types import Policy

FORMAT = 1
POLICY_FILE = "policy.json"
_SAMPLED_WEIGHTS = 12


def save(policy: Policy, folder: str | Path, *, merged: bool = False, card: str | None = None) -> Path:
    """Write a policy to `folder`.

    Args:
        policy: what to save; its live model is left as it is.
        folder: a new folder, or one that an earlier `save` wrote (then it is replaced).
        merged: fold the scope's change into plain weights. A PEFT model is otherwise saved as an adapter.
        card: the text of README.md; none is written without it.

    Returns the folder's absolute path.

    Raises:
        UserError: the folder holds something else, cannot be written, the disk is full, the change cannot be folded into plain weights, or an
            adapter's base has no name to load it by. Nothing is left behind then.
    """
    out = Path(folder).expanduser().absolute()
    replace = _replaceable(out)
    with atomic_folder(out, existing="replace" if replace else "refuse") as temporary:
        write(policy, temporary, merged=merged, card=card)
    return out


def write(policy: Policy, folder: Path, *, merged: bool = False, card: str | None = None) -> str:
    """What `save` does, into an existing empty folder and without its safety. Returns "adapter", "merged" or "full"."""
    from tempering.models import codebook
    from tempering.models.gguf import quiet
    from tempering.models.value import ValueModel

    origin = provenance(policy.model) or Provenance(policy.source, policy.source, "")
    notes = list(origin.decisions)
    adapter = not merged and is_peft(policy.model)
    if adapter and (changed := _changed_base(policy.model, origin)):
        adapter = False
        notes.append(f"saved merged, not as an adapter: the base weights in memory are not those of {origin.base} ({changed})")
    kind = "adapter" if adapter else "merged" if is_peft(getattr(policy.model, "backbone", policy.model)) else "full"
    with quiet():
        if adapter:
            _write_adapter(policy, folder, origin)
            dtype = policy.model.dtype
        else:
            plain = policy.model.classifier(policy.tokenizer.pad_token_id) if isinstance(policy.model, ValueModel) else plain_model(policy)
            books = codebook.tables(plain)
            plain.save_pretrained(folder, **({"state_dict": {n: p for n, p in plain.state_dict().items() if n not in books}} if books else {}))
            if books:
                codebook.write(plain, folder)
            dtype = plain.dtype
        policy.tokenizer.save_pretrained(folder)
    about = _about(policy, origin, kind, str(dtype).removeprefix("torch."), notes)
    for role in about.get("roles", ()):
        (folder / role).mkdir()
        write(Policy(policy.roles[role], policy.tokenizer, name=role, source=role), folder / role, merged=True)
    (folder / POLICY_FILE).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    readme = folder / "README.md"
    if card is not None:
        readme.write_text(card, encoding="utf-8")
    else:
        # PEFT writes a form full of "[More Information Needed]".
        readme.unlink(missing_ok=True)
    return kind


def is_peft(model: Any) -> bool:
    """Whether a model is wrapped by PEFT."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def plain_model(policy: Policy) -> Any:
    """The policy's weights as a transformers model without any scope; the live model is left as it is.

    Raises UserError where the change cannot be folded into plain weights.
    """
    from transformers import PreTrainedModel

    model: Any = policy.model
    if is_peft(model):
        kind = next(iter(model.peft_config.values()))
        if kind.is_prompt_learning or not hasattr(model, "merge_and_unload"):
            raise UserError(f"{kind.peft_type.value} cannot be folded into plain weights, because it acts on the input; save it as an adapter.")
        if is_quantised(model):
            raise UserError(
                "an adapter cannot be folded into quantised weights without rounding them again; save it as an adapter, and export that: it is then "
                "folded into the unquantised base."
            )
        # merge_and_unload works in place and would take the adapter away from a policy that may still be trained or measured.
        model = copy.deepcopy(model).merge_and_unload()
    elif policy.handle is not None:
        baked = policy.handle.bake()
        if baked is None:
            raise UserError(f"the scope {type(policy.handle).__name__} cannot be folded into plain weights, so there is no plain model to save.")
        model = baked
    if isinstance(model, PreTrainedModel) and is_quantised(model):
        raise UserError("the weights are quantised and cannot be saved as plain ones; load the model without quantise and save that.")
    if not isinstance(model, PreTrainedModel):
        raise UserError(f"a {type(model).__name__} is not a transformers model and has no file format; only transformers and PEFT models are saved.")
    return model


def _replaceable(out: Path) -> bool:
    if not out.is_dir() or not any(out.iterdir()):
        return False
    ours = (out / POLICY_FILE).is_file() and roles_of(read_json(out / POLICY_FILE))
    if ours is False or any(entry.is_dir() and entry.name not in ours for entry in out.iterdir()):
        raise UserError(f"{out} holds something that is not a model saved by tempering; choose a new folder.")
    return True


def _write_adapter(policy: Policy, folder: Path, origin: Provenance) -> None:
    model: Any = policy.model
    config = model.peft_config["default"] if "default" in model.peft_config else next(iter(model.peft_config.values()))
    base = origin.base or config.base_model_name_or_path or ""
    if not base:
        raise UserError("the adapter's base model has no name or folder to load it by; save the base first and load it from there, or save merged.")
    whole_rows = bool(origin.new_tokens) and not _covers_embeddings(config)
    before = config.base_model_name_or_path
    config.base_model_name_or_path = base
    try:
        # "auto" would look the base up on the hub to find out what we know.
        model.save_pretrained(folder, save_embedding_layers=whole_rows)
    finally:
        config.base_model_name_or_path = before


def _covers_embeddings(config: Any) -> bool:
    saved = getattr(config, "modules_to_save", None) or ()
    trains = any(getattr(config, field, None) is not None for field in ("trainable_token_indices", "token_indices"))
    return trains or any("embed" in name or name == "wte" for name in saved)


def _changed_base(model: Any, origin: Provenance) -> str:
    """The name of a base weight that differs from the base's files, or ""; looks at a sample of the matrices."""
    import torch
    from safetensors import safe_open

    if not origin.base_folder:
        return ""
    live = {name.replace(".base_layer.", "."): p for name, p in model.get_base_model().named_parameters() if p.dim() == 2 and p.is_floating_point()}
    where: dict[str, Path] = {}
    for file in sorted(Path(origin.base_folder).glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            where |= {name: file for name in opened.keys() if name in live}  # noqa: SIM118 (not a mapping)
    names = sorted(where)
    for name in names[:: max(1, len(names) // _SAMPLED_WEIGHTS)]:
        with safe_open(where[name], framework="pt") as opened:
            stored = opened.get_tensor(name)
        tensor = live[name].detach().cpu()
        # New tokens make an embedding longer; their rows are saved apart.
        rows = min(len(stored), len(tensor))
        if stored.shape[1:] == tensor.shape[1:] and not torch.equal(stored[:rows].to(tensor.dtype), tensor[:rows]):
            return name
    return ""


def _about(policy: Policy, origin: Provenance, kind: str, dtype: str, notes: list[str]) -> dict[str, Any]:
    import importlib.metadata

    about: dict[str, Any] = {
        "format": FORMAT,
        "kind": kind,
        "base": origin.base,
        "base_sha256": origin.base_sha256() if origin.base_folder else None,
        "scope": _scope(policy),
        "dtype": dtype,
        "decisions": notes,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")},
    }
    if origin.new_tokens and kind == "adapter":
        about |= {"new_tokens": list(origin.new_tokens), "init": "mean"}
    if policy.decode:
        about["decode"] = described(policy.decode)
        about["roles"] = sorted({role for step in policy.decode for role in step.roles if role in policy.roles})
    return about


def _scope(policy: Policy) -> dict[str, Any]:
    model: Any = getattr(policy.model, "backbone", policy.model)
    if is_peft(model):
        config = next(iter(model.peft_config.values()))
        fields = {name: getattr(config, name, None) for name in ("r", "lora_alpha", "lora_dropout", "target_modules")}
        plain = {k: sorted(v) if isinstance(v, set | list | tuple) else v for k, v in fields.items() if v is not None}
        return {"kind": str(config.peft_type.value).lower(), **plain}
    return {"kind": "full" if policy.handle is None else type(policy.handle).__name__}
