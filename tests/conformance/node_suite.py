"""The npm package etcd3 against a three-node cluster.

The cases are a JavaScript program (node/); program.py does what it asks for.
"""

import subprocess
from pathlib import Path

from program import run

NODE = Path(__file__).resolve().parent / "node"

if __name__ == "__main__":
    # Its dependencies bring no programs of their own; nothing that they want to run is run.
    subprocess.run(["npm", "ci", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"],
                   cwd=NODE, check=True)
    run(__doc__, ["node", str(NODE / "main.js")])
