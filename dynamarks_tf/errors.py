"""Errors of the package. Each message says what was given, what is accepted and what to do."""

from __future__ import annotations


class DynaMarksError(Exception):
    """Base of all errors raised on purpose by this package; the command line turns it into exit code 2."""


class ArgumentError(DynaMarksError, ValueError):
    """An argument is outside what is accepted, or two arguments contradict each other."""


class ModelError(DynaMarksError, ValueError):
    """A Keras model cannot be marked, stripped, exported or used as the owner model."""


class KeyFileError(DynaMarksError):
    """A key file cannot be read, is damaged, or must not be overwritten."""


class CommitmentError(DynaMarksError):
    """A published commitment cannot be read, was altered, or belongs to another key."""


class FormatError(DynaMarksError):
    """A file was written in a format, or a version of it, that this release does not know."""


class ExportError(DynaMarksError):
    """A model cannot be written to the place that was asked for."""


class SuspectError(DynaMarksError):
    """A suspect cannot be reached, or its answers cannot be used as evidence."""


class DatasetError(DynaMarksError):
    """Images or recorded queries cannot be found or read."""


class LogError(DynaMarksError):
    """A request log cannot be written or read; the message names the file and the place in it."""


class TranscriptError(DynaMarksError):
    """The recording of a test is damaged, or belongs to another test."""


class BundleError(DynaMarksError):
    """An evidence bundle cannot be read, was altered, or does not bear out what it says."""


class ServingError(DynaMarksError):
    """The local server cannot load a model or open its ports."""
