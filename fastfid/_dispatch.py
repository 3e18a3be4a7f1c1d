"""Which implementation of an operation runs.

One table, ``{operation: {backend: "module:function"}}``, resolved lazily. The choice is, in this order: the caller's
``backend`` argument, the variable ``FASTFID_BACKEND_<OPERATION>``, the first available backend of the device's row of
preference. A choice made by name is never replaced by another; a kernel that fails raises and is not retried elsewhere.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

from fastfid.errors import BackendUnavailableError

# Order is preference. The value names the function that runs and, after it, the function that says why it can't.
BACKENDS: dict[str, dict[str, str]] = {}


def why_unavailable(operation: str, backend: str, device_type: str) -> str | None:
    """None where ``backend`` can run ``operation`` on tensors of ``device_type``; else the reason, as a sentence."""
    raise NotImplementedError
