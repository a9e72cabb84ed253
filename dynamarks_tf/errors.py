"""Errors of the package. Each message states the value given, the values accepted and the remedy."""

from __future__ import annotations

from dynamarks_tf.foreign_text import LONGEST_LINE, shown


class DynaMarksError(Exception):
    """Base of all errors that this package raises on purpose; the command line turns it into exit code 2.

    Messages quote foreign text, such as names in a file or the words of a server. Each is one line, without control
    characters or secrets, however it is printed.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(shown(each, LONGEST_LINE) if isinstance(each, str) else each for each in args))


class ArgumentError(DynaMarksError, ValueError):
    """An argument is outside its accepted values, or two arguments contradict each other."""


class ModelError(DynaMarksError, ValueError):
    """A Keras model cannot be marked, stripped, exported or used as the owner model."""


class KeyFileError(DynaMarksError):
    """A key file cannot be read, is damaged, or must not be overwritten."""


class CommitmentError(DynaMarksError):
    """A published commitment cannot be read, was altered, or belongs to another key."""


class FormatError(DynaMarksError):
    """A file has a format, or a version of a format, that this release does not know."""


class ExportError(DynaMarksError):
    """A model cannot be written to the requested place."""


class SuspectError(DynaMarksError):
    """A suspect cannot be reached, or its answers cannot serve as evidence."""


class DatasetError(DynaMarksError):
    """Images or stored queries are missing or cannot be read."""


class LogError(DynaMarksError):
    """A request log cannot be written or read; the message names the file and the place in it."""


class TranscriptError(DynaMarksError):
    """The transcript of a test is damaged, or belongs to another test."""


class BundleError(DynaMarksError):
    """An evidence bundle cannot be read, was altered, or does not confirm its own statements."""


class ServingError(DynaMarksError):
    """The local server cannot load a model or open its ports."""
