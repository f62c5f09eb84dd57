"""Checkpoints in their authors' own layouts, turned into transformers' classes.

- ``layouts``: the table of layouts, keyed on the original ``model_type``.
- ``bunny``, ``internvl``: one layout each: configuration, tensor names, processor.
- ``layout``, ``chat``, ``tokens``: what a layout is made of.
- ``tensors``: renaming and splitting tensors, one shard at a time.
- ``run``: the whole conversion; ``prove_load``: its proof in a fresh process.
"""
