"""Diffusion models of gridded climate and fluid fields, guided by a learned policy to obey the physics."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Imported when first used, so that `import sciguide` costs nothing. No module bears the name of one of these: it would
# take the function's place once imported.
_EXPORTS = {"load": ("sciguide.generate", "load"), "residual": ("sciguide.residuals", "residual_of")}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'sciguide' has no attribute {name!r}")
    module, attribute = _EXPORTS[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
