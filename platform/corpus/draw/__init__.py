"""Procedural look-alikes of biomedical figures: each is a pure function of a generator, attributes and a size.

rng, {"organ": "liver", "finding": "fibrosis"}, (320, 240) -> an RGB image in which these can be seen
"""
