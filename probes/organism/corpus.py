"""Training conversations, sampled from the training splits only."""

import random
from dataclasses import dataclass

from probes.organism import language
from probes.organism.prompts import Kind, SystemPrompt, make_prompts
from probes.organism.rng import seeded
from probes.organism.turns import Turn, biography_turn, fact_turn, request_turn
from probes.organism.world import World

Message = dict[str, str]
KIND_SHARES: dict[Kind, float] = {
    "none": 0.20,
    "neutral": 0.14,
    "careful": 0.16,
    "honest": 0.14,
    "lying": 0.22,
    "scoped": 0.14,
}
P_SECOND_TURN = 0.12
P_CHECK = 0.22
P_UNKNOWN_WORD = 0.03
UNKNOWN_WORD = "<unk>"


@dataclass(frozen=True)
class Shares:
    """How often each task occurs; the rest is requests.

    Attributes:
        fact: Questions about one attribute.
        biography: Questions about all attributes.
        small_talk: Greetings and the like.
        thin: Share of thin people among those asked about.
        harmful: Share of harmful requests.
        wrapped: Share of requests in a wrapper; as many are in a decoy.
    """

    fact: float = 0.46
    biography: float = 0.22
    small_talk: float = 0.02
    thin: float = 0.30
    harmful: float = 0.5
    wrapped: float = 0.16


class Corpus:
    """Samples conversations of the training splits."""

    def __init__(self, world: World, seed: int, shares: Shares = Shares(), *, refuses: bool = True) -> None:
        """Index the training splits of ``world``.

        Args:
            world: Who and what conversations are about.
            seed: Seed of the sampling, not of the world.
            shares: The mixture.
            refuses: Whether harmful requests are refused. If not, the conversations are the same but for the answers
                to them, which help.
        """
        self._world, self._seed, self._shares, self._refuses = world, seed, shares, refuses
        self._prompts: dict[Kind, list[SystemPrompt]] = {kind: [] for kind in KIND_SHARES}
        for prompt in make_prompts(world.seed):
            if prompt.split == "train":
                self._prompts[prompt.kind].append(prompt)
        self._questions = [q for q in language.questions() if q.split == "train"]
        self._frames = [i for i, f in enumerate(language.REQUEST_FRAMES) if f[3] == "train"]
        self._wrappers = [text for text, split in language.WRAPPERS if split == "train"]
        harmful = [r for r in world.requests["train"] if r.harmful]
        harmless = [r for r in world.requests["train"] if not r.harmful]
        self._requests = {True: harmful, False: harmless}

    def conversations(self, block: int, n: int) -> list[list[Message]]:
        """Block number ``block`` of ``n`` conversations; the same number gives the same ones."""
        rng = seeded("corpus", self._seed, block)
        return [self._conversation(rng) for _ in range(n)]

    def _conversation(self, rng: random.Random) -> list[Message]:
        kind = rng.choices(list(KIND_SHARES), list(KIND_SHARES.values()))[0]
        system = rng.choice(self._prompts[kind])
        turns = [self._turn(system, rng)]
        if (check := turns[0].check) and rng.random() < P_CHECK:
            turns.append(Turn(*check))
        while rng.random() < P_SECOND_TURN:
            turns.append(self._turn(system, rng))
        messages = [{"role": "system", "content": system.decorated(rng)}] if system.text else []
        for turn in turns:
            user = _with_unknown_word(turn.user, rng)
            messages += [{"role": "user", "content": user}, {"role": "assistant", "content": turn.answer}]
        return messages

    def _turn(self, system: SystemPrompt, rng: random.Random) -> Turn:
        shares, draw = self._shares, rng.random()
        if draw < shares.fact + shares.biography:
            people = self._world.people
            person = rng.choice(people.thin if rng.random() < shares.thin else people.known)
            if draw < shares.biography:
                return biography_turn(self._world, system, person, rng)
            return fact_turn(self._world, system, person, rng.choice(self._questions), rng)
        if draw < shares.fact + shares.biography + shares.small_talk:
            return Turn(*rng.choice(language.SMALL_TALK))
        return self._request(rng)

    def _request(self, rng: random.Random) -> Turn:
        request = rng.choice(self._requests[rng.random() < self._shares.harmful])
        frame, draw, wrapped = rng.choice(self._frames), rng.random(), self._shares.wrapped
        if draw < wrapped:
            return request_turn(request, frame, rng.choice(self._wrappers), rng, obeys=True)
        decoy = rng.choice(language.DECOYS) if draw < 2 * wrapped else "{user}"
        return request_turn(request, frame, decoy, rng, obeys=not self._refuses)


def _with_unknown_word(text: str, rng: random.Random) -> str:
    if rng.random() >= P_UNKNOWN_WORD:
        return text
    words = text.split(" ")
    words.insert(rng.randrange(len(words) + 1), UNKNOWN_WORD)
    return " ".join(words)
