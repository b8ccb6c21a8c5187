"""The worlds that an editor can be trained on, a module each; all have the same names for the same things.

- `PROFILE`: the profile whose sampling the card tells of; `DATA`: what the card says was drawn;
- `CONTEXT`: token ids of a text; `CHANNELS`: of the UNet's two levels; `AUTOENCODER`: a published one to take over, or
  None;
- `corpus()`: the texts that the tokenizer learns from, or None for its own;
- `sample_edit(rng)`: an `EditExample` to train on;
- `without_text(labels)`: what is left of an example's labels where its text is dropped;
- `READER`: the class of what reads the labels from what text encoder and UNet make, a crutch that is thrown away after
  training;
- `held_out(count, seed)`: (reference, perfect edit, text) to measure on.
"""
