"""The programs of the Go module `go/`, built: suites of ours, and etcd's own `etcd` and `etcdctl`."""

import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

GO = Path(__file__).resolve().parent / "go"


def build(name, folder):
    """Builds one program into a folder and returns where it is."""
    program = Path(folder) / name
    subprocess.run(["go", "build", "-o", program, f"./{name}"], cwd=GO, check=True)
    return program


@contextmanager
def built(*names):
    """A folder that holds these programs, for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="quorate-conformance-go-") as folder:
        for name in names:
            build(name, folder)
        yield folder
