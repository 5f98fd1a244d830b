"""One side of the CPU benchmark as a process: ``python cpu_commands.py MODULE OPTIONS``.

It imports ``MODULE`` from beside it, calls its ``commands(**OPTIONS)`` and then answers commands, one JSON object a
line on stdin and stdout. It imports nothing of fw, so that it runs in the environment of any peer.
"""

from __future__ import annotations

import importlib
import json
import os
import sys


def main() -> None:
    """Answer until stdin ends. What libraries print on stdout goes to stderr."""
    name, options = sys.argv[1:]
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    commands = importlib.import_module(name).commands(**json.loads(options))
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(commands[request.pop("do")](**request)), file=answers, flush=True)


if __name__ == "__main__":
    main()
