"""The evaluation card of a probe: the test split, looked at once, after everything is chosen.

    inputs      what has to be known before anything is measured
    ranking     AUROC, average precision and TPR at FPR <= alpha, for many weightings of the examples at once
    intervals   bootstrap over families or examples, exact binomial intervals
    operating   rates at the served thresholds, at the test split's own rate, under other conditions
    curves      ROC curve, histograms, reliability
    groups      by length, by source, worst families
    detection   response tokens until the trip
    baselines   what words and length alone can tell
    controls    shuffled labels, random directions, an untrained model
    shifts      other distributions at the unchanged threshold
    cascade     deferring the uncertain ones to a costlier judge
    heat        conversations token by token
    card        all of it together

An unscored example (NaN) is counted, never trips, and ranks below every scored one.
"""
