"""Forecasts of a series of numbers."""

import json
import math
from typing import Any

from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.models import load as load


def answer(
    loaded: tuple[Any, Any], _: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one {mean, quantiles} per series: a mean and its quantiles for each step ahead."""
    import torch

    model = loaded[0]
    max_steps = model.config.horizon_length
    if parameters["horizon"] > max_steps:
        raise InvalidInput(f"horizon: the model looks at most {max_steps} steps ahead")
    options: dict[str, Any] = {}
    if model.config.model_type == "timesfm":  # 0: days and finer, 1: weeks and months, 2: years
        options["freq"] = [parameters["frequency"]] * len(inputs)
    series = [
        torch.tensor(read_series(value), dtype=torch.float32, device=model.device)
        for value in inputs
    ]
    with torch.inference_mode():
        output = model(past_values=series, **options)
    return [
        {"mean": mean[: parameters["horizon"]], "quantiles": full[: parameters["horizon"], 1:]}
        for mean, full in zip(
            output.mean_predictions.float(), output.full_predictions.float(), strict=True
        )
    ]


def read_series(value: Any) -> list[float]:
    """Return the numbers of a list, or of a text that holds one as JSON."""
    try:
        numbers = json.loads(value) if isinstance(value, str) else value
        if not isinstance(numbers, list) or not 2 <= len(numbers) <= 1_000_000:
            raise ValueError
        if any(
            isinstance(number, bool) or not isinstance(number, (int, float)) for number in numbers
        ):
            raise ValueError
        floats = [float(number) for number in numbers]
        if not all(map(math.isfinite, floats)):
            raise ValueError
    except (ValueError, OverflowError, RecursionError):
        raise InvalidInput("inputs: a series is a list of 2 to 1,000,000 numbers") from None
    return floats
