"""``python -m monitor.cli`` is ``plumbline``."""

from monitor.cli import main

main()
