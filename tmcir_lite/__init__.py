"""tmcir-lite: composed image retrieval with token merging (TMCIR), at two scales by one code path."""

import warnings

# transformers asks for widgets in a notebook; progress is told in lines here, and these would stand in every report
warnings.filterwarnings("ignore", message="IProgress not found")

__version__ = "0.1.0"
