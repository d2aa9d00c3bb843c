"""Makes `certserve/v1/` from `protos/`: the only way to do so.

    python protos/generate.py [--out DIRECTORY]

The generator runs in an environment of its own, because the pinned one brings the protobuf that its output is the
lower bound for: grpcio-tools 1.74.0 writes protobuf 6.31.1 code, which protobuf 6.31.1 and all of 7 load.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

GENERATOR = ("grpcio-tools==1.74.0", "googleapis-common-protos==1.70.0", "protobuf==6.31.1", "setuptools<81")
PROTOS = Path(__file__).resolve().parent
SOURCES = ("certserve/v1/certserve.proto",)


def generate(out: Path, environment: Path) -> None:
    """Write the modules and stubs of every source under `out`, with a generator installed at `environment`."""
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *GENERATOR], check=True)
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    (packages,) = environment.glob("lib/python3*/site-packages")  # googleapis-common-protos lies there
    command = [str(python), "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{packages}", *outputs, *SOURCES]
    subprocess.run(command, check=True)


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PROTOS.parent, help="where certserve/v1/ lies")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as environment:
        generate(out, Path(environment) / "generator")
    (out / "certserve" / "v1" / "__init__.py").write_text(
        '"""Generated from `protos/` by `protos/generate.py`; never edited."""\n', encoding="utf-8"
    )


if __name__ == "__main__":
    main()
