"""An extension of griffe: signatures with the arguments that a class passes on to its base by `**kwargs`."""

from __future__ import annotations

from typing import Any

import griffe


class PassedOn(griffe.Extension):
    """Adds the base's arguments to `__init__(…, **kwargs)`, so that the reference shows all that a class accepts."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Go through the classes of the package, once all of it is read."""
        for module in _modules(pkg):
            for cls in module.classes.values():
                if not cls.is_alias:
                    _complete(cls)


def _modules(module: griffe.Module) -> list[griffe.Module]:
    inner = [found for child in module.modules.values() if not child.is_alias for found in _modules(child)]
    return [module, *inner]


def _complete(cls: griffe.Class) -> list[griffe.Parameter]:
    """The parameters of a class, after its bases' are added to them."""
    own = cls.members.get("__init__")
    bases = [base for base in cls.resolved_bases if isinstance(base, griffe.Class)]
    if not isinstance(own, griffe.Function):
        return _complete(bases[0]) if bases else []
    last = own.parameters[-1]
    if last.kind is griffe.ParameterKind.var_keyword and bases:
        known = {parameter.name for parameter in own.parameters}
        passed = [parameter for parameter in _complete(bases[0]) if parameter.name not in known]
        named = [*list(own.parameters)[:-1], *(_by_name(parameter) for parameter in passed), last]
        own.parameters = griffe.Parameters(*named)
    return [parameter for parameter in own.parameters if parameter.kind in NAMED]


NAMED = (griffe.ParameterKind.positional_or_keyword, griffe.ParameterKind.keyword_only)


def _by_name(parameter: griffe.Parameter) -> griffe.Parameter:
    return griffe.Parameter(
        parameter.name,
        annotation=parameter.annotation,
        kind=griffe.ParameterKind.keyword_only,
        default=parameter.default,
    )
