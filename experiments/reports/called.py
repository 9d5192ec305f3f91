"""What prompts and outputs of a report are called: by the names it holds, or by their numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from goodteacher.experiments.text import listed

_NUMBERS, _NAMES = 10, 5  # of prompts, at most in a sentence


def prompt_name(result: Mapping[str, Any], prompt: int) -> str:
    """The name of a prompt."""
    return result["prompt_names"][prompt] if "prompt_names" in result else str(prompt)


def output_name(result: Mapping[str, Any], prompt: int, output: int) -> str:
    """The name of an output of a prompt."""
    return result["output_names"][prompt][output] if "output_names" in result else str(output)


def prompts_named(result: Mapping[str, Any], prompts: Sequence[int]) -> str:
    """Prompts, the first few of many."""
    few = _NAMES if "prompt_names" in result else _NUMBERS
    names = listed([prompt_name(result, prompt) for prompt in prompts], few)
    return f"Prompt{'s' * (len(prompts) > 1)} {names}"
