"""Floor 1: backbones of vision-language models: their shape, loading, surgery and saving."""
