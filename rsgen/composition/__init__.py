"""CF-Comp (reconstruction): training images composed of objects of two real ones.

EarthSynth (arXiv 2505.12108) names a counterfactual composition (CF-Comp) and a selection of
samples on three dimensions, and draws them in a figure; neither its code nor its rules are
published. Taken from the figure: pixels are copied by the mask, at the same coordinates, in
both directions between two images of a batch, and the composites join the real images. What the
three dimensions measure, every bound, rate and weight here is rsgen's own choice.
"""
