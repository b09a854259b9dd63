"""Callable subpackages, for functions of the public API with the same name.

`polypstream.train` is both a function and a subpackage. Importing the subpackage binds its name in the package, which
would hide the function; therefore the subpackage itself is callable and forwards calls to `polypstream.api`. This
module is separate from `polypstream.api` because the subpackages must not import it.
"""

import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A module that forwards calls to the function of its name in `polypstream.api`."""

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function)

    @property
    def _function(self) -> Any:  # noqa: ANN401 - type checkers see the function itself, from the package
        return getattr(import_module("polypstream.api"), self.__name__.rpartition(".")[2])

    def __call__(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as above
        """Call the function."""
        return self._function(*arguments, **options)


def make_callable(name: str) -> None:
    """Make an imported module callable; it calls this with its `__name__`."""
    sys.modules[name].__class__ = CallableModule
