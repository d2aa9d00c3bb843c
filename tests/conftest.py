"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's threads wait for each other where networks are as small as here


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; `CERTSERVE_SHARED` names another `shared` folder."""
    folder = Path(os.environ.get("CERTSERVE_SHARED", _ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"the shared data is not on this machine ({folder})")
    return folder
