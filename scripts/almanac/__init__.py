"""The parts of `scripts/build_almanac.py`: a reader a source, and the writer of the file."""
