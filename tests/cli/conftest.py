"""The command line as tests call it."""

import pytest

from dynamarks_tf.cli.main import main


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run
