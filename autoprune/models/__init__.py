"""Floor 1: backbones of vision-language models: their shape, loading, surgery and saving.

- ``families``: the table of supported text backbones and of the models around them.
- ``shape``: exact parameter counts of any shape, without weights.
- ``files``, ``loading``: what is wrong with a checkpoint, before and while it is loaded.
- ``backbone``, ``vision``: views of a loaded model: its projections; its two halves.
- ``reading``: the one place that decides how a model reads rows, and does it.
- ``arrays``, ``layers``: building a model of per-layer shapes from shared arrays.
- ``precision``, ``quantise``: int8 and int4 weights, as a last stage.
- ``checkpoint``, ``proof``, ``prove``: saving a model that loads anywhere, proved.
- ``output``: directories that appear whole or not at all.
- ``convert``: checkpoints in their authors' own layouts, turned into transformers' classes.
"""
