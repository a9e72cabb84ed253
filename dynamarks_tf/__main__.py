"""`python -m dynamarks_tf` is `dynamarks`."""

from dynamarks_tf.cli.main import run

run()
