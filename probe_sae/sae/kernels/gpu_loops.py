"""How loops for GPUs are compiled."""

from collections.abc import Callable
from typing import Any

import triton


def gpu_loop(function: Callable[..., Any]) -> Any:
    """Compile a function when it is first called as `function[grid](...)`.

    In Triton's interpreter where TRITON_INTERPRET is 1, which is how it is tested without a GPU.
    """
    return triton.jit(function)
