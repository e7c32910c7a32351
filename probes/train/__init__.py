"""From labelled conversations and a model folder to a bundle.

    data       read and validate the JSONL
    encode     conversations to token ids, and which tokens each probe reads
    model      load a Hugging Face model; record, ablate and add on its residual stream
    collect    activations of every layer, on disk, resumable
    direction  difference of means, chosen by what it does to the model
    fit        logistic probes; layer, fold and training tokens chosen on validation data
    calibrate  thresholds, Platt scaling, reference histogram
    evaluate   the test split, once
    run        what is shared by the stages, checked before the work begins
    stages     the direction and the probes, each kept on disk
    pipeline   all of it in order

Arrows point down: a later page may import an earlier one.
"""
