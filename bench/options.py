"""What the command lines share."""

from collections.abc import Iterable

import typer


def known(option: str, names: list[str] | None, choices: Iterable[str]) -> list[str]:
    """The names given to ``--option``, or none.

    Raises:
        typer.BadParameter: one that is not among the choices.
    """
    for name in names or ():
        if name not in choices:
            raise typer.BadParameter(f"expected one of {', '.join(choices)}, got {name!r}", param_hint=f"--{option}")
    return names or []
