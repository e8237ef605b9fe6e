"""Backups, and the way back."""

from __future__ import annotations

from typing import Annotated

import typer

from sundial.cli.application import app


@app.command()
def backup(
    place: Annotated[str, typer.Argument(help="Folder or URL; a folder of SUNDIAL_STORE by default.")] = "",
    keep_runs: Annotated[int, typer.Option(help="How many of each pipeline's newest runs to hold.")] = 20,
    keep: Annotated[int, typer.Option(min=0, help="Afterwards, forget all backups but so many; 0 for none.")] = 0,
    show: Annotated[bool, typer.Option("--list", help="Only list the backups there are.")] = False,
) -> None:
    """Back up all that cannot be made again; the system goes on meanwhile.

    The registry with its models, the prediction log with the scores of shadows, decisions and open questions, the
    newest runs and all that something stands on. What has not changed since the last backup is not sent again.

    Example: sundial backup /mnt/backups/sundial --keep 30
    """
    from sundial.recovery.backup import find_place, forget_backups, list_backups, make_backup
    from sundial.settings import load_settings

    settings = load_settings()
    where = find_place(settings, place)
    if show:
        for item in list_backups(where):
            size = f"{len(item.files):>6,} files  {item.bytes / 1e6:>9,.1f} MB"
            print(f"{item.name}  {size}  of {item.about['artifacts']}")
        return
    made = make_backup(settings, where, keep_runs=keep_runs)
    print(f"{made.name}  {len(made.files):,} files, {made.bytes / 1e6:,.1f} MB, at {where}")
    if made.about["left_out"]:
        print(f"left out      {len(made.about['left_out'])} runs on which nothing stands (--keep-runs {keep_runs})")
    for what, how in made.about["elsewhere"].items():
        print(f"not in it     {what}: {how}")
    if keep:
        gone, files = forget_backups(where, keep)
        print(f"forgotten     {len(gone)} backups, {files:,} files that no other holds")


@app.command()
def restore(
    place: Annotated[str, typer.Argument(help="Where the backup is; a folder of SUNDIAL_STORE by default.")] = "",
    name: Annotated[str, typer.Option(help="Which; the newest by default.")] = "",
) -> None:
    """Put a backup back into artifacts/, of which it overwrites nothing; begun again, it goes on where it was.

    Example: sundial restore /mnt/backups/sundial
    """
    from sundial.recovery.backup import find_place
    from sundial.recovery.restore import describe_restored, restore_backup
    from sundial.settings import load_settings

    settings = load_settings()
    restored = restore_backup(settings, find_place(settings, place), name)
    print(
        f"{restored.backup.name}  {len(restored.backup.files):,} files, {restored.backup.bytes / 1e6:,.1f} MB, checked"
    )
    if restored.moved_from:
        print(f"moved         from {restored.moved_from} to {settings.artifacts}")
    for pipeline, found in describe_restored(settings).items():
        aliases = ", ".join(f"{alias} {version}" for alias, version in sorted(found["aliases"].items())) or "no alias"
        print(
            f"{pipeline:<13} {found['versions']} versions ({aliases}), {found['runs']} runs, "
            f"{found['decisions']} decisions, {found['predictions']} predictions"
        )
    for what, how in restored.backup.about["elsewhere"].items():
        print(f"not in it     {what}: {how}")
