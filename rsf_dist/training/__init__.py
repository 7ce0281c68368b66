"""Fine-tuning with Ray Train, which knows nothing of M, p and q."""

from rsf_dist.runtime.home import require_home

require_home()  # the import of ray.train, in the modules beside this one, fails without one
