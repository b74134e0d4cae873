"""`wardround site …`: what a hospital's operator types."""

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="One hospital's site.")


@app.callback()
def _site() -> None:
    """Keep `wardround site` a group, however few commands it has."""
