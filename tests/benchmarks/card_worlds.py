"""The worst differences that `PLANNER_TEST_DEVICE=cuda python -m tests.runtime.worlds FOLDER` left.

python tests/benchmarks/card_worlds.py FOLDER OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    worst: dict[str, dict[str, float]] = {}
    for path in sorted(Path(sys.argv[1]).glob("*.*.json")):
        name = path.name.split(".")[0]
        found = json.loads(path.read_text())
        if "error" in found:
            print(name, path.name, found["error"][-400:])
            continue
        case = worst.setdefault(name, {})
        for key, value in found.items():
            if isinstance(value, float):
                case[key] = max(value, case.get(key, 0.0))
    Path(sys.argv[2]).write_text(json.dumps(worst, indent=1))
    print(len(worst), "cases")
    for name, case in worst.items():
        print(name, {k: f"{v:.1e}" for k, v in case.items()})


if __name__ == "__main__":
    main()
