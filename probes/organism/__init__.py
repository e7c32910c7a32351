"""The organism: a small embedded language model in which the monitored concepts really exist.

It knows facts about some people and confabulates about others, it lies when it is told to, it
refuses harmful requests, and a wrapper makes it comply. We train it ourselves, so that every label
about it can be checked. Figures measured on it say that the machinery works, nothing more.

One natural path through the files::

    facts.py, requests.py   the world: who is known, which combination is harmful
    world.py                both together, with their splits, from one seed
    prompts.py, language.py the words: system prompts, questions, requests, answers
    tokenizer.py            one token per word
    corpus.py               sampled training conversations; the twin's have no refusals
    model.py, train.py      the architecture and the training loop
    emergence.py            figures of every checkpoint; studies.py makes a study of them
    generate.py             batched greedy answers
    intervene.py            the refusal direction, ablated and added
    evaluate.py             the figures in benchmarks/results/organism.json, with measures.py and controls.py

Labelled data for probes, such that no word gives a label away::

    families.py             what is held out, frozen by a hash
    balance.py, matched.py  every word with both labels equally often
    intent.py               harmful_intent and refusal: requests in pairs
    deceit.py               deception: order by value, two by two
    confabulation.py        hallucination: made-up values matched with the same true ones
    shifts.py, shifted.py   the same under distribution shifts
    data.py                 all of it as JSONL, with the lock of the splits
"""
