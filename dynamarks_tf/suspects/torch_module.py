"""A PyTorch module as a suspect, from memory."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.suspects.batches import closed, refusal

Array = npt.NDArray[Any]


class TorchSuspect:
    """A `torch.nn.Module` that takes one tensor and returns one, called in evaluation mode and without gradients.

    Batches are passed in their own shape, in the type and on the device of the module's parameters. For a module that
    needs channels first, returns logits in a structure of its own, or differs otherwise, pass a function:
    `lambda batch: module(torch.from_numpy(batch).permute(0, 3, 1, 2)).softmax(-1).detach().numpy()`.

    Args:
        module: the module. Its mode is restored after each batch.

    Example:
        >>> TorchSuspect(module).predict(images).shape
        (256, 10)
    """

    input_shape: tuple[int | None, ...] | None = None

    def __init__(self, module: Any) -> None:
        self.description = f"PyTorch module {type(module).__name__}"
        self._module = module

    def predict(self, batch: Array) -> Array:
        """Answers one batch; an exception of the module is the cause of the `SuspectError`."""
        import torch

        if self._module is None:
            raise closed(self.description)
        module = self._module
        modes = [(part, part.training) for part in module.modules()]
        like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
        try:
            module.eval()
            with torch.no_grad():
                answers = module(torch.tensor(batch, dtype=like.dtype, device=like.device))
        except Exception as error:
            raise refusal(self.description, batch, f"{type(error).__name__}: {error}") from error
        finally:
            for part, training in modes:
                part.training = training
        if not isinstance(answers, torch.Tensor):
            raise refusal(
                self.description,
                batch,
                f"it returned a {type(answers).__name__}, not one tensor; pass a function that takes one out",
            )
        answers = answers.float() if answers.dtype in (torch.float16, torch.bfloat16) else answers
        return np.asarray(answers.cpu().numpy())

    def close(self) -> None:
        """Releases the module."""
        self._module = None


def is_torch_module(suspect: Any) -> bool:
    """Tells whether something is a PyTorch module, without importing PyTorch."""
    torch = sys.modules.get("torch")  # without PyTorch imported, nothing is a module
    return torch is not None and isinstance(suspect, torch.nn.Module)
