"""Directions: differences of means, chosen and judged by what they do to the model.

    means       differences of means, in fp64, over positions and layers
    passes      what a steered model says next, how likely it finds a text, what it writes
    figures     means and perplexities with intervals
    behaviour   what a direction should control, as a score: first tokens, or one answer rather than another
    contrast    pairs of answers under two system prompts: persona, honesty
    select      every candidate's effect on validation prompts, and the choice among them
    ace         affine concept editing, and the clamp by which the engine serves it
    cast        conditional steering: the threshold of a probe's score, searched and judged causally
    effects     what a direction does to its behaviour and to harmless text
    off_target  what it does to other concepts' probes
    written     what the steered model writes, and the scope in which adding works
    controls    random directions in its place, and its effect by strength
    card        all of these as a :class:`probes.cards.DirectionCard`
    find        from labelled examples to a direction with its card

Arrows point down: a later page may import an earlier one.
"""
