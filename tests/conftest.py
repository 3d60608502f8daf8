"""What every test can ask for. The fixtures live beside this file, one module per outside world."""

pytest_plugins = ["tests.fix_pg", "tests.fix_mpi", "tests.fix_farm"]
