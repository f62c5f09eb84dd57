"""AutoPrune: search-based compression of vision-language models."""

import logging

# torchao 0.18, which transformers imports with the first model, registers enums in a way that
# torch 2.15 warns of on stderr, in every process.
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)

__version__ = "0.1.0"
