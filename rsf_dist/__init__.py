"""Rejection sampling fine-tuning on Ray: draw x ~ q, keep it with probability p(x) / (M q(x)), fine-tune on the kept.

The stub `__init__.pyi` lists the public names. A name is loaded when it is first used, so that the command's help does
not wait for torch and Ray.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
