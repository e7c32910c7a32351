"""From labelled conversations and a model folder to a bundle.

    examples     the labelled conversation; lock: its frozen split; data: read and validate the JSONL
    families, splits, duplicates, leaks, freeze    whole families to frozen splits without near-duplicates
    sources      public files to examples; shifts of the test split
    encode       conversations to token ids, and which tokens each probe reads
    model        load a Hugging Face model; record, ablate and add on its residual stream
    collect      activations of chosen layers and positions, on disk, resumable; through transformers or vLLM
    interventions, directions    a difference of means, chosen and judged by what it does to the model
    estimators   scikit-learn estimators of rows and of token sequences
    readings     how token scores may become a decision; statistic: the decision, as the engine makes it
    fit          one configuration: which tokens it learns from, how it is fitted, what it then says
    judging      validation figures, and the order in which probes are preferred
    resample     families held out and drawn again; bench: a concept's task with one layer in memory
    select       layer, reading, estimator and regularisation, chosen in nested parts
    calibrate    thresholds, probabilities, reference histogram
    evaluation   the test split, once
    settings     what a run is asked to do; run: what its stages share, checked before the work begins
    judged       what the evaluation is given; untrained: the same pipeline on re-initialised weights
    stages       the probe of one concept, kept on disk (checkpoint); direction_stages: the directions
    failures     what did not work, read off the cards
    pipeline     all of it in order
    studies      sparse autoencoder, attribution, audit: further experiments on a finished bundle

Arrows point down: a later page may import an earlier one.
"""
