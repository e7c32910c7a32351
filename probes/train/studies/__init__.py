"""Further experiments on a bundle's probes; each gives a :class:`probes.cards.Study` for the bundle's card.

    material      one concept's examples, encoded, and their activations on any model; batches
    served        a bundle's probe
    autoencoder   a TopK sparse autoencoder; dictionary: how it is trained, and how well it reconstructs
    features      what its features say about each example; contest: figures and tables
    sae           do they beat the plain probe?
    trace         one forward pass with everything that writes to the residual stream
    explained     a probe's statistic as a function that can be differentiated
    writes        the statistic as an exact sum over embedding, attention heads and MLPs
    gradients     gradient x activation, and gradient x input embedding
    deletion      is the attribution faithful?
    account       the attributions of many examples, as tables; attribution: all of it
    halves        a deployed and an audit probe on disjoint template families
    evasion       both before and after a fine-tune; audit: the studies
    into          studies into the card of a bundle

Arrows point down: a later page may import an earlier one.
"""
