"""The contracts that every row of a table keeps, for packages that add their own.

A package that adds an importance criterion, a recovery loss, a sampler or a cost model by entry
point (see ``autoprune.plugins``) runs the same check on it that ours pass::

    from autoprune.testing import check_criterion
    from my_package.importance import mine


    def test_contract():
        check_criterion(mine)

Each raises an ``AssertionError`` that names the promise which is broken.
"""

from autoprune.testing.cost_models import check_cost_model
from autoprune.testing.criteria import check_criterion
from autoprune.testing.losses import check_loss
from autoprune.testing.samplers import check_sampler

__all__ = ["check_cost_model", "check_criterion", "check_loss", "check_sampler"]
