"""The command `report`: one page for a person."""

from __future__ import annotations

from pathlib import Path

import click

PLACE = click.Path(path_type=Path)


@click.command()
@click.argument("path", type=PLACE, metavar="RUN_OR_SWEEP_OR_PROBE")
@click.option(
    "--output", type=PLACE, help="The HTML file. Default: report.html in the folder; report-with-samples.html with samples."
)
@click.option("--figures", type=PLACE, metavar="DIR", help="Also every chart for papers, as SVG and PNG.")
@click.option(
    "--with-samples", is_flag=True, help="Embed prompts and answers, blurred until asked for; the file is yours alone to read."
)
def report(path: Path, output: Path | None, figures: Path | None, with_samples: bool) -> None:
    """Write one self-contained HTML page about a finished run or probe, or what there is of a sweep.

    It opens offline and asks no network. Without --with-samples it holds no prompt and no generated text, and can be shared.
    """
    from brittle_eval.reporting import report as pages

    files = pages.report(pages.Asked(path, output, figures, with_samples))
    click.echo(f"report: {files[0]}")
    if with_samples:
        click.echo(
            "It holds prompts and answers, some of them harmful: do not publish it, and delete it when you are done.", err=True
        )
    if files[1:]:
        click.echo(f"figures: {len(files) - 1} files in {figures}")
