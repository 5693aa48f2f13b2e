"""Coverage-guided fuzzing of one Python target: ``python -m fuzz.run TARGET FOLDER [-runs=N ...]``, run in tests/.

Needs atheris (PyPI); further arguments are libFuzzer's. An input that crashes or hangs is left as a file; its name in
place of FOLDER runs it again.
"""

import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["fastsched"]):
    from fuzz import targets


def main() -> None:
    name, folder, *options = sys.argv[1:]
    for seed in targets.seeds(name):
        targets.TARGETS[name](seed)  # what it imports would count as a hang later
    with tempfile.NamedTemporaryFile("w", suffix=".dict") as words:
        words.write("".join(f'"{word.decode()}"\n' for word in targets.dictionary()))
        words.flush()
        limits = ["-timeout=20", "-rss_limit_mb=4096", "-max_len=2000", f"-dict={words.name}"]
        atheris.Setup([sys.argv[0], *limits, *options, folder], targets.TARGETS[name])
        atheris.Fuzz()  # reads the words


if __name__ == "__main__":
    main()
