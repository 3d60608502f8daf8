"""GFN2-xTB energy of one molecule of the G2 set, as `xtb_energy.py NAME`: a line of numbers, or a plain error.

The demonstration's real program: quantum chemistry by tblite on the geometries that ASE carries. G2 is the test set of
Curtiss, Raghavachari, Redfern and Pople, J. Chem. Phys. 106 (1997) 1063.
"""

import sys

from ase.collections import g2
from ase.units import Bohr
from tblite.exceptions import TBLiteRuntimeError
from tblite.interface import Calculator

ANY = 2
"""Unpaired electrons are tried from the parity of the electron count up to this many more."""


def energy(name: str) -> tuple[float, int]:
    """(total energy in hartree, unpaired electrons) of the lowest spin state found."""
    atoms = g2[name]
    parity = int(atoms.numbers.sum()) % 2
    found = []
    for unpaired in range(parity, parity + ANY + 1, 2):
        calculator = Calculator("GFN2-xTB", atoms.numbers, atoms.positions / Bohr, uhf=unpaired)
        calculator.set("verbosity", 0)
        try:
            found.append((float(calculator.singlepoint().get("energy")), unpaired))
        except TBLiteRuntimeError as error:
            print(f"{name}: {unpaired} unpaired electrons: {error}", file=sys.stderr)
    if not found:
        sys.exit(1)
    return min(found)


def main() -> None:
    name = sys.argv[1]
    if name not in g2.names:
        sys.exit(f"{name}: not a molecule of the G2 set")
    hartree, unpaired = energy(name)
    print(f"{name} atoms={len(g2[name])} unpaired={unpaired} energy_hartree={hartree:.6f}")


if __name__ == "__main__":
    main()
