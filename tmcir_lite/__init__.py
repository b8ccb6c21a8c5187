"""tmcir-lite: composed image retrieval with token merging (TMCIR), at two scales by one code path."""

__version__ = "0.1.0"
