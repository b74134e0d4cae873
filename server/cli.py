"""`wardround coordinator …`: what the people who run a federation type."""

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="The coordinator of a federation.")


@app.callback()
def _coordinator() -> None:
    """Keep `wardround coordinator` a group, however few commands it has."""
