"""`dynamarks mark`."""

from __future__ import annotations

from pathlib import Path

import click

from dynamarks_tf.cli.output import json_option, load_tensorflow, print_json, say
from dynamarks_tf.cli.own_model import load_own_model, own_model_options
from dynamarks_tf.errors import ExportError
from dynamarks_tf.foreign_text import quoted
from dynamarks_tf.watermark.params import DEFAULT_BUDGET, DEFAULT_TIE_MARGIN


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="Key file of the owner.")
@click.option("--client", help="Mark with the key of this client or segment, derived from --key. See `trace --keys`.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write.  [default: MODEL-marked.keras]")
@click.option("--budget", default=DEFAULT_BUDGET, show_default=True, help="Largest total variation, in (0, 0.5].")
@click.option(
    "--tie-margin",
    default=DEFAULT_TIE_MARGIN,
    show_default=True,
    help="Let the key decide ties: largest |log ratio| of the two best classes, in [0, 2]. 0: top-1 never changes.",
)
@click.option("--activation", type=click.Choice(["softmax", "sigmoid"]), help="Of the outputs.  [default: found out]")
@click.option(
    "--from-logits/--from-probabilities", default=None, help="Whether the model ends in logits.  [default: found out]"
)
@click.option("--output", help="Name of the output to mark, of a model with several.")
@own_model_options
@click.option("--force", is_flag=True, help="Replace an existing output file.")
@json_option
def mark(
    model: Path,
    key: Path,
    client: str | None,
    out: Path | None,
    budget: float,
    tie_margin: float,
    activation: str | None,
    from_logits: bool | None,
    output: str | None,
    modules: tuple[str, ...],
    unsafe_load: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Append the mark to a trained Keras MODEL file.

    \b
      dynamarks mark model.keras --key acme.key --out marked.keras
      dynamarks mark model.keras --key acme.key --budget 0.02
      dynamarks mark model.keras --key acme.key --tie-margin 0
      dynamarks mark model.keras --key acme.key --client client-7 \\
          --out client-7.keras
    """
    if out is None:
        out = model.with_name(f"{model.stem}-marked.keras")
    if out.suffix != ".keras":
        raise ExportError(f"--out must be a .keras file. Received: {out}")
    if out.exists() and not force:
        raise ExportError(f"{out} exists. Name another file, or give --force.")

    load_tensorflow()
    from dynamarks_tf._support import files
    from dynamarks_tf.keys.passphrase_input import load_key
    from dynamarks_tf.watermark import marking

    loaded_key = load_key(key)
    if client is not None:
        loaded_key = loaded_key.for_client(client)
    marked = marking.mark(
        load_own_model(model, modules, unsafe_load, compiled=True),
        loaded_key,
        budget,
        activation=activation,
        from_logits=from_logits,
        output=output,
        tie_margin=tie_margin,
    )
    with files.new_file(out) as temporary:
        marked.save(temporary)
    if as_json:
        from dynamarks_tf.cli.inspect import describe_model

        print_json({"path": out, **describe_model(marked)})
        return
    whose = "" if client is None else f" of the client {quoted(client)}"
    say(f"marked {model} -> {out} with key {loaded_key.key_id}{whose}, budget {budget}")
