"""The parser of the verbs that Lightning runs. It stands apart because lightning takes seconds to import.

argv = restrict_imports(argv)
LightningCLI(Module, Data, args=argv, parser_class=FitParser, parser_kwargs={"prog": "sciguide", "allow_abbrev": False})
"""

from lightning.pytorch.cli import LightningArgumentParser

from sciguide.cli.parser import OneLine


class FitParser(OneLine, LightningArgumentParser):
    """LightningCLI's parser with one-line errors; call `restrict_imports(argv)` before it parses."""
