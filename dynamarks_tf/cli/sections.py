"""Help of a command with many options: under headings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click


class SectionedCommand(click.Command):
    """A command whose help lists its options in sections.

    Args:
        sections: for each heading, the names of its options, as the function's parameters, separated by blanks. Options
            that none names stand below the last one.
    """

    def __init__(self, *args: Any, sections: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options into the help."""
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        records = {str(option.name): option.get_help_record(ctx) for option in options}
        groups = {heading: [records.pop(name) for name in names.split()] for heading, names in self._sections.items()}
        groups["Other options"] = [*records.values()]
        for heading, group in groups.items():
            with formatter.section(heading):
                formatter.write_dl([record for record in group if record is not None])
