"""Loading a user's own module: a file or an importable name; importing it registers its tasks and optimizers."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from grokking.errors import BadInput, words


def import_extensions(modules: Iterable[str]) -> None:
    """Import each of these, once per process."""
    for name in modules:
        import_extension(name)


def import_extension(name: str) -> ModuleType:
    """Import `path/to/file.py` or `package.module`."""
    if name.endswith(".py"):
        return _import_file(name)
    try:
        return importlib.import_module(name)
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        raise BadInput(f"cannot import {name!r}: {words(error)}; name a .py file or an installed module") from None


def _import_file(name: str) -> ModuleType:
    path = Path(name).resolve()
    if not path.is_file():
        raise BadInput(f"no file {name!r}; name a .py file or an installed module")
    alias = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if alias in sys.modules:
        return sys.modules[alias]
    spec = importlib.util.spec_from_file_location(alias, path)
    assert spec is not None
    assert spec.loader is not None
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # a file may import its neighbours, as a script may
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module
    plain = path.stem.isidentifier() and path.stem not in sys.modules
    found = importlib.util.find_spec(path.stem) if plain else None
    if found is not None and found.origin == str(path):
        sys.modules[path.stem] = module  # `import my_file`, and an optimizer named my_file.MyOptimizer, are this module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        for name_in in [key for key, there in sys.modules.items() if there is module]:
            del sys.modules[name_in]
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{name} cannot be loaded: {words(error)}") from error
    return module
