"""`whaleflux crds`: write the CRDs."""

from pathlib import Path
from typing import Annotated

import typer

from controller.api.crd import crd_files


def crds(
    folder: Annotated[Path | None, typer.Argument(help="Write files here, not to stdout.")] = None,
) -> None:
    """Print the CustomResourceDefinitions, or write them into a folder."""
    files = crd_files()
    if folder is None:
        typer.echo("---\n".join(files.values()), nl=False)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
