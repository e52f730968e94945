"""Ways to tell the teacher in the student's tokens that the package does not offer, for the comparison only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from embervlm.distill.branch import Branches
from embervlm.distill.project import Response, ResponseTargets, merge, project_batch
from embervlm.distill.token_map import TokenMap
from embervlm.distill.variants import Anchored, anchored, targets
from embervlm.teachers.outputs import BETAS, NOISE, TeacherOutputs


def chain(responses: Sequence[Response], token_map: TokenMap) -> list[ResponseTargets]:
    """First-token marginals and the realised chain: the branch is not resolved."""
    assert token_map.branches is not None
    branches = Branches(token_map.branches.words, token_map.branches.spell, floor=np.inf)
    return project_batch(responses, replace(token_map, branches=branches))


def marginal(responses: Sequence[Response], token_map: TokenMap) -> list[ResponseTargets]:
    """First-token marginals alone, P(u) = sum of p(w) over e(w)[0] = u; anchored positions."""
    said = anchored(responses, token_map)
    rows = token_map.rows(said.head, np.zeros((1, 1), dtype=bool))
    first = token_map.token(rows, 0)
    ids, mass = merge(first, np.exp(said.logp))
    return targets(said, said.rows, ids, mass, rest(said, first >= 0))


def top4(responses: Sequence[Response], token_map: TokenMap) -> list[ResponseTargets]:
    """Ours, from a cache of 4 words a position: the mass of the others is known, their names are not."""
    return project_batch([(ids, spans, _likeliest(outputs, 4)) for ids, spans, outputs in responses], token_map)


def _likeliest(outputs: TeacherOutputs, count: int) -> TeacherOutputs:
    """They are by falling probability."""
    return replace(outputs, top_ids=outputs.top_ids[:, :count], top_logprobs=outputs.top_logprobs[:, :count])


def bpm(responses: Sequence[Response], token_map: TokenMap) -> list[ResponseTargets]:
    """BPM (arXiv 2607.22334): a word's probability goes to the longest student token that its bytes begin with; what
    is outside the head, or begins with no student token, is the explicit residual. Anchored positions."""
    return _at_roots(anchored(responses, token_map), token_map)


def _at_roots(said: Anchored, token_map: TokenMap) -> list[ResponseTargets]:
    words, inverse = np.unique(said.head, return_inverse=True)
    roots = np.array([longest_prefix(token_map, int(word)) for word in words])[inverse].reshape(said.head.shape)
    ids, mass = merge(roots, np.exp(said.logp))
    return targets(said, said.rows, ids, mass, rest(said, roots >= 0))


def xtoken(responses: Sequence[Response], token_map: TokenMap) -> list[ResponseTargets]:
    """X-Token's sparse projection (arXiv 2605.21699): a word of several pieces is shared among all of them, with
    weights 0.9, 0.09, 0.009 ... normalised (NVIDIA-NeMo/RL, tools/x_token); here from teacher to student."""
    said = anchored(responses, token_map)
    rows = token_map.rows(said.head, np.zeros((1, 1), dtype=bool))
    pieces = np.stack([token_map.token(rows, place) for place in range(4)], axis=2)  # [R, k, 4]
    weights = np.where(pieces >= 0, 0.9 * 0.1 ** np.arange(4), 0.0)
    shares = weights / np.maximum(weights.sum(2, keepdims=True), 1e-12) * np.exp(said.logp)[:, :, None]
    ids, mass = merge(pieces.reshape(len(rows), -1), shares.reshape(len(rows), -1))
    return targets(said, said.rows, ids, mass, rest(said, pieces[:, :, 0] >= 0))


def alm(responses: Sequence[Response], token_map: TokenMap) -> list[ResponseTargets]:
    """What ALM (arXiv 2503.20083) keeps of a chunk: the probability of the text that was said, and nothing of the other
    words. Where one student token is a chunk of its own: {said, anything else}."""
    found = []
    for (ids, _, _), target in zip(responses, project_batch(responses, token_map), strict=True):
        said = target.ids == np.asarray(ids)[:, None]
        logp = np.where(said, target.logprobs, -np.inf).max(1, keepdims=True)
        some = np.isfinite(logp[:, 0])
        rest = np.log1p(-np.minimum(np.exp(logp.astype(np.float64)), 1 - 1e-9))
        found.append(
            ResponseTargets(
                np.where(some, target.kinds, 0).astype(np.int8),
                np.where(some, ids, -1)[:, None].astype(np.int32),
                logp,
                np.repeat(rest, target.log_tail.shape[1], 1),
            )
        )
    return found


def completions(head: np.ndarray, token_map: TokenMap) -> Callable[[int], int]:
    """ESCD's completion sets (arXiv 2609.34738) over BPM's roots: an event is a root and every student token that goes
    on from a word of that root; a token that goes on from several words belongs to the longest. -> the root of a token.
    """
    assert token_map.branches is not None
    words = token_map.branches.words
    alphabet = token_map.branches.spell.alphabet
    roots = {words[w]: longest_prefix(token_map, w) for w in head.tolist() if 0 <= w < len(words) and words[w]}
    own = set(roots.values())

    def owner(token: int) -> int:
        spelled = alphabet[token] or b""
        longest = max((size for size in range(1, len(spelled)) if spelled[:size] in roots), default=0)
        return token if token in own or not longest else roots[spelled[:longest]]

    return owner


def escd(responses: Sequence[Response], token_map: TokenMap) -> list[ResponseTargets]:
    """ESCD (arXiv 2609.34738): BPM's probabilities, each of a set of `completions` instead of its root alone."""
    said, longer = anchored(responses, token_map), _longer(token_map)
    heads = dict(zip(said.rows.tolist(), said.head, strict=True))
    found, start = [], 0
    for target in _at_roots(said, token_map):
        positions = enumerate(target.ids.tolist(), start)
        found.append(_as_sets(target, [_members(ids, heads.get(at), longer, token_map) for at, ids in positions]))
        start += len(target.kinds)
    return found


def _longer(token_map: TokenMap) -> dict[bytes, list[int]]:
    """A teacher's word -> the student's tokens that go on from it."""
    assert token_map.branches is not None
    words, found = set(token_map.branches.words) - {b""}, defaultdict(list)
    for token, spelled in enumerate(token_map.branches.spell.alphabet):
        begun = spelled or b""
        for word in words.intersection(begun[:size] for size in range(1, len(begun))):
            found[word].append(token)
    return found


def _members(
    roots: Sequence[int], head: np.ndarray | None, longer: Mapping[bytes, Sequence[int]], token_map: TokenMap
) -> dict[int, int]:
    """Of one position: token -> the place of its event, the roots first."""
    place = {root: at for at, root in enumerate(roots) if root >= 0}
    if head is None or not place:
        return place
    assert token_map.branches is not None
    words, owner = token_map.branches.words, completions(head, token_map)
    going_on = {token for w in head.tolist() if 0 <= w < len(words) for token in longer.get(words[w], ())}
    events = {token: place.get(owner(token)) for token in sorted(going_on - set(place))}
    return place | {token: event for token, event in events.items() if event is not None}


def _as_sets(target: ResponseTargets, members: Sequence[dict[int, int]]) -> ResponseTargets:
    shape = (len(members), max(map(len, members), default=0))
    ids, events = np.full(shape, -1, dtype=np.int32), np.zeros(shape, dtype=np.int32)
    logprobs = np.full(shape, -np.inf, dtype=np.float32)
    for row, place in enumerate(members):
        ids[row, : len(place)], events[row, : len(place)] = list(place), list(place.values())
    width = min(shape[1], target.logprobs.shape[1])
    logprobs[:, :width] = target.logprobs[:, :width]
    return replace(target, ids=ids, logprobs=logprobs, events=events)


def rest(said: Anchored, named: np.ndarray) -> np.ndarray:
    """[R, G]: the mass at each T of what is not `named`, bool [R, k]."""
    left = said.whole - (np.exp(said.logp[:, :, None] * BETAS) * named[:, :, None]).sum(1)
    return np.where(left > NOISE * said.whole, left, 0.0)


def longest_prefix(token_map: TokenMap, token_id: int) -> int:
    """The longest student token that begins the bytes of a teacher token; -1: none."""
    assert token_map.branches is not None
    word = token_map.branches.words[token_id] if token_id < len(token_map.sizes) else b""
    if not word:
        return int(token_map.token(token_map.rows(np.asarray(token_id), np.asarray(False)), 0))
    return token_map.branches.spell.longest_prefix(word)
