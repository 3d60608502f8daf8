#!/usr/bin/env bash
# The whole path on one machine, on real input: GFN2-xTB energies of the 162 molecules of the G2 set.
# Needs `pip install 'mpifarm[local,demo]'`; run it from anywhere, with that environment's bin first on PATH.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=${1:-mpifarm-demo}
mkdir -p "$work"
cd "$work"

python - "$here/xtb_energy.py" > tasks.txt <<'PYTHON'
import shlex, sys
from ase.collections import g2

print("# one command per line; blank lines and comments do not count")
for name in g2.names:
    print("python", shlex.quote(sys.argv[1]), name)
PYTHON

mpifarm submit tasks.txt
mpifarm run --local 3
mpifarm report last
mpifarm report last --tasks 1-5
