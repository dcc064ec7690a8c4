"""A soft prompt: nothing trains but the embeddings of a few new tokens that stand before every prompt (Lester et al. 2021, arXiv 2104.08691).

The new tokens are in the vocabulary and in the chat template, so any engine that reads PEFT's trainable tokens serves the result. Prompt tuning as
PEFT has it adds vectors inside the model's forward pass, which layouts with several sequences in a row cannot see. The price: the tokens have logits
too, where input and output share a table the trained ones, and a model may now and then answer with one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tempering.config import Value
from tempering.errors import UserError
from tempering.methods.scopes.lora import LoRAHandle

if TYPE_CHECKING:
    import torch


class SoftPrompt(Value):
    """Train the input embeddings of `tokens` new tokens; all other weights stay as they are."""

    kind: Literal["soft_prompt"] = "soft_prompt"
    tokens: int = Field(default=30, gt=0)
    """Length of the prompt."""
    ids: tuple[int, ...] = ()
    """Of the new tokens; set by the recipe that adds them."""

    def attach(self, model: torch.nn.Module) -> LoRAHandle:
        """Wrap `model` with PEFT's trainable tokens.

        Raises:
            UserError: no recipe has put the tokens into prompts.
        """
        import peft

        if not self.ids:
            raise UserError("scope soft_prompt trains tokens that stand in every prompt, which only `temper run spul` puts there; take lora or full")
        config = peft.TrainableTokensConfig(task_type="CAUSAL_LM", token_indices=list(self.ids))
        return LoRAHandle(peft.get_peft_model(model, config))  # type: ignore[arg-type]
