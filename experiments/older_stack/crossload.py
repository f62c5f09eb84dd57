"""A checkpoint saved by one release of transformers, loaded by another.

python crossload.py save DIR     # needs AutoPrune; its tests' tiny model, cut unevenly
python crossload.py check DIR    # needs torch and transformers only
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import transformers


def save(directory: Path) -> None:
    """Save a pruned model with dropped sublayers, and what it says."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    from support.models import tiny_inputs, tiny_model, tiny_processor

    from autoprune.models.arrays import state_arrays
    from autoprune.models.checkpoint import save_checkpoint
    from autoprune.models.shape import spec_of
    from autoprune.pruning.plan import LayerPlan, PruningPlan
    from autoprune.pruning.surgery import prune

    dense = tiny_model()
    spec = spec_of(dense)
    layers = (
        LayerPlan(0, (0, 1), (0, 5, 7)),
        LayerPlan(1, (), tuple(range(24))),
        LayerPlan(3, (0, 1, 2, 3), ()),
    )
    plan = PruningPlan("llama", spec.identity, 4, spec.q_per_group, layers)
    model = prune(dense.config, state_arrays(dense), plan, spec=spec)
    save_checkpoint(model, tiny_processor(), directory)
    inputs = tiny_inputs()
    with torch.no_grad():
        logits = model(**inputs).logits
    torch.save({"inputs": inputs, "logits": logits}, directory.with_suffix(".pt"))


def check(directory: Path) -> None:
    """Load the model of ``save`` and print how far its logits are off."""
    model, info = transformers.AutoModelForImageTextToText.from_pretrained(
        directory, trust_remote_code=True, output_loading_info=True
    )
    transformers.AutoProcessor.from_pretrained(directory, trust_remote_code=True)
    held = torch.load(directory.with_suffix(".pt"))
    with torch.no_grad():
        difference = (model.eval()(**held["inputs"]).logits - held["logits"]).abs().max()
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}: largest difference "
        f"{difference.item():.1e} of {held['logits'].abs().max().item():.2f}; "
        + ", ".join(f"{len(info[kind])} {kind.removesuffix('_keys')}" for kind in kinds)
    )


if __name__ == "__main__":
    {"save": save, "check": check}[sys.argv[1]](Path(sys.argv[2]).absolute())
