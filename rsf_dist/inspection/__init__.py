"""A look at image sets before anything is trained on them: what is there, and what may be wrong with it.

`findings` holds the rules, which `rsf inspect` and every run apply. The other modules serve `rsf inspect` alone.
"""
