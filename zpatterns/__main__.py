"""``python -m zpatterns`` is the ``zpatterns`` command."""

from zpatterns.cli import main

main(prog_name="zpatterns")
