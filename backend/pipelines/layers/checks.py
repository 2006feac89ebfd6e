"""Checks that all pipelines make: of numbers and tensors that they are given, and of what they compute."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ....shared.protocol.errors import InputError, NumericsError, SettingError


def check_steps(steps: int, most: int) -> None:
    """Raise SettingError for a number of steps that is no whole number from 1 to `most`."""
    if not (isinstance(steps, int) and 1 <= steps <= most):
        raise SettingError(f"The number of steps is {steps}.", f"Give a whole number from 1 to {most}.")


def check_numbers(**values: float) -> None:
    """Raise SettingError for NaN or an infinite number, by its name."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise SettingError(f"The {name} is {value}.", "Give a finite number.")


def check_values(what: str, values: Tensor) -> None:
    """Raise InputError for an input that is not of finite floating-point numbers."""
    if not values.is_floating_point():
        kind = str(values.dtype).removeprefix("torch.")
        raise InputError(f"The values of the {what} are of type {kind}.", "Give floating-point numbers.")
    if not torch.isfinite(values).all():
        raise InputError(f"There are NaN or infinite values in the {what}.")


def check_finite(values: Tensor, where: str, dtype: torch.dtype) -> None:
    """Raise NumericsError for NaN or infinite values that were computed in `dtype`."""
    if not torch.isfinite(values).all():
        raise NumericsError(
            f"There are NaN or infinite values after {where}, computed in {str(dtype).removeprefix('torch.')}.",
            "The weights may be damaged; download them again."
            if dtype == torch.float32
            else "Use float32 (--dtype fp32).",
        )
