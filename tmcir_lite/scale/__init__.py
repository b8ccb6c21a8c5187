"""Beyond the lite run: a rehearsal of a paper-scale one on stand-ins, and search in any folder of pictures."""
