"""Makes the lite weights in `data/models`: the modules `clip`, `scene_clip` and `editor`, each a command of its own."""
