"""What must hold between a tokenizer and a model before anything is trained, and what is decided when a checkpoint leaves it open.

Decisions are returned as sentences and kept with the model (`Provenance.decisions`, policy.json). The padding token is never the end-of-text token
where there is a choice: code that masks by padding id would otherwise never train the end. tempering itself masks by length and does not depend on
it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tempering.errors import UserError

_PAD_NAMES = ("<|pad|>", "<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>", "<|reserved_special_token_0|>", "<unused0>")
_FILLERS = ("<|endoftext|>", "<|end_of_text|>", "<unk>")
_PROBE = "Quokka"


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder, without running code it may bring along.

    Raises:
        UserError: there is none, or it does not load.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        raise UserError(f"{folder} has no tokenizer (no tokenizer.json); copy the tokenizer's files of the base model into it.")
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    # A broken tokenizer file surfaces as whatever the parser underneath happens to raise, plain Exception included (tokenizers does).
    except Exception as error:
        raise UserError(f"the tokenizer in {folder} does not load: {first_line(error)}; fetch or save the model again.") from error


def settle(model: Any, tokenizer: Any, where: str, say: Callable[[str], None]) -> tuple[str, ...]:
    """Check the tokenizer against the model and fill in padding and generation defaults, in place.

    Returns the decisions taken, a sentence each; they are also said aloud.

    Raises:
        UserError: the tokenizer has ids for which the model has no embedding.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise UserError(
            f"the tokenizer and the model of {where} do not belong together: the tokenizer goes up to id {highest}, the model has {rows} embeddings; "
            "use the tokenizer that was saved with the model."
        )
    decisions: list[str] = []
    generation = model.generation_config
    if generation.eos_token_id is None:
        generation.eos_token_id = model.config.get_text_config().eos_token_id
    eos = eos_ids(generation)
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in eos:
        eos.append(tokenizer.eos_token_id)
        decisions.append(f"generation also stops at the tokenizer's end token {tokenizer.eos_token!r} (id {tokenizer.eos_token_id})")
    turn, note = end_of_turn(tokenizer)
    if note:
        decisions.append(note)
    if turn is not None and turn not in eos:
        eos.append(turn)
        decisions.append(f"generation also stops at {tokenizer.convert_ids_to_tokens(turn)!r} (id {turn}), with which the chat template ends a turn")
    decisions += _choose_pad(tokenizer, eos)
    generation.eos_token_id = (eos[0] if len(eos) == 1 else eos) or None
    generation.pad_token_id = tokenizer.pad_token_id
    if generation.bos_token_id is None:
        generation.bos_token_id = tokenizer.bos_token_id
    if not generation.do_sample:
        # Sampling values beside do_sample=False mean nothing, and transformers refuses to save them.
        for name in ("temperature", "top_p", "top_k", "min_p", "typical_p"):
            setattr(generation, name, None)
    for decision in decisions:
        say(f"{where}: {decision}")
    return tuple(decisions)


def eos_ids(generation: Any) -> list[int]:
    """A generation config's end ids, always as a list."""
    eos = generation.eos_token_id
    return [] if eos is None else list(eos) if isinstance(eos, list | tuple) else [eos]


def end_of_turn(tokenizer: Any) -> tuple[int | None, str]:
    """The special token with which the chat template closes an assistant's turn, and a note where there is none to find.

    Found by rendering one exchange and looking at what follows the answer.
    """
    if not tokenizer.chat_template:
        return None, "the tokenizer has no chat template; conversations need one, plain text does not"
    from jinja2.exceptions import TemplateError

    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": _PROBE}]
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False)
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        return None, f"the chat template fails on a plain exchange ({first_line(error)})"
    after = tokenizer.encode(text.rpartition(_PROBE)[2], add_special_tokens=False)
    special = set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids)
    return (after[0], "") if after and after[0] in special else (None, "the chat template ends an assistant's turn without a special token")


def _choose_pad(tokenizer: Any, eos: list[int]) -> list[str]:
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in eos:
        return []
    vocab = tokenizer.get_vocab()
    was = f"was {tokenizer.pad_token!r}, which also ends text" if tokenizer.pad_token_id is not None else "had none"
    candidates = [*_PAD_NAMES, *([tokenizer.unk_token] if tokenizer.unk_token else []), *_FILLERS]
    for token in candidates:
        if token in vocab and vocab[token] not in eos:
            tokenizer.pad_token = token
            return [f"padding token is {token!r} (id {vocab[token]}; the tokenizer {was})"]
    if not eos:
        return ["the tokenizer has neither a padding nor an end token"]
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(eos[0])
    return [
        f"padding token is the end token {tokenizer.pad_token!r}, for want of another; tempering masks by length, other code may mask the end away"
    ]


def first_line(error: BaseException) -> str:
    """An error's first line, at most 200 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".:; ")[:200]
