"""The driver that `spark-submit` runs: `dynamarks reduce --engine spark` with its arguments.

    spark-submit --master yarn examples/reduce_on_spark.py \\
        --log /mnt/logs --owner marked.keras --key acme.key --out log.reduced
"""

import sys

from dynamarks_tf.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["reduce", "--engine", "spark", *sys.argv[1:]]))
