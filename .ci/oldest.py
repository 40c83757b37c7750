"""Print constraints that hold every runtime dependency of a pyproject.toml at its floor: `aiohttp==3.14.3`."""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
for requirement in project["dependencies"]:
    found = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9.]+)", requirement)
    if found:
        print(f"{found[1]}=={found[2]}")
