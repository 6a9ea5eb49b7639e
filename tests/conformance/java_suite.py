"""The Java client jetcd against a three-node cluster.

The cases are a Java program (java/); program.py does what it asks for.
"""

import subprocess
from pathlib import Path

from program import run

JAVA = Path(__file__).resolve().parent / "java"
TARGET = JAVA / "target"

if __name__ == "__main__":
    libraries = str(TARGET / "libraries" / "*")
    subprocess.run(["mvn", "--quiet", "--batch-mode", "dependency:copy-dependencies",
                    f"-DoutputDirectory={TARGET / 'libraries'}"], cwd=JAVA, check=True)
    subprocess.run(["javac", "-cp", libraries, "-d", str(TARGET / "classes"), "Suite.java"],
                   cwd=JAVA, check=True)
    run(__doc__, ["java", "-cp", f"{TARGET / 'classes'}:{libraries}", "Suite"])
