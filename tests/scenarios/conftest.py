"""Models that several scenarios share."""

import json
from pathlib import Path

import pytest

BLOCKS = 16


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network of ResNet-50's size as equal blocks: 8.2 GFLOP a row, 25.6 million weights."""
    graph = {
        "name": "images",
        "layers": [
            {
                "name": f"block{i}",
                "forward_flops_per_row": 8.2e9 / BLOCKS,
                "parameters": 25_600_000 // BLOCKS,
                "activation_bytes_per_row": 4_000_000,
            }
            for i in range(BLOCKS)
        ],
        "edges": [
            {"from": f"block{i}", "to": f"block{i + 1}", "elements_per_row": 200_704}
            for i in range(BLOCKS - 1)
        ],
    }
    path: Path = tmp_path_factory.mktemp("models") / "images.json"
    path.write_text(json.dumps(graph))
    return str(path)
