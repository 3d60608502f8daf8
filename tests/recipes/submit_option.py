"""`mpifarm submit --quiet` says nothing of what it did."""

NEW: dict[str, str] = {}

EDITS = [
    (
        "mpifarm/cli/submitting.py",
        '@click.option(\n    "--after", multiple=True',
        '@click.option("--quiet", is_flag=True, help="Say nothing when it is done.")\n'
        '@click.option(\n    "--after", multiple=True',
    ),
    (
        "mpifarm/commands/submit.py",
        "    as_json: bool = False\n",
        "    as_json: bool = False\n    quiet: bool = False\n",
    ),
    (
        "mpifarm/commands/submit.py",
        "    _say(request, done, time.monotonic() - started)\n",
        "    if not request.quiet:\n        _say(request, done, time.monotonic() - started)\n",
    ),
]

CALLED: dict[str, str] = {}
FILES_MAX = 3
TESTS = ["tests/test_architecture.py", "tests/intake/test_policy.py"]
SAYS = (["submit", "--help"], "--quiet")
