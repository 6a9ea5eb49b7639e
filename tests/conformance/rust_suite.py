"""The Rust crate etcd-client against a three-node cluster.

The cases are a Rust program (rust/); program.py does what it asks for.
"""

import os
import subprocess
from pathlib import Path

from program import run

RUST = Path(__file__).resolve().parent / "rust"


if __name__ == "__main__":
    subprocess.run(["cargo", "build", "--quiet"], cwd=RUST, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", RUST / "target"))
    run(__doc__, [target / "debug" / "etcd-client-suite"])
